"""Loads a model: reads it, brings it into the one form that the rest of the engine works on, and compares the two."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as passes

from caveat_worker.engine.autodiff.backward import describe
from caveat_worker.engine.autodiff.batch_axis import free_batch_axis
from caveat_worker.engine.autodiff.class_names import names_in_model
from caveat_worker.engine.autodiff.constant_inputs import fix_inputs
from caveat_worker.engine.autodiff.equivalence import (
    compare_with_file,
    draws_at,
    drops,
    examples_interact,
    is_as_written,
    named,
)
from caveat_worker.engine.autodiff.lowering import lower, name_everything
from caveat_worker.engine.autodiff.model import OLDEST_OPSET, Model, rounds_by_batch
from caveat_worker.engine.autodiff.noise import noises, runs
from caveat_worker.engine.autodiff.output_forms import unwrap_outputs
from caveat_worker.engine.autodiff.separate_rows import rows_stay_apart
from caveat_worker.engine.autodiff.straight_through import WARNING, rounding_pairs, rounds
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.data_files import DataFiles
from caveat_worker.engine.onnx.graph import Graph, describe_value, without_weights
from caveat_worker.engine.onnx.learned_shapes import type_encoded
from caveat_worker.engine.onnx.read import (
    first_sentence,
    invalid_model,
    is_of_runtime,
    own_weights,
    read_graph,
    read_proto,
)
from caveat_worker.engine.onnx.session import Session, open_session
from caveat_worker.engine.onnx.stored_weights import keep, keep_halves
from caveat_worker.engine.onnx.values import HALF_PRECISION

DOMAINS = {"", "ai.onnx.ml", "com.microsoft"}
"""The operator domains that are known; functions of other domains are inlined."""
_CONVERTING = "caveat.converting"


def load(
    source: Path | bytes,
    *,
    folder: Path | None = None,
    interacts: bool | None = None,
    constants: Mapping[str, float] | None = None,
    fed: Collection[str] = (),
) -> Model:
    """Loads an ONNX model from a file or from bytes; raises `InvalidInput` with the reason if it cannot be used.

    `folder` has the files of external data, which may also be with the model in a bundle; without either, external
    data is invalid. `interacts` is the result of an earlier load of the same bytes: it saves the runs that compare the
    model with its file. With `constants` the inputs that they name hold a number, and recurrent states that are not
    `fed` are zero; both are no longer inputs.
    """
    proto, files = read_proto(source, folder)
    names = names_in_model(proto)
    warnings = unwrap_outputs(proto)
    model = prepare(proto, files)
    original = _as_written(proto, files) if interacts is None else None
    stored_halves = keep_halves(model.graph.initializers.values())
    if _widen(model) or stored_halves:
        warnings.append(
            "The model's half-precision numbers are computed in float32, which changes its outputs a little."
        )
    numbers, empty = ({}, {}) if constants is None else fix_inputs(model, constants, fed)
    states = [name for name in numbers if name not in (constants or {})]
    warnings += [_zero_state(name) for name in states if name not in empty]
    warnings += [_empty_caches(list(empty))] if empty else []
    symbolic = free_batch_axis(model, warnings)
    model = lower(model)
    keep(model)
    if rounds(model):
        warnings.append(WARNING)
    if original is not None:
        interacts = _tried(original, model, numbers, empty, symbolic=symbolic, compared=not stored_halves)
    if interacts:
        warnings.append(_about_batches(model))
    return Model(
        model,
        tuple(describe_value(v) for v in model.graph.inputs if not v.is_initializer()),
        tuple(describe_value(v) for v in model.graph.outputs),
        symbolic,
        tuple(warnings),
        model.graph.opset_imports.get("", OLDEST_OPSET),
        bool(interacts),
        metadata={one.key: one.value for one in proto.metadata_props},
        class_names=names,
    )


def _tried(
    original: tuple[ir.Model, Session],
    model: ir.Model,
    numbers: Mapping[str, float],
    empty: Mapping[str, int],
    *,
    symbolic: bool,
    compared: bool,
) -> bool:
    """Whether examples of one batch influence each other; raises `InvalidInput` if the model is not that of its file.

    Both are proven from the graph where that is possible, and else tried on noise. The file of a model with large
    weights of half precision is not `compared`: halves never are, and to run it ONNX Runtime widens all its weights. A
    model that rounds to integers is run as an audit runs it, since the runtime's optimiser chooses kernels of integers.
    """
    alike = not compared or (not numbers and is_as_written(original[0], model))
    separate = not symbolic or rows_stay_apart(model)
    if alike and separate:
        if compared:  # once, so that a model that asks for more memory than there is is refused here
            next(runs(original[1], noises(original[0])), None)
        return False
    rounded = any(True for _ in rounding_pairs(model))
    session = open_session(Graph(model), threads=1, optimise=rounded)
    if not alike:
        before = open_session(Graph(original[0]), threads=1) if rounded else original[1]
        compare_with_file(original[0], before, model, session, numbers, empty, rounded=rounded)
    return not separate and examples_interact(model, session)


def _about_batches(model: ir.Model) -> str:
    """Why the examples of a batch influence each other, as far as the graph shows it, and what follows.

    Raises `InvalidInput` where a model was exported in training mode: what it says of one example alone is nothing.
    """
    trained = next((node for node in model.graph.all_nodes() if _normalises_by_batch(node) or drops(node)), None)
    if trained is not None:
        raise InvalidInput(
            "in-training-mode",
            f"Node {named(trained)} is in training mode, so that an example's scores depend on its neighbours or on "
            "chance.",
            "Export the model as it is served: for torch, after `model.eval()`.",
        )
    if rounds_by_batch(model):
        return "Examples of one batch influence each other's rounding; their gradients are not their own."
    drawn = draws_at(model)
    if drawn is not None:
        return f"The model draws random numbers at node {drawn}, so another audit has other figures."
    return (
        "Examples of one batch influence each other's outputs, so each goes through the model alone. If the model "
        "normalises by its batch, as torch does in training mode, export it after `model.eval()`."
    )


def _normalises_by_batch(node: ir.Node) -> bool:
    mode = node.attributes.get("training_mode")
    return node.op_type == "BatchNormalization" and mode is not None and mode.as_int() != 0


def _zero_state(name: str) -> str:
    return (
        f"Input '{name}' is a recurrent state that no example feeds: it is zero, as at the start of a sequence. "
        f"`constants: {{{name}: ...}}` sets another number."
    )


def _empty_caches(names: list[str]) -> str:
    subject = f"Input '{names[0]}' holds"
    if len(names) > 1:
        subject = f"Inputs '{names[0]}' and {len(names) - 1} other{'s' * (len(names) > 2)} hold"
    return f"{subject} earlier tokens, and no example feeds any: there are none, as at the start of a text."


def _as_written(proto: onnx.ModelProto, files: DataFiles | None) -> tuple[ir.Model, Session]:
    """The model as its file has it, and a session that runs it; raises `InvalidInput` if ONNX Runtime cannot."""
    model = read_graph(proto, files)
    keep(model)
    try:
        return model, open_session(Graph(model), threads=1, optimise=False)
    except ir.serde.SerdeError as error:  # a name that is not UTF-8 can be read, but not written
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UnicodeDecodeError):
            cause = ValueError("a text in it, such as a name or a remark, is not UTF-8")
        raise invalid_model(cause) from error


def prepare(proto: onnx.ModelProto, files: DataFiles | None = None) -> ir.Model:
    """Reads a message as a graph at opset 18 or later, with functions inlined and constants lifted.

    Raises `InvalidInput` for operators of unknown domains, and for opsets that onnx cannot convert.
    """
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=OLDEST_OPSET)
    model = read_graph(proto, files)
    model.graph.opset_imports.setdefault("", OLDEST_OPSET)  # gradients need it, even if the model has only ai.onnx.ml
    passes.RemoveInitializersFromInputsPass()(model)
    try:
        passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]  # inlining expands unused ones too
        passes.InlinePass()(model)
    except Exception as error:  # a call that does not fit its function makes the library raise almost anything
        raise invalid_model(error.__cause__ or error) from error
    _check_domains(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.LiftSubgraphInitializersToMainGraphPass()(model)
    type_encoded(model)
    if opset < OLDEST_OPSET:
        model = _converted(model, opset)
    own_weights(model)
    name_everything(model)
    return model


def _check_domains(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain == "com.microsoft.nchwc":
            raise InvalidInput(
                "model-optimised-for-one-processor",
                "ONNX Runtime has optimised this file for the memory layout of one processor; "
                f"{describe(node)} belongs to that layout.",
                "Use the model before this optimisation, or save it at the level ORT_ENABLE_EXTENDED or lower.",
            )
        if node.domain not in DOMAINS:
            raise InvalidInput(
                "unknown-domain",
                f"The operator of {describe(node)} belongs to the domain '{node.domain}', which is not known.",
                "Export the model with standard operators, or with the operator as an ONNX function.",
            )


WEIGHTS_ARE_NO_INPUTS = 4
"""The version of ONNX's format from which weights need not be inputs; in an older one the converter misses them."""


def _converted(model: ir.Model, opset: int) -> ir.Model:
    for node in model.graph.all_nodes():
        if is_of_runtime(node.domain, node.op_type, opset):
            node.domain = _CONVERTING  # so that the converter leaves it alone
    model.graph.opset_imports.setdefault(_CONVERTING, 1)
    model.ir_version = max(model.ir_version, WEIGHTS_ARE_NO_INPUTS)
    try:
        model = without_weights(model, lambda proto: onnx.version_converter.convert_version(proto, OLDEST_OPSET))
        for node in model.graph.all_nodes():
            node.domain = "" if node.domain == _CONVERTING else node.domain
        model.graph.opset_imports.pop(_CONVERTING, None)
        return model
    except Exception as error:  # the converter raises RuntimeError and its own classes
        raise InvalidInput(
            "opset-not-convertible",
            f"The model uses ai.onnx opset {opset}, and it cannot be converted to {OLDEST_OPSET}: "
            f"{first_sentence(error)}",
            f"Export it with opset_version={OLDEST_OPSET} or later.",
        ) from error


def _widen(model: ir.Model) -> bool:
    """Turns float16 and bfloat16 into float32, in place, as gradients underflow in them; whether it did."""
    graph, widened = model.graph, False
    for value in (*graph.inputs, *graph.initializers.values(), *(v for n in graph.all_nodes() for v in n.outputs)):
        if value.dtype in HALF_PRECISION:
            value.dtype, widened = ir.DataType.FLOAT, True
        if value.const_value is not None and value.const_value.dtype in HALF_PRECISION:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype, widened = ir.DataType.FLOAT, True
    for node in graph.all_nodes():
        for name in ("to", "dtype"):
            if name in node.attributes and node.attributes[name].as_int() in HALF_PRECISION:
                node.attributes[name], widened = ir.AttrInt64(name, int(ir.DataType.FLOAT)), True
    return widened
