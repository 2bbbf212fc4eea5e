"""Reads a model, checks it, and brings it into the one form that the rest of the engine works on."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir
import onnx_ir as ir
import onnx_ir.passes.common as passes
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from .backward import describe
from .errors import Refused
from .graph import Graph, TensorInfo, describe_value, forget_shapes, infer_shapes, without_weights
from .lowering import lower
from .prescan import prescan
from .session import Session, open_session
from .tape import shape_of_value

Feeds: TypeAlias = dict[str, NDArray[Any]]
Ran: TypeAlias = tuple[Feeds, dict[str, NDArray[Any]]]
"""What a session was given, and what it made of that."""
OLDEST = 18  # the opset that rules are written for; older graphs are converted to it
MAX_BYTES = 8 * 2**30
DOMAINS = {"", "ai.onnx.ml", "com.microsoft"}
BATCH = "batch"
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_SIZES = (2, 32, 224)  # tried for dimensions that are not fixed


@dataclass(frozen=True)
class Model:
    """A checked model: functions inlined, constants lifted, opset 18 or later, shapes inferred."""

    ir: onnx_ir.Model
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    symbolic_batch: bool
    warnings: tuple[str, ...]
    opset: int
    interacts: bool
    """Whether examples of one batch influence each other's outputs."""

    def value(self, name: str) -> onnx_ir.Value | None:
        """The tensor of that name, or the first output of the node of that name."""
        for value in (*self.ir.graph.inputs, *self.ir.graph.initializers.values()):
            if value.name == name:
                return value
        by_node = None
        for node in self.ir.graph:
            for output in node.outputs:
                if output.name == name:
                    return output
            if node.name == name and by_node is None:
                by_node = node.outputs[0]
        return by_node


def load(source: Path | bytes, *, bundle: Path | None = None, interacts: bool | None = None) -> Model:
    """Reads an ONNX model from a file or from bytes; `Refused` says what is wrong with it.

    `bundle` is the folder that external data may come from; without it external data is refused. `interacts` is what an
    earlier load of the same bytes found: with it, the model is not run again to compare it with its file.
    """
    proto = read_proto(source, bundle)
    _drop_maps(proto)
    model = prepare(proto, bundle)
    original = _as_written(proto, bundle) if interacts is None else None  # rules see only what the runtime understands
    warnings: list[str] = []
    if _widen(model):
        warnings.append(
            "The model's half-precision numbers are computed in float32, which changes its outputs a little."
        )
    symbolic = _free_the_batch(model, warnings)
    model = lower(model)
    passes.RemoveUnusedNodesPass()(model)
    _name_everything(model)
    if original is not None:
        session = open_session(Graph(model), threads=1, optimise=False)
        compared = _compare_with(*original, model, session)
        interacts = symbolic and _examples_interact(model, session, compared)
    if interacts:
        warnings.append("Examples of one batch influence each other's outputs; their gradients are not their own.")
    return Model(
        model,
        tuple(describe_value(v) for v in model.graph.inputs if not v.is_initializer()),
        tuple(describe_value(v) for v in model.graph.outputs),
        symbolic,
        tuple(warnings),
        model.graph.opset_imports.get("", OLDEST),
        bool(interacts),
    )


def _as_written(proto: onnx.ModelProto, bundle: Path | None) -> tuple[ir.Model, Session]:
    """The model as its file has it, open to be run."""
    model = read_ir(proto)
    _attach_external_data(model, bundle)
    _own_weights(model)
    try:
        return model, open_session(Graph(model), threads=1, optimise=False)
    except ir.serde.SerdeError as error:  # bytes that are no text are read, and cannot be written
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UnicodeDecodeError):
            cause = ValueError("a text in it, such as a name or a remark, is not UTF-8")
        raise _invalid(cause) from error


def read_proto(source: Path | bytes, bundle: Path | None = None) -> onnx.ModelProto:
    """A file's or bytes' ONNX message, checked by onnx; `Refused` says what is wrong with it."""
    content = source if isinstance(source, bytes) else _read(source)
    proto = _parse(content)
    _forget_negative_sizes(proto)
    prescan(proto, bundled=bundle is not None)
    _check(proto, content, bundle)
    return proto


def prepare(proto: onnx.ModelProto, bundle: Path | None = None) -> ir.Model:
    """The model with its functions inlined and its constants lifted, at opset 18 or later."""
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=OLDEST)
    model = read_ir(proto)
    _attach_external_data(model, bundle)
    _own_weights(model)
    model.graph.opset_imports.setdefault("", OLDEST)  # gradients need it, also where the model has ai.onnx.ml alone
    passes.RemoveInitializersFromInputsPass()(model)
    try:
        passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # they would be written out too
        passes.InlinePass()(model)
    except Exception as error:  # a call that does not fit its function, and whatever that made the library run into
        raise _invalid(error.__cause__ or error) from error
    _check_domains(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    if opset < OLDEST:
        model = _converted(model, opset)
    _own_weights(model)
    _name_everything(model)
    return model


def normalise(proto: onnx.ModelProto) -> ir.Model:
    """The model in the one form that rules are written for: prepared, lowered, shapes inferred."""
    model = lower(prepare(proto))
    _name_everything(model)
    return model


def _parse(content: bytes) -> onnx.ModelProto:
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except DecodeError:
        if content[:1] == b"\x08":
            raise Refused(
                "truncated-model",
                f"The model file ends early: its {len(content):,} bytes stop inside a field.",
                "Upload it again, and compare its SHA-256 with the original's.",
            ) from None
        proto = onnx.ModelProto()
    if not proto.HasField("graph") or not proto.ir_version:
        raise Refused(
            "not-an-onnx-file",
            "This is not an ONNX model.",
            "Export the model with torch.onnx.export, tf2onnx or skl2onnx, and give the .onnx file.",
        )
    return proto


def _forget_negative_sizes(proto: onnx.ModelProto) -> None:
    """Sizes of -1, by which Paddle's exporter means any size, become unknown ones, in place."""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < 0:
                size.ClearField("dim_value")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise Refused("no-such-file", f"There is no file '{path}'.", "Give the path of an .onnx file.")
    if path.stat().st_size > MAX_BYTES:
        raise Refused(
            "model-too-large",
            f"The model file has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read.",
            "Store the weights as float32 or float16, without training state.",
        )
    return path.read_bytes()


def _check(proto: onnx.ModelProto, content: bytes, bundle: Path | None) -> None:
    for opset in proto.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise Refused(
                "opset-too-new",
                f"The model uses ai.onnx opset {opset.version}; this version reads up to {newest}.",
                f"Export it with opset_version={newest} or lower.",
            )
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        return  # the checker wants the data beside a path; shapes are checked when the data is attached
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise _invalid(error) from error


def read_ir(proto: onnx.ModelProto) -> ir.Model:
    """The message as the graph that is worked on; `Refused` where that cannot be."""
    try:
        return ir.from_proto(proto)
    except Exception as error:  # the library lets through whatever the message made it run into
        raise _invalid(error.__cause__ or error) from error


def _invalid(error: BaseException) -> Refused:
    return Refused(
        "invalid-model",
        f"The model breaks a rule of ONNX: {_sentence(error)}",
        "Export it again, or check it with onnx.checker.check_model.",
    )


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    context = next((line for line in lines[1:] if "Context" in line), "")
    return f"{lines[0].rstrip('.')}. {context}".strip()


def _drop_maps(proto: onnx.ModelProto) -> None:
    """Probabilities as a tensor, where a ZipMap would make a list of dictionaries of them."""
    maps = {node.output[0] for node in proto.graph.node if node.op_type == "ZipMap"}
    for node in proto.graph.node:
        if node.op_type == "ZipMap":
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    for output in proto.graph.output:
        if output.name in maps:
            output.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None))


def _attach_external_data(model: ir.Model, bundle: Path | None) -> None:
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            assert bundle is not None  # the prescan refuses external data without one
            if not _holds(bundle, tensor):
                raise Refused(
                    "external-data",
                    f"The weights of '{value.name}' should be in '{tensor.location}', which is not in the bundle.",
                    "Put every data file into the bundle, beside the model, as a whole file and not as a link.",
                )
            tensor.base_dir = bundle


def _holds(bundle: Path, tensor: ir.ExternalTensor) -> bool:
    """Whether a plain file of the bundle, which no other name leads to, has all the bytes of a tensor."""
    try:
        path = (bundle / tensor.location).resolve(strict=True)
        about = path.lstat()
    except (OSError, ValueError):
        return False
    own = path.is_relative_to(bundle.resolve()) and stat.S_ISREG(about.st_mode) and about.st_nlink == 1
    offset, length = tensor.offset or 0, tensor.length or tensor.nbytes
    return own and offset >= 0 and tensor.nbytes == length and offset + length <= about.st_size


def _own_weights(model: ir.Model) -> None:
    """Every weight as an array over the bytes that were read; a NaN among them is refused."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.Tensor) or tensor.dtype == ir.DataType.STRING:
            continue
        array = _array(tensor)
        value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
        if tensor.dtype.is_floating_point() and array.size and np.isnan(array.min()):
            raise Refused(
                "nan-weights",
                f"The weights '{value.name}' contain NaN.",
                "Train or export the model again; no gradient passes through NaN.",
            )


def _array(tensor: ir.TensorProtocol) -> NDArray[Any]:
    try:
        return np.asarray(tensor.numpy())
    except (ValueError, TypeError, OverflowError) as error:  # numbers that do not fill the shape
        raise _invalid(error) from error


def _check_domains(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in DOMAINS:
            raise Refused(
                "unknown-domain",
                f"The operator of {describe(node)} belongs to the domain '{node.domain}', which is not known.",
                "Export the model with standard operators, or with the operator as an ONNX function.",
            )


def _converted(model: ir.Model, opset: int) -> ir.Model:
    try:
        return without_weights(model, lambda proto: onnx.version_converter.convert_version(proto, OLDEST))
    except Exception as error:  # the converter raises RuntimeError and its own classes
        raise Refused(
            "opset-not-convertible",
            f"The model uses ai.onnx opset {opset}, and it cannot be converted to {OLDEST}: {_sentence(error)}",
            f"Export it with opset_version={OLDEST} or later.",
        ) from error


def _name_everything(model: ir.Model) -> None:
    """Names for tensors and nodes that have none."""
    for index, node in enumerate(model.graph.all_nodes()):
        node.name = node.name or f"{node.op_type}_{index}"
        for position, output in enumerate(node.outputs):
            if output.name is None:
                output.name = f"{node.name}/{position}"


def _widen(model: ir.Model) -> bool:
    """Turns float16 and bfloat16 into float32, in place, inputs too: gradients underflow in the narrow types."""
    graph, widened = model.graph, False
    for value in (*graph.inputs, *graph.initializers.values(), *(v for n in graph.all_nodes() for v in n.outputs)):
        if value.dtype in _HALF:
            value.dtype, widened = ir.DataType.FLOAT, True
        if value.const_value is not None and value.const_value.dtype in _HALF:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype, widened = ir.DataType.FLOAT, True
    for node in graph.all_nodes():
        for name in ("to", "dtype"):
            if name in node.attributes and node.attributes[name].as_int() in _HALF:
                node.attributes[name], widened = ir.AttrInt64(name, int(ir.DataType.FLOAT)), True
    return widened


def _free_the_batch(model: ir.Model, warnings: list[str]) -> bool:
    """Makes a fixed leading dimension symbolic where the outputs prove equal; says so where they do not."""
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    shapes = [shape_of_value(v) for v in inputs]
    fixed = {shape[0] for shape in shapes if shape and isinstance(shape[0], int)}
    if not fixed:
        return bool(shapes)
    if len(fixed) > 1 or any(not shape or shape[0] not in fixed for shape in shapes):
        return False
    (size,) = fixed
    assert isinstance(size, int)
    free = model.clone()
    for value in free.graph.inputs:
        if not value.is_initializer() and value.shape is not None:
            value.shape = ir.Shape([BATCH, *value.shape[1:]])
    _unfix_reshapes(free, size)
    forget_shapes(free)
    infer_shapes(free)
    if _same_outputs(model, free, size):
        model.graph = free.graph
        return True
    warnings.append(f"The model works on batches of exactly {size}; examples are run in such batches.")
    return False


def _unfix_reshapes(model: ir.Model, size: int) -> None:
    """Constant Reshape targets that begin with the batch size copy it from their input instead."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Reshape" and node.domain == "" and len(node.inputs) == 2:
            shape = node.inputs[1]
            target = shape.const_value.numpy() if shape is not None and shape.const_value is not None else None
            if target is not None and target.size > 1 and target[0] == size:
                inferred = 0 if (target == -1).any() else -1
                new = ir.Value(
                    name=f"{node.name}/any_batch",
                    shape=ir.Shape(target.shape),
                    type=ir.TensorType(ir.DataType.INT64),
                    const_value=ir.tensor(np.asarray([inferred, *target[1:]], np.int64), name=f"{node.name}/any_batch"),
                )
                model.graph.register_initializer(new)
                node.replace_input_with(1, new)


def _compare_with(original: ir.Model, as_written: Session, model: ir.Model, session: Session) -> Ran | None:
    """Refuses a model that no longer computes what its file says, on seeded noise; returns what it computed."""
    written = next(_runs(as_written, noises(original)), None)
    if written is None:
        return None
    feeds, before = written
    kinds = {v.name: v.dtype.numpy() for v in model.graph.inputs if v.dtype is not None}
    half = any(value.dtype in _HALF for value in (*original.graph.inputs, *original.graph.initializers.values()))
    feeds = {k: v.astype(kinds[k]) for k, v in feeds.items()}
    after = session.run(feeds)
    for name, value in after.items():
        if isinstance(value, np.ndarray) and not half and not _agree([before[name]], value):
            raise Refused(
                "conversion-changed-the-model",
                f"Brought to opset {OLDEST} and to operators that have rules, the model gives another '{name}'.",
                f"Export it with opset_version={OLDEST} or later.",
            )
    return feeds, after


def _examples_interact(model: ir.Model, session: Session, compared: Ran | None) -> bool:
    """Whether the first of two examples gets another output on its own, on seeded noise or what was compared."""
    two = compared is not None and all(x.shape[:1] == (2,) for x in compared[0].values() if x.ndim)
    for feeds, both in chain([compared] if compared and two else [], _runs(session, noises(model, seed=3))):
        try:
            alone = session.run({k: x[:1] if x.ndim else x for k, x in feeds.items()})
        except Refused:
            continue
        pairs = [(alone[k], both[k]) for k in both if isinstance(both[k], np.ndarray) and np.shape(both[k])[:1] == (2,)]
        return not all(_agree([one], joint[:1]) for one, joint in pairs)
    return False


def _runs(session: Session, tried: Iterable[Feeds]) -> Iterator[Ran]:
    """Those feeds that a session runs on, with what it makes of them."""
    for feeds in tried:
        try:
            found = session.run(feeds)
        except Refused:  # too small for its poolings, perhaps
            continue
        yield feeds, found


def _same_outputs(fixed: ir.Model, free: ir.Model, size: int) -> bool:
    """Whether two fixed batches and one free batch of both give the same outputs, on seeded noise."""
    first, second = noise_for(fixed, seed=1), noise_for(fixed, seed=2)
    if first is None or second is None:
        return False
    try:
        one, joint = (
            open_session(Graph(fixed), threads=1, optimise=False),
            {k: np.concatenate([first[k], second[k]]) for k in first},
        )
        both = open_session(Graph(free), threads=1, optimise=False).run(joint)
        apart = [one.run(first), one.run(second)]
    except (Refused, TypeError):
        return False
    return all(_agree([half[name] for half in apart], both[name]) for name in both)


def noises(model: ir.Model, *, seed: int = 0) -> Iterator[Feeds]:
    """Seeded values for the inputs at one size after another for open dimensions; none where an input is a text."""
    for size in _SIZES:
        feeds = noise_for(model, size=size, seed=seed)
        if feeds is not None:
            yield feeds


def noise_for(model: ir.Model, *, batch: int = 2, size: int = 2, seed: int = 0) -> Feeds | None:
    """Seeded values for the inputs: standard normal, or 0 and 1 for integers; None where an input is a text."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        shape = [d if isinstance(d, int) else size if i else batch for i, d in enumerate(shape_of_value(value) or ())]
        if value.dtype is None or value.dtype == ir.DataType.STRING:
            return None
        noise = rng.standard_normal(shape) if value.dtype.is_floating_point() else rng.integers(0, 2, shape)
        feeds[value.name or ""] = noise.astype(value.dtype.numpy())
    return feeds


def _agree(apart: Sequence[object], both: object) -> bool:
    if not isinstance(both, np.ndarray) or not all(isinstance(part, np.ndarray) and part.ndim for part in apart):
        return False
    joined = np.concatenate([np.asarray(part) for part in apart])
    if joined.shape != both.shape:
        return False
    if not np.issubdtype(both.dtype, np.floating):
        return bool((joined == both).all())
    size = np.abs(joined, where=np.isfinite(joined), out=np.zeros_like(joined)).max(initial=0)
    return bool(np.allclose(joined, both, rtol=1e-3, atol=1e-4 * (1 + size), equal_nan=True))
