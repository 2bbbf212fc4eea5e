"""Reads an ONNX file: bytes to a checked message, and a message to a graph with its weights."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.prescan import prescan

MAX_BYTES = 8 * 2**30


def read_proto(source: Path | bytes, bundle: Path | None = None) -> onnx.ModelProto:
    """Reads and checks an ONNX message; raises `InvalidInput` if the bytes are no valid model.

    Without `bundle`, the folder of external data, tensors outside the file are invalid.
    """
    content = source if isinstance(source, bytes) else _read(source)
    proto = _parse(content)
    _forget_negative_sizes(proto)
    prescan(proto, bundled=bundle is not None)
    _check(proto, content, bundle)
    return proto


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError:
        if content[:1] == b"\x08":
            raise InvalidInput(
                "truncated-model",
                f"The model file ends early: its {len(content):,} bytes stop inside a field.",
                "Upload it again, and compare its SHA-256 with the original's.",
            ) from None
        proto = onnx.ModelProto()
    if not proto.HasField("graph") or not proto.ir_version:
        raise InvalidInput(
            "not-an-onnx-file",
            "This is not an ONNX model.",
            "Export the model with torch.onnx.export, tf2onnx or skl2onnx, and give the .onnx file.",
        )
    return proto


def _forget_negative_sizes(proto: onnx.ModelProto) -> None:
    """Makes dimensions of size -1 unknown, in place: Paddle's exporter writes any size like that."""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < 0:
                size.ClearField("dim_value")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InvalidInput("no-such-file", f"There is no file '{path}'.", "Give the path of an .onnx file.")
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            "model-too-large",
            f"The model file has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read.",
            "Store the weights as float32 or float16, without training state.",
        )
    return path.read_bytes()


def _check(proto: onnx.ModelProto, content: bytes, bundle: Path | None) -> None:
    for opset in proto.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise InvalidInput(
                "opset-too-new",
                f"The model uses ai.onnx opset {opset.version}; this version reads up to {newest}.",
                f"Export it with opset_version={newest} or lower.",
            )
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        return  # the checker looks for data beside a path; shapes are checked when the data is attached
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise invalid_model(error) from error


def read_ir(proto: onnx.ModelProto) -> ir.Model:
    """Converts a message into a graph; raises `InvalidInput` for a message that the library cannot convert."""
    try:
        return ir.from_proto(proto)
    except Exception as error:  # a malformed message makes the library raise almost anything
        raise invalid_model(error.__cause__ or error) from error


def read_graph(proto: onnx.ModelProto, bundle: Path | None) -> ir.Model:
    """Converts a message into a graph with its weights in memory, external data from `bundle` included.

    Raises `InvalidInput` for external data outside the bundle, and for weights that are NaN or do not fill their shape.
    """
    model = read_ir(proto)
    _attach_external_data(model, bundle)
    own_weights(model)
    return model


def _attach_external_data(model: ir.Model, bundle: Path | None) -> None:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            assert bundle is not None  # the prescan refuses external data without one
            if not _holds(bundle, tensor):
                raise InvalidInput(
                    "external-data",
                    f"The weights of '{value.name}' should be in '{tensor.location}', which is not in the bundle.",
                    "Put every data file into the bundle, beside the model, as a whole file and not as a link.",
                )
            tensor.base_dir = bundle


def _holds(bundle: Path, tensor: ir.ExternalTensor) -> bool:
    """Whether the bundle has a regular file, without links to it, that contains all the bytes of a tensor."""
    try:
        path = (bundle / tensor.location).resolve(strict=True)
        found = path.lstat()
    except (OSError, ValueError):
        return False
    own = path.is_relative_to(bundle.resolve()) and stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    offset, length = tensor.offset or 0, tensor.length or tensor.nbytes
    return own and offset >= 0 and tensor.nbytes == length and offset + length <= found.st_size


def own_weights(model: ir.Model) -> None:
    """Turns every weight, also of branches and bodies, into an array over the bytes that were read.

    A rewrite that renames a weight then leaves the message alone. Raises `InvalidInput` for NaN.
    """
    for value in (value for graph in model.graphs() for value in graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.Tensor) or tensor.dtype == ir.DataType.STRING:
            continue
        array = _array(tensor)
        value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
        if tensor.dtype.is_floating_point() and array.size and np.isnan(array.min()):
            raise InvalidInput(
                "nan-weights",
                f"The weights '{value.name}' contain NaN.",
                "Train or export the model again; no gradient passes through NaN.",
            )


def _array(tensor: ir.TensorProtocol) -> NDArray[Any]:
    try:
        return np.asarray(tensor.numpy())
    except (ValueError, TypeError, OverflowError) as error:  # numbers that do not fill the shape
        raise invalid_model(error) from error


def invalid_model(error: BaseException) -> InvalidInput:
    """The error for a model that breaks a rule of ONNX, with the library's reason."""
    return InvalidInput(
        "invalid-model",
        f"The model breaks a rule of ONNX: {first_sentence(error)}",
        "Export it again, or check it with onnx.checker.check_model.",
    )


def first_sentence(error: BaseException) -> str:
    """The first line of an error message as a sentence, with its context line if there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    context = next((line for line in lines[1:] if "Context" in line), "")
    return f"{lines[0].rstrip('.')}. {context}".strip()
