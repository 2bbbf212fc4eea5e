"""Models of the zoo after ONNX Runtime's tools and others have rewritten them: quantised, halved, fused, slimmed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from bench.zoo import boosting, data, torch_exports, transformers_texts
from bench.zoo.collection import MODELS, ExpectedRefusal, model

QUANTISED = "onnxruntime.quantization"


def original(name: str, folder: Path) -> Path:
    """Makes another model of the zoo and its data in `folder`, and moves the model away, to the path it returns."""
    MODELS[name].make(folder)
    moved = Path(tempfile.mkdtemp()) / "original.onnx"
    return Path(shutil.move(folder / "model.onnx", moved))


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration by a few batches of one input."""

    def __init__(self, name: str, rows: Any, size: int = 20) -> None:
        self.batches: Iterator[Any] = ({name: rows[at : at + size]} for at in range(0, 5 * size, size))

    def get_next(self) -> Any:
        return next(self.batches, None)


def _static(folder: Path, name: str, rows: Any, form: QuantFormat, **options: Any) -> None:
    source = original(name, folder)
    entry = onnx.load(source).graph.input[0].name
    quantize_static(source, folder / "model.onnx", Rows(entry, rows), quant_format=form, **options)


def _loans() -> Any:
    return data.columns(data.loans(), [*data.NUMBERS, "white"])


@model(QUANTISED, "CNN of digits, static: QDQ, int8")
def qdq_cnn(folder: Path) -> None:
    _static(folder, "cnn-script-dynamic", data.digits()[0], QuantFormat.QDQ)


@model(QUANTISED, "Perceptron of mortgage decisions, static: QDQ, int8")
def qdq_mlp(folder: Path) -> None:
    _static(folder, "mlp-script", _loans(), QuantFormat.QDQ)


@model(QUANTISED, "CNN of digits, static: QOperator, int8")
def qoperator_cnn(folder: Path) -> None:
    _static(folder, "cnn-script-dynamic", data.digits()[0], QuantFormat.QOperator)


@model(QUANTISED, "CNN of digits, static: QOperator, int8 by channels")
def qoperator_channels(folder: Path) -> None:
    _static(folder, "cnn-script-dynamic", data.digits()[0], QuantFormat.QOperator, per_channel=True)


@model(QUANTISED, "Perceptron of mortgage decisions, dynamic, int8")
def dynamic_mlp(folder: Path) -> None:
    quantize_dynamic(original("mlp-script", folder), folder / "model.onnx")


@model(QUANTISED, "BERT of transformers, dynamic, int8")
def dynamic_bert(folder: Path) -> None:
    quantize_dynamic(original("bert-tokenclassification", folder), folder / "model.onnx")


@model(QUANTISED, "LSTM over the rows of digits, dynamic, int8")
def dynamic_gru(folder: Path) -> None:
    quantize_dynamic(original("gru-script", folder), folder / "model.onnx")


def _optimised(source: Path, written: Path, level: Any) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.optimized_model_filepath = level, str(written)
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


LEVELS = onnxruntime.GraphOptimizationLevel


@model("ONNX Runtime's optimiser", "CNN of digits, extended: Microsoft's fused operators")
def fused_cnn(folder: Path) -> None:
    _optimised(original("cnn-script-dynamic", folder), folder / "model.onnx", LEVELS.ORT_ENABLE_EXTENDED)


@model("ONNX Runtime's optimiser", "BERT of transformers, extended: fused attention, norms and GELU")
def fused_bert(folder: Path) -> None:
    _optimised(original("distilbert-sequenceclassification", folder), folder / "model.onnx", LEVELS.ORT_ENABLE_EXTENDED)


@model(QUANTISED, "BERT of transformers, fused first and then dynamic, int8: attention of integers")
def fused_int8_bert(folder: Path) -> None:
    fused = folder / "fused.onnx"
    _optimised(original("distilbert-sequenceclassification", folder), fused, LEVELS.ORT_ENABLE_EXTENDED)
    quantize_dynamic(fused, folder / "model.onnx", extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
    fused.unlink()


@model(QUANTISED, "BERT of transformers, weights of 4 bits in blocks")
def four_bit_bert(folder: Path) -> None:
    source = original("bert-tokenclassification", folder)
    quantiser = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32)
    quantiser.process()
    quantiser.model.save_model_to_file(str(folder / "model.onnx"))


@model(
    "ONNX Runtime's optimiser",
    "CNN of digits, all optimisations of this machine",
    refusal=ExpectedRefusal(
        "memory layout of one processor",
        "The file holds ONNX Runtime's own layout of this processor's memory, and runs nowhere else.",
    ),
)
def fused_for_this_machine(folder: Path) -> None:
    _optimised(original("cnn-script-dynamic", folder), folder / "model.onnx", LEVELS.ORT_ENABLE_ALL)


@model("ONNX Runtime's optimiser", "XGBoost of mortgage decisions, basic")
def optimised_xgboost(folder: Path) -> None:
    _optimised(original("xgboost-loans", folder), folder / "model.onnx", LEVELS.ORT_ENABLE_BASIC)


@model("onnxruntime.transformers", "BERT of transformers by its optimiser")
def optimised_bert(folder: Path) -> None:
    from onnxruntime.transformers import optimizer

    source = original("bert-tokenclassification", folder)
    optimizer.optimize_model(str(source), "bert", num_heads=4, hidden_size=64).save_model_to_file(
        str(folder / "model.onnx")
    )


@model("onnxconverter-common", "CNN of digits converted to float16, inputs and outputs too")
def halved_cnn(folder: Path) -> None:
    from onnxconverter_common import float16

    source = onnx.load(original("cnn-script-dynamic", folder))
    onnx.save(float16.convert_float_to_float16(source), folder / "model.onnx")


@model("onnxconverter-common", "Perceptron in float16 inside, float32 at its ends")
def halved_mlp(folder: Path) -> None:
    from onnxconverter_common import float16

    source = onnx.load(original("mlp-script", folder))
    onnx.save(float16.convert_float_to_float16(source, keep_io_types=True), folder / "model.onnx")


@model("onnxslim", "BERT of transformers, slimmed")
def slimmed_bert(folder: Path) -> None:
    import onnxslim

    onnxslim.slim(str(original("bert-tokenclassification", folder)), str(folder / "model.onnx"))


MADE_FROM = (boosting, torch_exports, transformers_texts)
"""The families whose models are rewritten here: importing them puts these into the collection."""
