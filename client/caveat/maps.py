"""Every number of a report's figures in memory: what `keep: maps` wrote, as arrays with what they are of."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from caveat.outputs import write
from caveat.problems import problem
from caveat_spec.base import digest_of_bytes
from caveat_spec.maps import CONTENTS, Kept, KeptFigure, MapsContents, MapsFile

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FigureMaps:
    """The arrays of one figure; none where it is withheld."""

    figure: KeptFigure
    """Its explanation, example, method, layer, unit, names of atoms, and why it is withheld."""
    arrays: dict[Kept, NDArray[Any]] = field(repr=False)

    @property
    def values(self) -> NDArray[Any] | None:
        """What each atom comes to, in the figure's unit, by axes that `axes` names; None where it is withheld."""
        return self.arrays.get("values")

    @property
    def standard_errors(self) -> NDArray[Any] | None:
        """Of the values, in their shape, where a method draws at random."""
        return self.arrays.get("standard_errors")

    @property
    def pairs(self) -> NDArray[Any] | None:
        """Between two layers: [upper atom, …], what each atom does for each of those in `upper`."""
        return self.arrays.get("pairs")

    @property
    def upper(self) -> NDArray[Any] | None:
        """The numbers of the upper layer's atoms [upper atom], the largest first."""
        return self.arrays.get("upper")

    @property
    def axes(self) -> tuple[str, ...]:
        """What the axes of the values count, such as `row` and `column`."""
        return next((tuple(array.axes) for array in self.figure.arrays if array.what == "values"), ())


@dataclass(frozen=True)
class Maps:
    """The figures of a report with all their numbers, in the report's order."""

    figures: tuple[FigureMaps, ...]
    content: bytes = field(repr=False)
    """The file (`.npz`), whose digest the report has."""
    cavs: dict[tuple[str, str], NDArray[Any]] = field(default_factory=dict, repr=False)
    """Concept and layer → the concept's activation vector there, of an audit with `keep="cavs"`."""

    @classmethod
    def read(cls, content: bytes, named: MapsFile | None = None) -> Maps:
        """The maps in a file's bytes, which `named`, a report's `maps`, has to name by their digest.

        Raises `caveat.ProblemError` for bytes that are none, or other ones.
        """
        import numpy as np  # the client alone does without it

        if named is not None and digest_of_bytes(content) != named.digest:
            raise _no_maps("The bytes are not those that the report names by their digest.")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            found = MapsContents.model_validate_json(str(arrays[CONTENTS]))
            figures = tuple(
                FigureMaps(figure, {array.what: arrays[array.name] for array in figure.arrays})
                for figure in found.figures
            )
            cavs = {(one.concept, one.layer): arrays[one.name] for one in found.cavs}
        except (
            AttributeError,
            EOFError,
            KeyError,
            OSError,
            TypeError,
            ValueError,
            ValidationError,
            zipfile.BadZipFile,
        ):
            raise _no_maps("The bytes are no file of maps.") from None
        return cls(figures, content, cavs)

    def save(self, path: str | Path) -> Path:
        """Writes the file as it is; returns the path."""
        write(Path(path), self.content, "maps")
        return Path(path)


def _no_maps(sentence: str) -> Exception:
    return problem("no-maps", 422, sentence, "Give what an audit with `keep: maps` wrote beside its report.")
