"""Keras networks as tf2onnx exports them: `python bench/keras.py FOLDER`, where tensorflow and tf2onnx are installed.

They have an environment of their own (`pip install tensorflow-cpu tf2onnx tf_keras`): nothing else here imports them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # the Keras that tf2onnx reads

import numpy as np
import tensorflow as tf  # type: ignore[import-not-found]
import tf2onnx  # type: ignore[import-not-found]
from tf_keras import Sequential, applications, layers, utils  # type: ignore[import-not-found]


def cnn(size: int = 30) -> Sequential:
    """Strided convolutions with SAME padding, separable and transposed ones, and the activations Keras users write."""
    return Sequential(
        [
            layers.Input((size, size, 3)),
            layers.Conv2D(8, 5, 2, "same", activation="relu"),
            layers.MaxPooling2D(3, 2, "same"),
            layers.SeparableConv2D(12, 3, padding="same", activation="elu"),
            layers.BatchNormalization(),
            layers.Conv2D(12, 3, 3, "same", activation="swish"),
            layers.Conv2DTranspose(6, 3, 2, "same", activation="softplus"),
            layers.AveragePooling2D(2, 2, "same"),
            layers.Flatten(),
            layers.Dense(10, activation="selu"),
            layers.Dense(4, activation="softmax"),
        ]
    )


def mobilenet(size: int = 64) -> tf.keras.Model:
    """MobileNetV2, trained for a minute to tell gratings of ten orientations apart.

    A deep network of random weights is chaotic: in float32 no step is right for its finite differences.
    """
    network = applications.MobileNetV2((size, size, 3), alpha=0.35, weights=None, classes=10)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # a minute is too short for 0.999
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 3000)
    across, down = np.meshgrid(*[np.arange(size) / size] * 2)
    angles, phases = (labels * np.pi / 10)[:, None, None], rng.uniform(0, 6, (3000, 1, 1))
    gratings = np.sin(40 * (across * np.cos(angles) + down * np.sin(angles)) + phases)[..., None]
    pictures = gratings + 0.5 * rng.standard_normal((3000, size, size, 3))
    network.fit(pictures.astype(np.float32), labels, batch_size=32, epochs=6, verbose=2)
    return network


def export(folder: Path) -> None:
    """Writes each network as an ONNX file, with seeded weights."""
    for name, make in {"cnn": cnn, "mobilenetv2": mobilenet}.items():
        utils.set_random_seed(0)
        tf2onnx.convert.from_keras(make(), opset=17, output_path=str(folder / f"keras-{name}.onnx"))


if __name__ == "__main__":
    export(Path(sys.argv[1]))
