"""Networks for tables from libraries of torch, fitted to mortgage decisions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from bench.zoo import data
from bench.zoo.collection import model
from bench.zoo.torch_exports import approval, export, scripted


class Answer(nn.Module):
    """A network that takes its columns as one argument and answers with logits alone."""

    def __init__(self, network: nn.Module, *, categories: bool = False) -> None:
        super().__init__()
        self.network, self.categories = network, categories

    def forward(self, x: Tensor) -> Tensor:
        answer = self.network(x, None) if self.categories else self.network(x)
        return answer[0] if isinstance(answer, tuple) else answer


@model("rtdl-revisiting-models", "FT-Transformer of mortgage decisions, dynamic batch")
def ft_transformer(folder: Path) -> None:
    from rtdl_revisiting_models import FTTransformer

    torch.manual_seed(0)
    options = FTTransformer.get_default_kwargs(n_blocks=1)
    network = FTTransformer(n_cont_features=15, cat_cardinalities=[], d_out=2, **options)
    fitted, rows = approval(Answer(network, categories=True), folder, 3)
    export(fitted, (rows[:2],), folder, dynamic_shapes=({0: "batch"},))


@model("rtdl-revisiting-models", "ResNet of mortgage decisions, the defaults")
def tabular_resnet(folder: Path) -> None:
    from rtdl_revisiting_models import ResNet

    torch.manual_seed(0)
    network = ResNet(
        d_in=15, d_out=2, n_blocks=2, d_block=32, d_hidden=None, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0
    )
    fitted, rows = approval(network, folder)
    export(fitted, (rows[:1],), folder)


@model("pytorch-tabnet", "TabNet of mortgage decisions, TorchScript, dynamic batch")
def tabnet(folder: Path) -> None:
    from pytorch_tabnet.tab_network import TabNet

    torch.manual_seed(0)
    network = TabNet(15, 2, group_attention_matrix=torch.eye(15))
    fitted, rows = approval(Answer(network), folder, 2)
    scripted(fitted, (rows[:2],), folder, input_names=["x"], dynamic_axes={"x": {0: "n"}})


@model("hummingbird-ml", "Gradient boosting of scikit-learn as tensor operations, exported by torch")
def hummingbird_boosting(folder: Path) -> None:
    from hummingbird.ml import convert
    from sklearn.ensemble import GradientBoostingClassifier

    frame = data.loans(folder)
    rows = data.columns(frame, [*data.NUMBERS, "white"])
    fitted = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(rows, frame["approved"].astype(int))
    network = convert(fitted, "torch", rows[:1]).model
    scripted(network, (torch.from_numpy(rows[:2]),), folder, input_names=["x"], dynamic_axes={"x": {0: "n"}})
