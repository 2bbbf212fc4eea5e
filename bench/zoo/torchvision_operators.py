"""Importing this lets torchvision be imported where its compiled part does not fit the build of torch.

Timm, vit-pytorch and transformers import torchvision too. Its classifiers need no compiled operator; only the package's
import asks for two of them.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")

try:
    import torchvision  # noqa: F401
except RuntimeError:
    for operator in ("nms", "qnms"):
        LIBRARY.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
