"""Room for activations: in memory up to a budget, in files beyond it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.engine.probe import Allocate

MEMORY_BYTES = 2**30


@contextmanager
def scratch(budget: int = MEMORY_BYTES) -> Iterator[Allocate]:
    """Gives float32 arrays; what does not fit `budget` bytes any more lives in files of the working folder."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="scratch-") as folder:
        used, files = 0, 0

        def allocate(shape: tuple[int, ...]) -> NDArray[np.float32]:
            nonlocal used, files
            size = 4 * prod(shape)
            if used + size <= budget or size == 0:
                used += size
                return np.empty(shape, np.float32)
            files += 1
            return np.memmap(Path(folder, f"{files}.f32"), np.float32, "w+", shape=shape)

        yield allocate
