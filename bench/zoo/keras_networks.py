"""Keras networks by tf2onnx, made by an interpreter of their own: `KERAS`, or the one that runs this."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.zoo import data
from bench.zoo.collection import Make, model, named

PYTHON = os.environ.get("KERAS") or sys.executable
SCRIPT = Path(__file__).with_name("make_keras.py")


def keras(name: str, words: str) -> Make:
    """A network of `make_keras.py`, which gets the training data as an array."""

    def make(folder: Path) -> None:
        given = folder / ".training"
        given.mkdir()
        if name == "tabular":
            frame = data.loans(folder)
            np.save(given / "x.npy", data.columns(frame, [*data.NUMBERS, "white"]))
            np.save(given / "y.npy", frame["approved"].astype(int))
        elif name == "digits":
            pictures, labels = data.digits(folder)
            np.save(given / "x.npy", pictures.transpose(0, 2, 3, 1))
            np.save(given / "y.npy", labels)
        elif name == "rows":
            pictures, labels = data.digits()
            np.save(given / "x.npy", pictures[:, 0])
            np.save(given / "y.npy", labels)
            data.arrays(folder, "eights", pictures[labels == 8][:40, 0], "others", pictures[labels != 8][:100, 0])
        else:
            data.textures(folder, 64)
        done = subprocess.run([PYTHON, SCRIPT, name, folder], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{PYTHON} {SCRIPT.name} failed (it needs tensorflow, tf_keras and tf2onnx): {done.stderr}"
            )

    return model("Keras", words)(named(make, f"keras_{name}"))


keras("digits", "CNN of digits, trained; pictures with channels last")
keras("tabular", "Perceptron of mortgage decisions behind a Normalization layer, a sigmoid at its end")
keras("rows", "Bidirectional LSTM over the rows of digits")
keras("mobilenet", "MobileNetV2 with random weights")
