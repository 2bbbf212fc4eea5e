"""The interface of the readers: an opened example set, and what several readers need to open one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import ExampleKind, ExampleSet
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.columns import InputColumn
from caveat_worker.engine.onnx.graph import TensorInfo

if TYPE_CHECKING:
    import pandas

THUMBNAIL_PIXELS = 96
"""Side of a picture in a list of examples."""


@dataclass(frozen=True)
class ModelInputs:
    """What a model takes, as far as a reader needs it."""

    tensors: tuple[TensorInfo, ...]
    columns: Mapping[str, tuple[InputColumn, ...]]
    """What the graph shows about the columns of each input that a table can feed."""
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class ExampleSource:
    """An opened example set, which loads its examples batch by batch."""

    kind: ExampleKind
    names: tuple[str, ...]
    """A unique name for each example: a file name, or a row number."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of one example for each input of the model; `ONLY` is the input of a model that has one."""
    load: Callable[[Sequence[int]], dict[str, NDArray[Any]]] = field(repr=False)
    """Loads the examples at some positions: input → array [n, *shape]."""
    thumbnail: Callable[[int, bool, int], bytes] | None = field(default=None, repr=False)
    """Makes a WebP of what the model sees of a picture, from its position, whether to blur it, and the pixels on a
    side; None for other kinds."""
    parts: Callable[[int], Mapping[str, Sequence[str]]] | None = field(default=None, repr=False)
    """Names the parts of the example at a position: input → its columns, or its tokens without the padding."""
    optional: bool = False
    """Whether the model may have only some of the inputs."""
    columns: Callable[[Sequence[str]], pandas.DataFrame] | None = field(default=None, repr=False)
    """Reads columns of a table by name, unchanged; None for other kinds."""
    fit: Callable[[ModelInputs | None], ExampleSource] | None = field(default=None, repr=False)
    """Turns columns into a model's inputs, or into numbers where no model is known yet; None if examples do not depend
    on the model. Until then the set has names and no shapes."""
    warnings: tuple[str, ...] = ()
    """What the fit to the model showed, in clauses about the set's columns."""
    contents: Callable[[], Sequence[bytes]] | None = field(default=None, repr=False)
    """A digest of each example as it was given; None if what is loaded says the same."""
    positions: tuple[int, ...] | None = None
    """Where each example was among all that the set selects, before a half, a sample or a look was taken of them; None
    where none was."""
    lots: tuple[str, ...] = ()
    """The names by which a half and a sample are drawn, where matched pairs are counted and not named."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def read_columns(self) -> Callable[[Sequence[str]], dict[str, NDArray[Any]]] | None:
        """The columns as arrays [n], where examples are rows of a table."""
        read = self.columns
        if read is None:
            return None
        return lambda names: {str(name): series.to_numpy() for name, series in read(names).items()}

    @property
    def keys(self) -> tuple[str, ...]:
        """The key of each example for matched pairs: its file name without folder and suffix, or its position."""
        if self.kind == "images":
            return tuple(Path(name).stem for name in self.names)
        return tuple(map(str, self._selected))

    @property
    def _selected(self) -> Sequence[int]:
        return range(len(self)) if self.positions is None else self.positions


def taken(source: ExampleSource, positions: Sequence[int]) -> ExampleSource:
    """Some examples of a set that fits the model, in the order of their positions; their keys stay what they were."""
    load, thumbnail, parts, columns, contents = (
        source.load,
        source.thumbnail,
        source.parts,
        source.columns,
        source.contents,
    )

    def contents_there(read: Callable[[], Sequence[bytes]]) -> Sequence[bytes]:
        every = read()
        return [every[position] for position in positions]

    return replace(
        source,
        names=tuple(source.names[position] for position in positions),
        load=lambda rows: load([positions[row] for row in rows]),
        thumbnail=None
        if thumbnail is None
        else lambda row, blurred, pixels: thumbnail(positions[row], blurred, pixels),
        parts=None if parts is None else lambda row: parts(positions[row]),
        columns=None if columns is None else lambda names: columns(names).iloc[list(positions)],
        contents=None if contents is None else lambda: contents_there(contents),
        positions=tuple(source._selected[position] for position in positions),
    )


PARQUET, ARROW = (b"PAR1",), (b"ARROW1", b"\xff\xff\xff\xff")
"""How files of these forms begin: Arrow's as a file, and as the stream that Hugging Face datasets keep on disk."""


def beginning(path: Path) -> bytes:
    """The first 512 bytes of a file."""
    with path.open("rb") as stream:
        return stream.read(512)


def is_dataset(path: Path) -> bool:
    """Whether a file begins as Parquet or Arrow do."""
    return beginning(path).startswith(PARQUET + ARROW)


def is_tar(path: Path) -> bool:
    """Whether a file begins as a tar does."""
    return beginning(path)[257:262] == b"ustar"


def is_zip(path: Path) -> bool:
    """Whether a file has the end record of a zip, even if the zip cannot be read."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def drawn_order(source: ExampleSource, seed: int) -> list[tuple[float, int]]:
    """Each example's seeded number from 0 to 1, and its position, by that number; matched pairs have the same number.

    It depends on the example's key alone, and so on nothing that is measured.
    """

    def number(key: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{seed}:look:{key}".encode()).digest()[:8], "big") / 2**64

    return sorted((number(key), position) for position, key in enumerate(source.keys))


def sampled(names: Sequence[str], declared: ExampleSet, seed: int, labels: Sequence[str] | None = None) -> list[int]:
    """Positions of the half and the seeded sample that a set declares, in order; a name's lot is the same in every set.

    `labels` are what reports call the examples, where that is not the name by which lots are drawn. Raises
    `InvalidInput` for a half without an example, and for examples named in `only` that are not there.
    """
    wanted = _wanted(names if labels is None else labels, declared.only)
    kept = wanted
    if declared.half is not None:
        kept = [at for at in wanted if _half(names[at], declared.together, seed) == declared.half]
    if not kept and names:
        raise InvalidInput(
            "empty-half",
            f"No example is in the {declared.half} half.",
            "Use more examples, or another `method.seed`; `together` keeps examples of one name in one half.",
        )
    if declared.limit is None or declared.limit >= len(kept):
        return kept
    ranks = [_lot(f"{seed}:{Path(names[at]).stem}") for at in kept]
    return sorted(kept[int(position)] for position in np.argsort(np.array(ranks), kind="stable")[: declared.limit])


def _wanted(labels: Sequence[str], only: Sequence[str] | None) -> list[int]:
    """Positions of the examples that a set names one by one, in the set's order; raises `InvalidInput` for others."""
    if only is None:
        return list(range(len(labels)))
    named, there = set(only), set(labels)
    if missing := [label for label in only if label not in there]:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InvalidInput(
            "unknown-example",
            f"'only' names '{missing[0]}'{others}, which the set does not have.",
            "Use names as a report gives them, such as a file's name with its folder, or `row 5`.",
        )
    return [at for at, label in enumerate(labels) if label in named]


def lots_in_pairs(own: Sequence[str], base: Sequence[str]) -> Sequence[str]:
    """The names by which a paired set's half and sample are drawn: its base's, so that no pair is parted."""
    return base[: len(own)] if len(base) >= len(own) else own


def _half(name: str, together: str | None, seed: int) -> str:
    """The half that a name is in, by the part of it that says what belongs together."""
    whole = Path(name).stem
    shared = whole if together is None else whole.rpartition(together)[0] or whole
    return "first" if _lot(f"{seed}:half:{shared}")[0] < 128 else "second"


def _lot(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
