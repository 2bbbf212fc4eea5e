"""The fuzz targets: a function of bytes for each reader, which returns or raises the reader's own error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from caveat.problems import ProblemError
from caveat.yaml_source import read_document
from caveat_spec.audit import Arrays, Examples, Images, Table, Text
from caveat_worker import inspection
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.conditions import holds
from tests.hostile import arrays, models, pictures, tables, texts

Target = Callable[[bytes], None]
LARGEST_SEED = 16_384  # bytes
ANY = f"sha256:{'0' * 64}"


def model(folder: Path) -> Target:
    """Loads and inspects a model."""
    place = folder / "model"

    def target(data: bytes) -> None:
        place.write_bytes(data)
        try:
            inspection.inspect_model(place)
        except (InvalidInput, MemoryError):
            return

    return target


def reader(declared: Examples, *, fixed: dict[str, bytes] | None = None) -> Callable[[Path], Target]:
    """Opens an example set and reads every example."""

    def make(folder: Path) -> Target:
        place = folder / "examples"
        for name, data in (fixed or {}).items():
            (folder / name).write_bytes(data)

        def target(data: bytes) -> None:
            place.write_bytes(data)
            try:
                inspection.inspect_examples(
                    declared, lambda digest: folder / digest if digest in (fixed or {}) else place
                )
            except (InvalidInput, MemoryError):
                return

        return target

    return make


def condition(folder: Path) -> Target:
    """Parses a condition of `where`."""
    import pyarrow as pa

    columns = {"a": pa.chunked_array([[1, 2]]), "b": pa.chunked_array([["x", None]])}

    def target(data: bytes) -> None:
        try:
            holds(data.decode(errors="replace"), columns)
        except InvalidInput:
            return

    return target


def document(folder: Path) -> Target:
    """Parses an audit file."""
    place = folder / "audit.yaml"

    def target(data: bytes) -> None:
        place.write_bytes(data)
        try:
            read_document(place)
        except ProblemError:
            return

    return target


TARGETS: dict[str, Callable[[Path], Target]] = {
    "model": model,
    "images": reader(Images.model_validate({"images": ANY, "preprocess": {"size": 4}})),
    "arrays": reader(Arrays(arrays=ANY)),
    "table": reader(Table(table=ANY, features=["a", "b=1"], where="a > 0")),
    "text": reader(Text(text="examples", tokenizer="tokenizer", length=4), fixed={"tokenizer": texts.tokenizer()}),
    "tokenizer": reader(Text(text="text", tokenizer="examples", length=4), fixed={"text": texts.LINES}),
    "condition": condition,
    "document": document,
}
SEEDS = {"model": models, "images": pictures, "arrays": arrays, "table": tables, "text": texts, "tokenizer": texts}


def seeds(name: str) -> Iterator[bytes]:
    """Small inputs for the corpus."""
    if name in SEEDS:
        position = 1 if name == "tokenizer" else 0
        for case in SEEDS[name].CASES:
            if not case.heavy:
                blobs = list(case.make().blobs.values())
                if position < len(blobs) and len(blobs[position]) <= LARGEST_SEED:
                    yield blobs[position]
    elif name == "condition":
        yield from (b"a == 1 and b == 'x'", b"a >= 0.5", *(one.encode()[:99] for one in tables.CONDITIONS))
    else:
        yield b"a: &x {b: 1}\nc: *x\nd: [1, 2.5, null, 0x1f]\n<<: *x\n"
