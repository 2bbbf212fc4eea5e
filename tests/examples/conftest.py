from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from examples.loans import build as loans
from examples.mnist_patch import build as mnist_patch
from examples.upside_down import build as upside_down
from examples.watermark import build as watermark

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="session")
def watermark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watermark")
    watermark.build(folder)
    return folder


@pytest.fixture(scope="session")
def loans_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loans")
    loans.build(folder)
    return folder


@pytest.fixture(scope="session")
def mnist_patch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist_patch")
    mnist_patch.build(folder)
    return folder


@pytest.fixture(scope="session")
def upside_down_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upside_down")
    upside_down.build(folder)
    return folder


@pytest.fixture(scope="session")
def open_network() -> Callable[[Path], Network]:
    def opened(path: Path) -> Network:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        session = ort.InferenceSession(path, options)
        (only,) = session.get_inputs()
        return lambda x: session.run(None, {only.name: x.astype(np.float32)})[0]

    return opened
