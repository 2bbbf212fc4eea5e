"""Runs graphs in ONNX Runtime, which reads their weights from our memory instead of a copy."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.stored_weights import Stored, as_feeds, stored
from caveat_worker.engine.onnx.values import LOWERED_FROM

Provider = Literal["cpu", "cuda"]
Feeds: TypeAlias = dict[str, NDArray[Any]]
"""The arrays for a graph's inputs, by name."""

_PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_SESSIONS = 3  # that an audit has open on a device
_gpu_bytes: ContextVar[int] = ContextVar("gpu_bytes", default=0)
MAX_SENTENCE = 300
_SHARED = 1024  # bytes: smaller constants stay in the graph, where the optimiser can fold them


@dataclass(frozen=True)
class Session:
    """An open graph; `weights` keeps the memory alive that the runtime reads."""

    inference: ort.InferenceSession
    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[Any, ...]
    stored: dict[str, ort.OrtValue] = field(default_factory=dict)
    """Weights that are fed with each run, by name."""

    def reads_double(self, name: str) -> bool:
        """Whether an input of the graph is of float64."""
        return any(one.name == name and one.type == "tensor(double)" for one in self.inference.get_inputs())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs the graph and returns its outputs by name; feeds that the graph does not read are ignored.

        Raises `InvalidInput` for a missing feed and for feeds on which the runtime fails, and `MemoryError`.
        """
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise InvalidInput(
                "missing-input",
                f"The model's input '{missing[0]}' has no values.",
                f"Give it an example set; the model reads {_listed(self.inputs)}.",
            )
        try:
            results = self.inference.run(
                list(self.outputs), {name: feeds[name] for name in self.inputs} | self.stored, _options(self.stored)
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            _check_memory(error)
            raise InvalidInput(
                "model-does-not-run",
                f"ONNX Runtime could not run the model on these inputs: {_first_line(error)}",
                "Check the shapes and types of the examples against the model's inputs.",
            ) from error
        return dict(zip(self.outputs, results, strict=True))


def _options(stored: Mapping[str, Any]) -> ort.RunOptions | None:
    """Gives back what a run of a large model took; without them the runtime keeps the most that each session had."""
    if not stored:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


@dataclass(frozen=True)
class Sessions:
    """Several open graphs that read the same feeds."""

    each: tuple[Session, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Runs all graphs and returns their outputs by name."""
        return {name: value for session in self.each for name, value in session.run(feeds).items()}


def limit_gpu(most: int) -> None:
    """Limits the GPU memory, in bytes, of audits in this context; 0 removes the limit."""
    _gpu_bytes.set(most)


def gpu_bytes() -> int:
    """The limit on the GPU memory of one of an audit's sessions, in bytes; 0 for no limit."""
    return _gpu_bytes.get() // _SESSIONS


def installed(provider: Provider) -> bool:
    """Whether this ONNX Runtime was built with a provider; the device itself may be missing."""
    return _PROVIDERS[provider] in ort.get_available_providers()


def why_not(provider: Provider) -> str | None:
    """The reason, as a clause, why a provider cannot be used here; None if a session runs on it."""
    if not installed(provider):
        return "this ONNX Runtime was installed without it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the runtime warns and falls back to the CPU
            open_session(Graph(ir.from_proto(onnx.parser.parse_model(_TRIAL))), provider=provider, threads=1).run(
                {"x": np.zeros(1, np.float32)}
            )
    except (InvalidInput, MemoryError) as error:
        return f"it does not start: {str(error).rstrip('.')}"
    return None


def _how_to_open(graph: ir.Graph, error: str) -> str:
    """The remedy where ONNX Runtime opens no session: it lacks many operators for types other than float32."""
    kinds = {value.dtype for value in (*graph.inputs, *graph.initializers.values())}
    if ir.DataType.BFLOAT16 in kinds:
        return "Export it again in float32: for torch, after `model.float()`."
    if ir.DataType.DOUBLE in kinds or "tensor(double)" in error:
        return "Export it again with inputs of float32 in place of float64."
    return "Check that it runs in ONNX Runtime, or export it again."


def open_session(graph: Graph, *, provider: Provider = "cpu", threads: int = 0, optimise: bool = True) -> Session:
    """Opens a graph in ONNX Runtime; raises `InvalidInput` if the runtime cannot, or has no such provider.

    `threads=0` leaves their number to the runtime; without `optimise` the graph opens faster and runs slower.
    """
    name = _PROVIDERS[provider]
    if not installed(provider):
        raise _not_available(name)
    if provider == "cuda":
        _load_cuda()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # an error is raised anyway, and some sizes of noise are expected to fail
    options.use_deterministic_compute = True
    options.enable_mem_pattern = False  # which reserves a block for all tensors beside the memory of the first run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves cores to the readers
    if any(map(_is_of_integers, graph.ir.graph)):  # so that signed integers stay signed, as in the model's own kernels
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    fed = stored(graph.ir.graph) if provider == "cpu" else {}  # a device would be sent them with each run
    proto, arrays = _share_weights(graph.ir, fed)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    if arrays:
        options.add_external_initializers(list(arrays), values)
    if not optimise:  # the runtime then copies no weights; its optimiser transposes some in place, and needs copies
        for array_name, value in zip(arrays, values, strict=True):
            options.add_initializer(array_name, value)
    try:
        inference = ort.InferenceSession(proto.SerializeToString(), options, providers=_providers(provider))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        _check_memory(error)
        raise InvalidInput(
            "model-does-not-run",
            f"ONNX Runtime cannot open the model: {_first_line(error)}",
            _how_to_open(graph.ir.graph, str(error)),
        ) from error
    if inference.get_providers()[0] != name:
        raise _not_available(name)
    inputs = tuple(i.name for i in inference.get_inputs() if i.name not in fed)
    outputs = tuple(o.name for o in inference.get_outputs())
    given = {name: _value_of(tensor) for name, tensor in fed.items()}
    return Session(inference, inference.get_providers()[0], inputs, outputs, (*arrays.values(), *values), given)


def _is_of_integers(node: ir.Node) -> bool:
    """Whether a rounding is the end of what was one operator from integers to integers."""
    return node.op_type == "QuantizeLinear" and node.metadata_props.get(LOWERED_FROM, "").startswith("Q")


def _value_of(tensor: Stored) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(tensor.array), int(tensor.kind))


@cache
def _load_cuda() -> None:
    """Loads CUDA and cuDNN from their wheels, where the system's loader does not look; discards the output."""
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def _providers(provider: Provider) -> list[Any]:
    """The runtime's providers with their options: the CPU as fallback, and no TF32 in place of float32."""
    if provider == "cpu":
        return [_PROVIDERS["cpu"]]
    options: dict[str, Any] = {"use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}
    if gpu_bytes():
        options["gpu_mem_limit"] = gpu_bytes()
    return [(_PROVIDERS[provider], options), _PROVIDERS["cpu"]]


_TRIAL = '<ir_version: 8, opset_import: ["": 18]> trial (float[1] x) => (float[1] y) { y = Relu (x) }'


def _not_available(name: str) -> InvalidInput:
    return InvalidInput(
        "provider-not-available",
        f"The execution provider {name} is not available here.",
        "Install onnxruntime-gpu and a CUDA driver, or use the CPU.",
    )


def _share_weights(model: ir.Model, fed: Mapping[str, Stored]) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The model's message without its large weights, and those weights by name, but for those that are `fed`.

    The runtime does not find a weight that only a branch of an If or the body of a Loop reads: such weights are copied.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if name in fed or tensor is None or tensor.nbytes <= _SHARED or tensor.dtype not in _SHAREABLE:
            continue
        if any(use.node.graph is model.graph for use in value.uses()):
            arrays[name] = np.ascontiguousarray(tensor.numpy())
    values = {name: model.graph.initializers.pop(name) for name in (*arrays, *fed)}
    try:
        proto = ir.to_proto(model)
    finally:
        for value in values.values():
            model.graph.register_initializer(value)
    as_feeds(proto.graph, fed)
    for name in arrays:
        tensor = proto.graph.initializer.add(name=name, dims=arrays[name].shape, data_type=int(values[name].dtype or 1))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="shared")
    return proto, arrays


_SHAREABLE = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.INT8,
    ir.DataType.UINT8,
}


def _check_memory(error: Exception) -> None:
    """Raises `MemoryError` if the runtime's message says that it has no memory left."""
    if any(words in str(error) for words in ("Failed to allocate", "bad_alloc", "BFCArena::Allocate")):
        raise MemoryError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0].removeprefix("[ONNXRuntimeError] : ")
    return first if len(first) <= MAX_SENTENCE else f"{first[:MAX_SENTENCE]}…"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
