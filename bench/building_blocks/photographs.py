"""Eight photographs, as the networks of these measurements read them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np


@cache
def pictures() -> Any:
    """Eight photographs as SqueezeNet reads them [8, 3, 224, 224]."""
    from examples.watermark.photographs import BUNDLED, photograph

    every = [np.asarray(photograph(one).resize((224, 224)), np.float32) for one in list(BUNDLED)[:8]]
    return np.stack(every).transpose(0, 3, 1, 2)[:, ::-1] - np.array([104, 117, 123], np.float32).reshape(1, 3, 1, 1)
