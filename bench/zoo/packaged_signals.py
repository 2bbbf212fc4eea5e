"""ONNX files for sound and other signals that packages on PyPI carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pywt.data

from bench.zoo import data
from bench.zoo.collection import Make, model, named


def silero(file: str, words: str) -> Make:
    """A file of Silero VAD with frames of speech and of pauses; its recurrent state is the beginning of a recording."""

    def make(folder: Path) -> None:
        data.copied("silero-vad", f"silero_vad/data/{file}.onnx", folder)
        shown, other = data.frames(576)
        data.arrays(folder, "speech", shown, "pauses", other)

    return model("silero-vad", words)(named(make, file))


silero("silero_vad", "Voice activity at two sampling rates: a branch for each, state and rate as inputs")
silero("silero_vad_16k_op15", "Voice activity at 16 kHz, opset 15; state and rate as inputs")
silero("silero_vad_half", "Voice activity in float16 inside; state as an input")
silero("silero_vad_op18_ifless", "Voice activity without branches, opset 18; state and rate as inputs")
silero("silero_vad_openvino_16k", "Voice activity at 16 kHz with a batch of 1; state as an input")


def _beats(length: int, count: int = 2 * data.COUNT) -> data.Array:
    """Windows of an electrocardiogram [count, length], from places that are drawn."""
    signal = (pywt.data.ecg() / 200).astype(np.float32)
    starts = np.random.default_rng(0).integers(0, len(signal) - 1, count)
    return np.stack([np.resize(np.roll(signal, -start), length) for start in starts])


@model("brainmaze-eeg-models", "Seizures in spectrograms of 100 bands; time before the batch")
def eeg_seizures(folder: Path) -> None:
    data.copied("brainmaze-eeg-models", "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", folder)
    windows = _beats(100 * 32).reshape(-1, 32, 100).transpose(0, 2, 1)
    data.arrays(folder, "fast", np.ascontiguousarray(windows[:, ::-1]) ** 2, "slow", windows**2)


@model("brainmaze-eeg-models", "Sleep spindles in a signal and its spectrogram: two inputs, two outputs")
def eeg_spindles(folder: Path) -> None:
    data.copied("brainmaze-eeg-models", "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx", folder)
    raw = _beats(7500, data.COUNT)[:, None]
    spectrogram = np.repeat(raw**2, 15, axis=1)
    louder = {"raw_signal": 3 * raw, "spectrogram": 9 * spectrogram}
    data.arrays(folder, "louder", louder, "recorded", {"raw_signal": raw, "spectrogram": spectrogram})


def traffic(file: str, words: str, width: int) -> Make:
    """A file of a traffic package: LightGBM, rows in float64, beside a table of as many columns."""

    def make(folder: Path) -> None:
        data.copied("atspm-detector", f"atspm_detector/weights/{file}.onnx", folder)
        rows = np.random.default_rng(0).normal(size=(120, width))
        frame = pd.DataFrame(rows, columns=[f"figure_{number}" for number in range(width)])
        frame.to_csv(folder / "hours.csv", index=False)

    return model("atspm-detector", words)(named(make, f"traffic_{file.rpartition('/')[2]}"))


traffic("decode_v3", "LightGBM of 25 figures of a traffic detector, float64; drawn rows", 25)
traffic("stacker/stacker_mean3_s0", "LightGBM of 7 functions of a detector, float64; drawn rows", 46)


@model("atspm-detector", "Network of pairs of detectors over time: a score and an embedding; drawn events")
def traffic_pairs(folder: Path) -> None:
    data.copied("atspm-detector", "atspm_detector/weights/funcnet/x100_w32full_pair.onnx", folder)
    events = np.random.default_rng(0).poisson(1, (120, 15, 64)).astype(np.float32)
    data.arrays(folder, "busy", events[:40] + 1, "usual", events)
