"""Writes a Keras network as model.onnx, with tensorflow, tf_keras and tf2onnx: NAME, TRAINING and FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the Keras that tf2onnx reads

import numpy as np
import tensorflow as tf  # type: ignore[import-not-found]
import tf2onnx  # type: ignore[import-not-found]
from tf_keras import Sequential, applications, layers, utils  # type: ignore[import-not-found]


def digits(x: Any, y: Any) -> Any:
    """A CNN as in Keras's own example."""
    network = Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return _fitted(network, x, y)


def tabular(x: Any, y: Any) -> Any:
    """Normalised columns, two hidden layers and one sigmoid."""
    normalise = layers.Normalization()
    normalise.adapt(x)
    hidden = [layers.Dense(32, activation="relu"), layers.Dense(16, activation="relu")]
    network = Sequential([layers.Input((x.shape[1],)), normalise, *hidden, layers.Dense(1, activation="sigmoid")])
    return _fitted(network, x, y, "binary_crossentropy")


def rows(x: Any, y: Any) -> Any:
    """A bidirectional LSTM."""
    network = Sequential([layers.Input((8, 8)), layers.Bidirectional(layers.LSTM(16)), layers.Dense(10, "softmax")])
    return _fitted(network, x, y)


def mobilenet(*_: Any) -> Any:
    """A network of keras.applications."""
    return applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=10)


def _fitted(network: Any, x: Any, y: Any, loss: str = "sparse_categorical_crossentropy") -> Any:
    network.compile("adam", loss)
    network.fit(x, y, epochs=3, verbose=0)
    return network


def main(name: str, training: Path, folder: Path) -> None:
    """Trains and writes one network."""
    utils.set_random_seed(0)
    given = [np.load(path) for path in (training / "x.npy", training / "y.npy") if path.exists()]
    network = {"digits": digits, "tabular": tabular, "rows": rows, "mobilenet": mobilenet}[name](*given)
    signature = [tf.TensorSpec(one.shape, one.dtype, name=one.name) for one in network.inputs]
    tf2onnx.convert.from_keras(network, signature, output_path=str(folder / "model.onnx"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
