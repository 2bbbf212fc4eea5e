"""A report with maps that raters can judge: three classes, eight pictures each, two kinds of map."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

from caveat_reports.canonical import canonical
from caveat_spec.audit import Audit
from caveat_spec.explain import Element
from caveat_spec.explained import Atom, Check, Explained, Figure, Grid, Panel, Rest
from caveat_spec.report import Report
from tests.api_spec import handmade

CLASSES = ("cab", "zebra", "cucumber")
METHODS = {"gradient_x_input": "Gradient x input", "saliency": "Saliency"}
MODEL = "sha256:" + "0" * 64


def audit(concepts: tuple[str, ...] = ("caption",)) -> Audit:
    sets = {name: {"images": "sha256:" + "1" * 64, "preprocess": {"size": 8}} for name in ("photos", *concepts)}
    return Audit.model_validate(
        {
            "model": MODEL,
            "examples": sets,
            "concepts": {name: {"examples": name, "against": "photos"} for name in concepts},
            "targets": {name: {"index": at, "examples": "photos"} for at, name in enumerate(CLASSES)},
            "explain": {f"why_{name}": {"of": name, "show": list(METHODS)} for name in CLASSES},
        }
    )


def picture(number: int, size: int = 28) -> str:
    """A small PNG with a band below, where a caption would be."""
    rows = b"".join(
        b"\0"
        + b"".join(
            bytes([250, 250, 250]) if y > size - 6 else bytes([(40 * number + 4 * x) % 256, (9 * y) % 256, 90])
            for x in range(size)
        )
        for y in range(size)
    )

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()


def figure(method: str, number: int, **changed: Any) -> Figure:
    cells = bytes((7 * number + 11 * at + (90 if at >= 42 else 0)) % 120 for at in range(49))
    asked: dict[str, Any] = {
        "element": Element.model_validate(method),
        "presentation": "map",
        "layer": "input",
        "atoms_of": "pixels",
        "title": METHODS.get(method, method),
        "sentence": "In this picture the caption raises the number most.",
        "signed": method != "saliency",
        "map": Grid(shape=(7, 7), scale=0.4, cells=base64.b64encode(cells).decode()),
        "atoms": [Atom(id="row 7, column 1", value=0.4)],
        "rest": Rest(count=48, sum=0.3),
        "scale": 0.4,
        "checks": [Check(code="flat", value=0.2, bound=0.0, ok=True, sentence="The gradient is not zero.")],
        "notes": ["The baseline is 0."],
    }
    return Figure(**asked | changed)


def explained(name: str, figures: Any, pictures: int = 8, **changed: Any) -> Explained:
    panels = [
        Panel(
            example=f"{name}-{number}.png",
            position=number,
            set="photos",
            value=2.0,
            thumbnail=picture(number),
            figures=figures(number),
        ).model_copy(update=changed)
        for number in range(pictures)
    ]
    return Explained(
        name=f"why_{name}", target=name, unit="logit", selection="8 of 40.", reading=[], panels=panels, passes=8
    )


def maps(number: int) -> list[Figure]:
    return [figure(method, number) for method in METHODS]


def report(concepts: tuple[str, ...] = ("caption",), explanations: list[Explained] | None = None) -> Report:
    asked = [explained(name, maps) for name in CLASSES] if explanations is None else explanations
    return handmade.report().model_copy(update={"audit": audit(concepts), "explanations": asked})


def written(path: Path, of: Report | None = None) -> Path:
    """The report as a file."""
    path.write_bytes(canonical(of or report()))
    return path
