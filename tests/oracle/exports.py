"""Small networks exported by torch and scikit-learn, with torch's own gradients."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session

Feeds = dict[str, np.ndarray[Any, Any]]
Export = tuple[str, bytes, Feeds, Target, Callable[[Any], float] | None]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.flatten(F.adaptive_avg_pool2d(F.relu(x + self.body(x)), 1), 1))


class Mobile(nn.Module):
    """Squeeze and excitation, hard activations and depthwise convolutions, as in MobileNetV3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.wide, self.deep = nn.Conv2d(8, 24, 1), nn.Conv2d(24, 24, 5, 2, 2, groups=24)
        self.less, self.more = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.back, self.head = nn.Conv2d(24, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.hardswish(self.deep(F.hardswish(self.wide(x))))
        y = y * F.hardsigmoid(self.more(F.relu(self.less(F.adaptive_avg_pool2d(y, 1)))))
        return self.head(self.back(y).mean((2, 3)))


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.wide, self.back = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.scale, self.head = nn.Parameter(torch.full((16,), 0.5)), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.back(F.gelu(self.wide(self.norm(self.deep(x).permute(0, 2, 3, 1))))) * self.scale
        return self.head((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, 1)
        self.up, self.c, self.head = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(24, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.a(x))
        b = F.silu(self.b(a))
        wide = F.interpolate(b, scale_factor=2.0, mode="bilinear", align_corners=False)[:, :8]
        return self.head(F.gelu(self.c(torch.cat([a, wide, self.up(b)], 1))).mean((2, 3)))


class Encoder(nn.Module):
    """Patches or vectors through two transformer layers; `causal` masks the future."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=causal)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.causal = nn.Linear(16, 4), causal

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.triu(torch.full((5, 5), float("-inf")), 1) if self.causal else None
        return self.head(self.layers(self.enter(x), mask=mask, is_causal=False).mean(1))


class Recurrent(nn.Module):
    def __init__(self, cell: Any = nn.LSTM) -> None:
        super().__init__()
        self.enter, self.cells, self.head = (
            nn.Linear(6, 8),
            cell(8, 10, 2, batch_first=True, bidirectional=True),
            nn.Linear(20, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.enter(x))[0][:, -1])


class Frames(nn.Module):
    """A convolutional network for each frame, and attention over the frames of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.frame, self.mix, self.head = nn.Conv2d(3, 8, 3, 2, 1), Encoder(), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        each = F.relu(self.frame(x.flatten(0, 1))).amax((2, 3))
        return self.mix(self.head(each).view(n, frames, 6))


class Windows(nn.Module):
    """Attention within windows of a sequence, as in Swin transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.within = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        windows = self.enter(x).view(n, length // 4, 4, 8).flatten(0, 1)
        return self.head(self.within(windows).view(n, length, 8).mean(1))


IMAGES, SEQUENCES = (2, 3, 32, 32), (2, 5, 6)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet": (Residual, IMAGES),
    "MobileNetV3": (Mobile, IMAGES),
    "ConvNeXt": (ConvNext, IMAGES),
    "U-Net": (UNet, IMAGES),
    "encoder (BERT, ViT)": (Encoder, SEQUENCES),
    "decoder (GPT)": (lambda: Encoder(causal=True), SEQUENCES),
    "LSTM": (Recurrent, SEQUENCES),
    "GRU": (lambda: Recurrent(nn.GRU), SEQUENCES),
    "frames": (Frames, (2, 4, *IMAGES[1:])),
    "windows (Swin)": (Windows, (2, 12, 6)),
}


def exported() -> Iterator[Export]:
    """Every network by both of torch's exporters, and scikit-learn's."""
    for name, (make, shape) in NETWORKS.items():
        for dynamo in (False, True):
            torch.manual_seed(0)
            network = make().eval()
            x = torch.randn(shape)
            content = _export(network, x, dynamo)
            feeds = {"x": x.numpy()}
            exporter = "dynamo" if dynamo else "TorchScript"
            yield f"{name}, {exporter}", content, feeds, Target("t", index=1), _cosine(network, x)
    yield from _learned()


def as_onnx(network: nn.Module, x: Tensor) -> bytes:
    """A network as torch exports it without dynamo, with an input `x` of any batch."""
    return _export(network, x, dynamo=False)


@contextmanager
def _without_logs() -> Iterator[None]:
    """No library logs anything meanwhile."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _export(network: nn.Module, x: Tensor, dynamo: bool) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), _without_logs():
        warnings.simplefilter("ignore")
        if dynamo:
            dynamic = ({0: torch.export.Dim("n")},)
            torch.onnx.export(
                network, (x,), dynamo=True, input_names=["x"], dynamic_shapes=dynamic, verbose=False
            ).save(buffer)  # type: ignore[union-attr]
        else:
            torch.onnx.export(
                network, (x,), buffer, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}, opset_version=17
            )
    return buffer.getvalue()


def _cosine(network: nn.Module, x: Tensor) -> Callable[[Any], float]:
    """The cosine of our gradient to the input with torch's, in float64."""

    def cosine(model: Any) -> float:
        exact = x.double().requires_grad_()
        (theirs,) = torch.autograd.grad(network.double()(exact)[:, 1].sum(), exact)
        ours = open_session(differentiate(model, ["x"], [Target("t", index=1)]), threads=1).run({"x": x.numpy()})
        a, b = ours["gradient/t/x"].astype(np.float64).ravel(), theirs.numpy().ravel()
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    return cosine


def _learned() -> Iterator[Export]:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)).astype(np.float32)
    two, three = (x[:, 0] > x[:, 1]).astype(int), np.digitize(x[:, 0] * x[:, 1], [-0.5, 0.5])
    learners = {
        "MLP, two classes": (MLPClassifier((8, 4), max_iter=30, random_state=0), two),
        "scaler and MLP, three classes": (
            make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=30, random_state=0)),
            three,
        ),
        "MLP, regression": (MLPRegressor(hidden_layer_sizes=(8,), max_iter=30, random_state=0), x[:, 0]),
        "logistic regression": (make_pipeline(StandardScaler(), LogisticRegression()), three),
    }
    for name, (learner, y) in learners.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            learner.fit(x, y)
            content = to_onnx(learner, x[:1]).SerializeToString()
        index = None if "regression" in name and "logistic" not in name else 1
        yield f"{name}, skl2onnx", content, {"X": x[:4]}, Target("t", index=index), None
