"""Networks of torch's own modules, exported by both of torch's exporters as people call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.zoo import data
from bench.zoo.collection import model

DYNAMO, SCRIPT = "torch.onnx (dynamo)", "torch.onnx (TorchScript)"


def export(network: nn.Module, inputs: Any, folder: Path, **options: Any) -> None:
    """`torch.onnx.export`, by its defaults but for `options`; weights may lie in model.onnx.data beside it."""
    torch.onnx.export(network.eval(), inputs, str(folder / "model.onnx"), **options)


def scripted(network: nn.Module, inputs: Any, folder: Path, **options: Any) -> None:
    """The exporter that was the default until torch 2.9."""
    export(network, inputs, folder, dynamo=False, **options)


def trained(network: nn.Module, x: Any, y: Any, epochs: int = 12) -> nn.Module:
    """Fits a classifier by Adam for a few seconds, seeded."""
    torch.manual_seed(0)
    x, y = torch.as_tensor(x), torch.as_tensor(np.asarray(y))
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimiser.zero_grad()
            F.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    return network


def cnn() -> nn.Module:
    """Two convolutions with batch norm and pooling, as in a tutorial."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    )


def _digits(folder: Path) -> tuple[nn.Module, Tensor]:
    pictures, labels = data.digits(folder)
    torch.manual_seed(0)
    return trained(cnn(), pictures, labels, 4), torch.from_numpy(pictures)


@model(DYNAMO, "CNN of digits, the defaults: a batch of 1, weights in model.onnx.data")
def cnn_default(folder: Path) -> None:
    network, x = _digits(folder)
    export(network, (x[:1],), folder)


@model(DYNAMO, "CNN of digits, dynamic batch")
def cnn_dynamic(folder: Path) -> None:
    network, x = _digits(folder)
    export(network, (x[:2],), folder, dynamic_shapes=({0: "batch"},))


@model(DYNAMO, "CNN of digits in float16")
def cnn_half(folder: Path) -> None:
    network, x = _digits(folder)
    export(network.half(), (x[:2].half(),), folder, dynamic_shapes=({0: "batch"},))


@model(SCRIPT, "CNN of digits, a batch of 1")
def cnn_script(folder: Path) -> None:
    network, x = _digits(folder)
    scripted(network, (x[:1],), folder)


@model(SCRIPT, "CNN of digits, dynamic batch")
def cnn_script_dynamic(folder: Path) -> None:
    network, x = _digits(folder)
    scripted(
        network, (x[:2],), folder, input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "n"}}
    )


class Scaled(nn.Module):
    """A network behind the scaling of its training data."""

    def __init__(self, network: nn.Module, rows: Any) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.from_numpy(rows.mean(0)))
        self.register_buffer("sd", torch.from_numpy(rows.std(0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.sd)


def approval(network: nn.Module, folder: Path, epochs: int = 12) -> tuple[nn.Module, Tensor]:
    """The network fitted to mortgage decisions, and the table's rows."""
    frame = data.loans(folder)
    rows = data.columns(frame, [*data.NUMBERS, "white"])
    fitted = trained(Scaled(network, rows), rows, frame["approved"].astype(int), epochs)
    return fitted, torch.from_numpy(rows)


@model(DYNAMO, "Perceptron of mortgage decisions, the defaults")
def mlp_default(folder: Path) -> None:
    torch.manual_seed(0)
    network, rows = approval(nn.Sequential(nn.Linear(15, 32), nn.ReLU(), nn.Linear(32, 2)), folder)
    export(network, (rows[:1],), folder)


@model(SCRIPT, "Perceptron of mortgage decisions, softmax at its end, dynamic batch")
def mlp_script(folder: Path) -> None:
    torch.manual_seed(0)
    network, rows = approval(nn.Sequential(nn.Linear(15, 32), nn.GELU(), nn.Linear(32, 2)), folder)
    scripted(
        nn.Sequential(network, nn.Softmax(1)), (rows[:2],), folder, input_names=["x"], dynamic_axes={"x": {0: "n"}}
    )


class Recurrent(nn.Module):
    """A recurrent network that reads a digit row by row."""

    def __init__(self, cells: nn.Module) -> None:
        super().__init__()
        self.cells, self.head = cells, nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0][:, -1])


def _rows_of_digits(folder: Path) -> tuple[Any, Any]:
    pictures, labels = data.digits()
    rows = pictures[:, 0]
    data.arrays(folder, "eights", rows[labels == 8][:40], "others", rows[labels != 8][:100])
    return rows, labels


@model(DYNAMO, "LSTM over the rows of digits, the defaults")
def lstm_default(folder: Path) -> None:
    rows, labels = _rows_of_digits(folder)
    torch.manual_seed(0)
    network = trained(Recurrent(nn.LSTM(8, 24, batch_first=True)), rows, labels, 4)
    export(network, (torch.from_numpy(rows[:1]),), folder)


@model(SCRIPT, "GRU over the rows of digits, both ways, dynamic batch")
def gru_script(folder: Path) -> None:
    rows, labels = _rows_of_digits(folder)
    torch.manual_seed(0)
    network = trained(Recurrent(nn.GRU(8, 16, bidirectional=True, batch_first=True)), rows, labels, 4)
    scripted(network, (torch.from_numpy(rows[:2]),), folder, input_names=["x"], dynamic_axes={"x": {0: "n"}})


class Encoder(nn.Module):
    """torch's own transformer encoder over the rows of a digit."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.enter, self.layers, self.head = nn.Linear(8, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.enter(x)).mean(1))


@model(DYNAMO, "TransformerEncoder over the rows of digits, dynamic batch")
def encoder_dynamic(folder: Path) -> None:
    rows, labels = _rows_of_digits(folder)
    torch.manual_seed(0)
    network = trained(Encoder(), rows, labels, 3)
    export(network, (torch.from_numpy(rows[:2]),), folder, dynamic_shapes=({0: "batch"},))


class TwoHeads(nn.Module):
    """A shared trunk with two answers: the digit, and its embedding."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.trunk(x)
        return embedding, self.head(embedding)


@model(DYNAMO, "CNN of digits with two outputs, the embedding before the logits")
def cnn_two_outputs(folder: Path) -> None:
    network, x = _digits(folder)
    both = TwoHeads(network[:-1], network[-1])  # type: ignore[index]
    export(both, (x[:2],), folder, dynamic_shapes=({0: "batch"},), output_names=["embedding", "logits"])


@model(SCRIPT, "Perceptron of two independent sigmoids: approved, and within the guidelines")
def two_sigmoids(folder: Path) -> None:
    torch.manual_seed(0)
    network, rows = approval(nn.Sequential(nn.Linear(15, 32), nn.ReLU(), nn.Linear(32, 2)), folder)
    scripted(nn.Sequential(network, nn.Sigmoid()), (rows[:2],), folder, input_names=["x"], dynamic_axes={"x": {0: "n"}})
