"""Models of transformers for pictures, small and with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.zoo import data
from bench.zoo.collection import Make, model, named
from bench.zoo.transformers_texts import Plain, transformers

SIDE = 64


def picture(
    kind: str, task: str = "ForImageClassification", *, dynamo: bool = True, batch: int = 2, **options: Any
) -> Make:
    """A model of transformers for pictures, from its configuration; a batch of one is fixed."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(num_labels=5, **options)
        network = getattr(transformers, f"{kind}{task}")(config).eval()
        given: dict[str, Any] = {"input_names": ["pixel_values"], "output_names": ["logits"], "dynamo": dynamo}
        free = {"pixel_values": {0: "batch"}}
        if batch > 1:
            given |= {"dynamic_shapes": (tuple(free.values()),)} if dynamo else {"dynamic_axes": free}
        plain = Plain(network, ("pixel_values",))
        torch.onnx.export(plain, (torch.rand(batch, 3, SIDE, SIDE),), str(folder / "model.onnx"), **given)
        data.photos(folder, SIDE)

    how = ("dynamo" if dynamo else "TorchScript") + ("" if batch > 1 else ", a batch of 1")
    return model("transformers", f"{kind}{task}, random weights, {how}")(named(make, f"{kind}-{task[3:]}".lower()))


VIT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}

picture("ViT", image_size=SIDE, patch_size=16, **VIT)
picture("ConvNext", dynamo=False, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])
picture("ResNet", hidden_sizes=[32, 64], depths=[1, 1], embedding_size=16)
picture(
    "Segformer",
    "ForSemanticSegmentation",
    dynamo=False,
    hidden_sizes=[16, 32, 32, 32],
    depths=[1, 1, 1, 1],
    decoder_hidden_size=32,
)
picture(
    "RTDetr",
    "ForObjectDetection",
    batch=1,
    backbone_config=transformers.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    ),
    encoder_in_channels=[16, 32, 32],
    encoder_hidden_dim=32,
    encoder_ffn_dim=32,
    encoder_attention_heads=4,
    decoder_in_channels=[32, 32, 32],
    decoder_ffn_dim=32,
    decoder_layers=2,
    decoder_attention_heads=4,
    d_model=32,
    num_queries=10,
    num_denoising=0,
    use_pretrained_backbone=False,
)
