"""Runs a graph in ONNX Runtime, with its weights shared and not copied."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from .errors import Refused
from .graph import Graph

Provider = Literal["cpu", "cuda"]

_PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_AT_ONCE = 3  # sessions that an audit holds on a device
_gpu_bytes: ContextVar[int] = ContextVar("gpu_bytes", default=0)
LONGEST_SENTENCE = 300
_SHARED = 1024  # bytes: smaller constants travel inside the graph, where the optimiser can fold them


@dataclass(frozen=True)
class Session:
    """An open graph: feeds in, arrays out; `weights` keeps the memory alive that the runtime reads."""

    inference: ort.InferenceSession
    provider: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: tuple[Any, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name; feeds that the graph does not read are ignored."""
        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise Refused(
                "missing-input",
                f"The model's input '{missing[0]}' got no values.",
                f"Give it an example set; the model reads {_listed(self.inputs)}.",
            )
        try:
            results = self.inference.run(list(self.outputs), {name: feeds[name] for name in self.inputs})
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            _check_memory(error)
            raise Refused(
                "model-does-not-run",
                f"ONNX Runtime could not run the model on these inputs: {_first_line(error)}",
                "Check the shapes and types of the examples against the model's inputs.",
            ) from error
        return dict(zip(self.outputs, results, strict=True))


@dataclass(frozen=True)
class Sessions:
    """Several graphs that read the same feeds, and yield their outputs together."""

    each: tuple[Session, ...]

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs of all graphs by name."""
        return {name: value for session in self.each for name, value in session.run(feeds).items()}


def limit_gpu(most: int) -> None:
    """From now on an audit in this context takes at most so many bytes of a GPU; 0 for no limit."""
    _gpu_bytes.set(most)


def gpu_bytes() -> int:
    """What one of an audit's sessions may take of a GPU; 0 for no limit."""
    return _gpu_bytes.get() // _AT_ONCE


def installed(provider: Provider) -> bool:
    """Whether ONNX Runtime was installed with a provider; its device may still be missing."""
    return _PROVIDERS[provider] in ort.get_available_providers()


def why_not(provider: Provider) -> str | None:
    """Why a provider cannot be used here, as the end of a sentence; None if a session runs on it."""
    if not installed(provider):
        return "this ONNX Runtime was installed without it"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the runtime warns, and uses the CPU
            open_session(Graph(ir.from_proto(onnx.parser.parse_model(_TRIAL))), provider=provider, threads=1).run(
                {"x": np.zeros(1, np.float32)}
            )
    except (Refused, MemoryError) as fault:
        return f"it does not start: {str(fault).rstrip('.')}"
    return None


def open_session(graph: Graph, *, provider: Provider = "cpu", threads: int = 0, optimise: bool = True) -> Session:
    """Opens a graph for running; `threads=0` leaves their number to ONNX Runtime, `optimise=False` opens faster."""
    name = _PROVIDERS[provider]
    if not installed(provider):
        raise _not_available(name)
    if provider == "cuda":
        _load_cuda()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a core that waits is the reader's
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    proto, arrays = _lend_weights(graph.ir)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    if arrays:
        options.add_external_initializers(list(arrays), values)
    try:
        inference = ort.InferenceSession(proto.SerializeToString(), options, providers=_providers(provider))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        _check_memory(error)
        raise Refused(
            "model-does-not-run",
            f"ONNX Runtime cannot open the model: {_first_line(error)}",
            "Check that it runs in ONNX Runtime, or export it again.",
        ) from error
    if inference.get_providers()[0] != name:
        raise _not_available(name)
    inputs = tuple(i.name for i in inference.get_inputs())
    outputs = tuple(o.name for o in inference.get_outputs())
    return Session(inference, inference.get_providers()[0], inputs, outputs, (*arrays.values(), *values))


@cache
def _load_cuda() -> None:
    """Loads the libraries of CUDA and cuDNN that came as wheels, where no loader looks; what it prints is dropped."""
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def _providers(provider: Provider) -> list[Any]:
    """The runtime's providers; what a device cannot do the CPU does, and float32 is float32 there too."""
    if provider == "cpu":
        return [_PROVIDERS["cpu"]]
    options: dict[str, Any] = {"use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}
    if gpu_bytes():
        options["gpu_mem_limit"] = gpu_bytes()
    return [(_PROVIDERS[provider], options), _PROVIDERS["cpu"]]


_TRIAL = '<ir_version: 8, opset_import: ["": 18]> trial (float[1] x) => (float[1] y) { y = Relu (x) }'


def _not_available(name: str) -> Refused:
    return Refused(
        "provider-not-available",
        f"The execution provider {name} is not available here.",
        "Install onnxruntime-gpu and a CUDA driver, or use the CPU.",
    )


def _lend_weights(model: ir.Model) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The model's message with large weights left out, and those weights by name."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _SHARED and tensor.dtype in _LENDABLE and value.uses():
            arrays[name] = np.ascontiguousarray(tensor.numpy())
    held = {name: model.graph.initializers.pop(name) for name in arrays}
    try:
        proto = ir.to_proto(model)
    finally:
        for value in held.values():
            model.graph.register_initializer(value)
    for name, value in held.items():
        tensor = proto.graph.initializer.add(name=name, dims=arrays[name].shape, data_type=int(value.dtype or 1))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="lent")
    return proto, arrays


_LENDABLE = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.INT8,
    ir.DataType.UINT8,
}


def _check_memory(error: Exception) -> None:
    """Raises `MemoryError` for what the runtime says when it gets no memory."""
    if any(words in str(error) for words in ("Failed to allocate", "bad_alloc", "BFCArena::Allocate")):
        raise MemoryError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0].removeprefix("[ONNXRuntimeError] : ")
    return first if len(first) <= LONGEST_SENTENCE else f"{first[:LONGEST_SENTENCE]}…"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
