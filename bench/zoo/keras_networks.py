"""Keras networks by tf2onnx, made by an interpreter of their own: `KERAS`, or the one that runs this."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.zoo import data
from bench.zoo.collection import Make, model, named

PYTHON = os.environ.get("KERAS") or sys.executable
SCRIPT = Path(__file__).with_name("make_keras.py")


def keras(name: str, words: str) -> Make:
    """A network of `make_keras.py`, which gets its training data as arrays."""

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as training:
            for key, rows in TRAINING[name](folder).items():
                np.save(Path(training) / f"{key}.npy", rows)
            command = [PYTHON, SCRIPT, name, training, folder]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise RuntimeError(f"{PYTHON} needs tensorflow, tf_keras and tf2onnx (KERAS names another): {done.stderr}")

    return model("Keras", words)(named(make, f"keras_{name}"))


def _loans(folder: Path) -> dict[str, Any]:
    frame = data.loans(folder)
    return {"x": data.columns(frame, [*data.NUMBERS, "white"]), "y": frame["approved"].astype(int)}


def _digits(folder: Path) -> dict[str, Any]:
    pictures, labels = data.digits(folder)
    return {"x": pictures.transpose(0, 2, 3, 1), "y": labels}


def _rows(folder: Path) -> dict[str, Any]:
    pictures, labels = data.digits()
    rows = pictures[:, 0]
    data.arrays(folder, "eights", rows[labels == 8][:40], "others", rows[labels != 8][:100])
    return {"x": rows, "y": labels}


def _untrained(folder: Path) -> dict[str, Any]:
    data.textures(folder, 64)
    return {}


TRAINING: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits": _digits,
    "tabular": _loans,
    "rows": _rows,
    "mobilenet": _untrained,
}
"""What each network is trained on; each writes its data beside the model too."""

keras("digits", "CNN of digits, trained; pictures with channels last")
keras("tabular", "Perceptron of mortgage decisions behind a Normalization layer, a sigmoid at its end")
keras("rows", "Bidirectional LSTM over the rows of digits")
keras("mobilenet", "MobileNetV2 with random weights")
