"""Reads an ONNX file: bytes to a checked message, and a message to a graph with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from caveat_spec.bundle import MODEL, is_tar
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.data_files import DataFiles, beside, open_bundle, with_own_file
from caveat_worker.engine.onnx.other_formats import other_format
from caveat_worker.engine.onnx.own_numbers import without_own_numbers
from caveat_worker.engine.onnx.prescan import all_nodes, dense_tensors, prescan

MAX_BYTES = 8 * 2**30
_EXPORT = "Export the model with torch.onnx.export, tf2onnx or skl2onnx, and give the .onnx file."
T = TypeVar("T")


_CASES = "C.UTF-8"
"""A locale with the upper and lower case of Unicode that the C library has without files."""


def read_proto(source: Path | bytes, folder: Path | None = None) -> tuple[onnx.ModelProto, DataFiles | None]:
    """Reads and checks an ONNX message, and finds the files of its external data.

    They are in a bundle together with the model, or in `folder`; in neither case, external data is invalid. Raises
    `InvalidInput` if the bytes are no valid model.
    """
    content, files = _read(source, folder)
    proto = _parse(content)
    _forget_negative_sizes(proto)
    prescan(proto, bundled=files is not None)
    _check(proto, content)
    _change_case_alike(proto)
    return proto, files


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
        if is_tar(content[:512]):
            raise InvalidInput(
                "not-a-bundle",
                f"This is a tar, and its first file is not called {MODEL}.",
                f"Pack the model first, as {MODEL}, and then its data files.",
            )
        what, remedy = other_format(content) or (None, _EXPORT)
        raise InvalidInput(
            "not-an-onnx-file", f"This is not an ONNX model{'' if what is None else f': {what}'}.", remedy
        )
    return proto


def _forget_negative_sizes(proto: onnx.ModelProto) -> None:
    """Makes dimensions of size -1 unknown, in place: Paddle's exporter writes any size like that."""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < 0:
                size.ClearField("dim_value")


def _change_case_alike(proto: onnx.ModelProto) -> None:
    """Gives text normalisers of English, the default, the locale that every machine has, in place.

    ONNX Runtime opens no text pipeline where its locale is not installed, as `en_US.UTF-8` in slim images. Upper and
    lower case are the same in both; locales of other languages, some of which differ, stay as they are.
    """
    for node in all_nodes(proto):
        if node.op_type == "StringNormalizer":
            locale = next((one for one in node.attribute if one.name == "locale"), None)
            if locale is None or not locale.s or locale.s.lower().startswith(b"en"):
                locale = node.attribute.add() if locale is None else locale
                locale.CopyFrom(onnx.helper.make_attribute("locale", _CASES))


def _read(source: Path | bytes, folder: Path | None) -> tuple[bytes, DataFiles | None]:
    """The model's message, and the files that its weights may be in."""
    files = None if folder is None else beside(folder)
    if isinstance(source, bytes):
        return source, files
    if not source.is_file():
        raise InvalidInput("no-such-file", f"There is no file '{source}'.", "Give the path of an .onnx file.")
    if bundle := open_bundle(source):
        return bundle
    if source.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            "model-too-large",
            f"The model file has {source.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read.",
            "Store the weights as float32 or float16, without training state.",
        )
    light = without_own_numbers(source)
    if light is None:
        return source.read_bytes(), files
    return light, with_own_file(source, files)


def _check(proto: onnx.ModelProto, content: bytes) -> None:
    for opset in proto.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise InvalidInput(
                "opset-too-new",
                f"The model uses ai.onnx opset {opset.version}; this version reads up to {newest}.",
                f"Export it with opset_version={newest} or lower.",
            )
    nodes = [node for node in proto.graph.node if is_of_runtime(node.domain, node.op_type, _opset(proto))]
    unknown = [value.type.tensor_type for value in proto.graph.output if _has_no_rank(value)]
    if nodes or unknown:
        content = _as_it_is_checked(proto, nodes, unknown)
    try:
        onnx.checker.check_model(_without_external_data(proto, content))
    except (onnx.checker.ValidationError, ValueError) as error:
        raise invalid_model(error) from error


RUNTIME_DOMAIN = "com.microsoft"
_OF_RUNTIME = {"LayerNormalization": 17, "SimplifiedLayerNormalization": None}


def is_of_runtime(domain: str, operator: str, opset: int) -> bool:
    """Whether ONNX Runtime's optimiser writes an operator as one of ai.onnx that this opset does not have."""
    since = _OF_RUNTIME.get(operator, 0)
    return not domain and (since is None or opset < since)


def _opset(proto: onnx.ModelProto) -> int:
    return max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=1)


def _has_no_rank(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _as_it_is_checked(
    proto: onnx.ModelProto, nodes: list[onnx.NodeProto], unknown: list[onnx.TypeProto.Tensor]
) -> bytes:
    """The message with these nodes in the runtime's own domain, which has no rules, and a shape for these outputs.

    Runtimes run outputs of unknown rank, which tf2onnx and others write; the checker's rule is that each has a shape.
    """
    imports = len(proto.opset_import)
    proto.opset_import.append(onnx.helper.make_opsetid(RUNTIME_DOMAIN, 1))
    for node in nodes:
        node.domain = RUNTIME_DOMAIN
    for tensor in unknown:
        tensor.shape.SetInParent()
    try:
        return bytes(proto.SerializeToString())
    finally:
        del proto.opset_import[imports:]
        for node in nodes:
            node.domain = ""
        for tensor in unknown:
            tensor.ClearField("shape")


def _without_external_data(proto: onnx.ModelProto, content: bytes) -> bytes:
    """The message with an empty tensor for each one in another file, which the checker would look for itself.

    The sizes of those tensors are checked when their data is attached.
    """
    if all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in dense_tensors(proto)):
        return content
    light = onnx.ModelProto.FromString(content)
    for tensor in dense_tensors(light):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    return bytes(light.SerializeToString())


def read_ir(proto: onnx.ModelProto) -> ir.Model:
    """Converts a message into a graph; raises `InvalidInput` for a message that the library cannot convert."""
    try:
        return ir.from_proto(proto)
    except Exception as error:  # a malformed message makes the library raise almost anything
        raise invalid_model(error.__cause__ or error) from error


def read_graph(proto: onnx.ModelProto, files: DataFiles | None) -> ir.Model:
    """Converts a message into a graph with its weights in memory, or mapped from the files of its external data.

    Raises `InvalidInput` for external data that the files do not hold, and for weights that are NaN or do not fill
    their shape.
    """
    model = read_ir(proto)
    attach(model, files)
    own_weights(model)
    return model


def attach(model: ir.Model, files: DataFiles | None) -> None:
    """Maps the numbers of every tensor in another file, in place; raises `InvalidInput` if they are not there, or NaN.

    The tensors are initializers and attributes, those of subgraphs and functions included.
    """
    if files is None:  # the prescan refuses external data without files
        return
    parts: tuple[ir.Graph | ir.Function, ...] = (model.graph, *model.functions.values())
    for graph in (model.graph, *(inner for part in parts for inner in part.subgraphs())):
        for value in graph.initializers.values():
            value.const_value = _attached(value.const_value, files)
    for node in (node for part in parts for node in part.all_nodes()):
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                node.attributes[name] = ir.AttrTensor(name, _attached(attribute.as_tensor(), files))
            elif attribute.type == ir.AttributeType.TENSORS:
                node.attributes[name] = ir.AttrTensors(name, [_attached(one, files) for one in attribute.as_tensors()])


def _attached(tensor: T, files: DataFiles) -> T | ir.Tensor[Any]:
    return _owned(files.read(tensor), tensor.name) if isinstance(tensor, ir.ExternalTensor) else tensor


def own_weights(model: ir.Model) -> None:
    """Turns every weight, also of branches and bodies, into an array over the bytes that were read.

    A rewrite that renames a weight then leaves the message alone. Raises `InvalidInput` for NaN.
    """
    for value in (value for graph in model.graphs() for value in graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.Tensor | ir.LazyTensor) or tensor.dtype == ir.DataType.STRING:
            continue
        value.const_value = _owned(tensor, value.name)


def _owned(tensor: ir.TensorProtocol, name: str | None) -> ir.Tensor[Any]:
    """The tensor as an array; raises `InvalidInput` for NaN."""
    array = _array(tensor)
    if tensor.dtype.is_floating_point() and array.size and _has_nan(array, tensor.dtype):
        raise InvalidInput(
            "nan-weights",
            f"The weights '{name}' contain NaN.",
            "Train or export the model again; no gradient passes through NaN.",
        )
    return ir.Tensor(array, dtype=tensor.dtype, name=name)


def _has_nan(array: NDArray[Any], kind: ir.DataType) -> bool:
    if kind not in LARGEST_HALF:
        return bool(np.isnan(array.min()))
    numbers = array.reshape(-1).view(np.uint16)  # NumPy compares halves one by one: 17 times as long
    parts = (numbers[start : start + _PART] for start in range(0, len(numbers), _PART))
    return any(int((part & 0x7FFF).max()) > LARGEST_HALF[kind] for part in parts)


_PART = 1 << 18  # numbers, whose bits fit a processor's cache
LARGEST_HALF = {ir.DataType.FLOAT16: 0x7C00, ir.DataType.BFLOAT16: 0x7F80}
"""The bits of infinity: larger ones without a sign are NaN."""


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
