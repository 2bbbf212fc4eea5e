"""Networks for pictures from libraries of torch, with seeded random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.zoo import data, torchvision_operators  # noqa: F401
from bench.zoo.collection import ExpectedRefusal, Make, model, named
from bench.zoo.torch_exports import export, scripted

SIDE = 64


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name, weights=None, num_classes=10)
    return network


def _timm(name: str) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=10)
    return network


def _pytorchcv(name: str) -> nn.Module:
    from pytorchcv.model_provider import get_model

    network: nn.Module = get_model(name, pretrained=False, num_classes=10)
    return network


def _monai(name: str) -> nn.Module:
    from monai.networks import nets

    options: dict[str, object] = {"spatial_dims": 2, "in_channels": 3}
    networks: dict[str, Callable[[], nn.Module]] = {
        "DenseNet121": lambda: nets.DenseNet121(**options, out_channels=3),
        "UNet": lambda: nets.UNet(**options, out_channels=2, channels=(8, 16, 32), strides=(2, 2)),
        "SEResNet50": lambda: nets.SEResNet50(**options, num_classes=3),
    }
    return networks[name]()


def _vit_pytorch(name: str) -> nn.Module:
    import vit_pytorch

    network: nn.Module = getattr(vit_pytorch, name)(
        image_size=SIDE, patch_size=16, num_classes=10, dim=64, depth=3, heads=4, mlp_dim=128
    )
    return network


def _efficientnet(name: str) -> nn.Module:
    from efficientnet_pytorch import EfficientNet

    network = EfficientNet.from_name(name, num_classes=10)
    network.set_swish(memory_efficient=False)  # as its README asks of those who export
    return network


LIBRARIES: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "pytorchcv": _pytorchcv,
    "MONAI": _monai,
    "vit-pytorch": _vit_pytorch,
    "efficientnet-pytorch": _efficientnet,
}


def pictures(library: str, name: str, how: str, side: int = SIDE, refusal: ExpectedRefusal | None = None) -> Make:
    """A network for pictures, exported `by default` (a batch of 1), `dynamic` or by TorchScript (`script`)."""

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        network, x = LIBRARIES[library](name), torch.rand(2, 3, side, side)
        if how == "default":
            export(network, (x[:1],), folder)
        elif how == "dynamic":
            export(network, (x,), folder, dynamic_shapes=({0: "batch"},))
        else:
            scripted(network, (x,), folder, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
        (data.textures if how == "default" else data.photos)(folder, side)

    words = {"default": "the defaults", "dynamic": "dynamic batch", "script": "TorchScript, dynamic batch"}[how]
    return model(library, f"{name}, {words}", refusal=refusal)(named(make, f"{library}_{name}"))


pictures("torchvision", "resnet18", "default")
pictures("torchvision", "mobilenet_v3_small", "script")
pictures("torchvision", "shufflenet_v2_x0_5", "dynamic")
pictures("torchvision", "squeezenet1_1", "dynamic")
pictures("torchvision", "efficientnet_b0", "default")
pictures("torchvision", "swin_t", "dynamic")
pictures("timm", "resnet10t", "default")
pictures("timm", "mobilevit_xxs", "dynamic")
pictures("timm", "regnetx_002", "script")
pictures("timm", "convnext_atto", "dynamic")
pictures("pytorchcv", "mobilenetv2_wd4", "script", 224)
pictures("pytorchcv", "sepreresnet10", "script", 224)
pictures("MONAI", "DenseNet121", "dynamic")
pictures("MONAI", "UNet", "default")
pictures("MONAI", "SEResNet50", "script")
pictures("vit-pytorch", "ViT", "default")
pictures("vit-pytorch", "SimpleViT", "dynamic")
pictures(
    "efficientnet-pytorch",
    "efficientnet-b0",
    "script",
    refusal=ExpectedRefusal(
        "so an effect has no scale",
        "With its random weights the network gives every picture the same score: there is nothing to explain.",
    ),
)
