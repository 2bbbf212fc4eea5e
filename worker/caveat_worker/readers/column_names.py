"""Which columns of a table feed which inputs of a model: as declared, by name, or as its metadata says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from caveat_spec.audit import Table
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.readers.source import ModelInputs


def column_of(columns: Collection[str], feature: str) -> str:
    """The column of a feature: the feature itself, or the part before `=`."""
    return feature if feature in columns else feature.partition("=")[0]


def columns_by_input(declared: Table, inputs: ModelInputs, columns: Sequence[str]) -> dict[str, list[str]]:
    """The columns or features that feed each input, in its order; under `ONLY` where the set declares `features`.

    Raises `InvalidInput` for inputs that no column or more than one column fits.
    """
    taken = ", ".join(f"'{tensor.name}'" for tensor in inputs.tensors)
    if declared.features:
        if len(inputs.tensors) != 1:
            raise InvalidInput(
                "several-inputs",
                f"The set lists 'features', which are the columns of one input; the model has {len(inputs.tensors)}: "
                f"{taken}.",
                "Leave 'features' out, so that columns feed the inputs of their names, or name columns in 'inputs'.",
            )
        return {ONLY: declared.features}
    unknown = [name for name in declared.inputs if name not in {tensor.name for tensor in inputs.tensors}]
    if unknown:
        raise InvalidInput(
            "unknown-input",
            f"The set feeds '{unknown[0]}', which the model does not have.",
            f"Its inputs are {taken}.",
            "inputs",
        )
    chosen = {tensor.name: _columns_of(tensor, declared, inputs, columns) for tensor in inputs.tensors}
    _check_shared({name: found for name, found in chosen.items() if name not in declared.inputs})
    return chosen


def order_warning(declared: Table, inputs: ModelInputs, columns: Sequence[str]) -> str | None:
    """A clause where the set names columns in another order than the model's metadata does, or names others.

    Where the model holds no names, the order of the table's own columns is what training usually saw.
    """
    features = declared.features or []
    known = False
    for names in _lists_of_names(inputs.metadata, len(features)):
        named = [_only(_like(name, columns)) for name in names]
        known = known or None not in named
        if None in named or named == features:
            continue
        place = next(i for i, (have, want) in enumerate(zip(features, named, strict=True)) if have != want)
        return (
            f"'features' has '{features[place]}' in place {place + 1}, and the model's metadata '{named[place]}'; "
            "in another order than at training, columns are taken for each other"
        )
    return None if known else _unlike_the_table(features, columns)


def _unlike_the_table(features: Sequence[str], columns: Sequence[str]) -> str | None:
    """A clause for the first two features that the table has in the opposite order."""
    places = {name: place for place, name in enumerate(columns)}
    have = dict.fromkeys(column_of(columns, feature) for feature in features)
    opposite = next(((one, other) for one, other in pairwise(have) if places[one] > places[other]), None)
    if opposite is None:
        return None
    return (
        f"'features' has '{opposite[0]}' before '{opposite[1]}', the table has them in the opposite order, and the "
        "model does not say in which it takes them; in another order than at training, columns are taken for each other"
    )


def _columns_of(tensor: TensorInfo, declared: Table, inputs: ModelInputs, columns: Sequence[str]) -> list[str]:
    """The columns of one input."""
    if tensor.name in declared.inputs:
        named = declared.inputs[tensor.name]
        return [named] if isinstance(named, str) else named
    width = tensor.shape[1] if len(tensor.shape) == 2 else 1
    if width == 1:
        return [_column_named(tensor.name, columns)]
    for names in _lists_of_names(inputs.metadata, width) if isinstance(width, int) else ():
        named_columns = [_only(_like(name, columns)) for name in names]
        if all(named_columns):
            return [name for name in named_columns if name is not None]
    raise InvalidInput(
        "columns-not-named",
        f"The model's input '{tensor.name}' takes {width if isinstance(width, int) else 'several'} columns, and nothing"
        " says which.",
        f"List them in the model's order: in 'features', or in 'inputs' as {{{tensor.name}: [...]}}.",
    )


def _column_named(name: str, columns: Sequence[str]) -> str:
    """The one column that has an input's name."""
    found = _like(name, columns)
    if not found:
        raise InvalidInput(
            "missing-column",
            f"The table has no column for the model's input '{name}'.",
            f"It has: {', '.join(columns)}. Name one of them in 'inputs': {{{name}: COLUMN}}.",
        )
    if len(found) > 1:
        raise _ambiguous(f"Columns {_quoted(found)} have the name of the model's input '{name}'", name)
    return found[0]


def _check_shared(chosen: Mapping[str, Sequence[str]]) -> None:
    """No column feeds two inputs unless the set says so."""
    uses = Counter(column for columns in chosen.values() for column in columns)
    for column, times in uses.items():
        if times > 1:
            names = [name for name, columns in chosen.items() if column in columns]
            raise _ambiguous(f"Column '{column}' has the name of the model's inputs {_quoted(names)}", names[0])


def _ambiguous(sentence: str, name: str) -> InvalidInput:
    return InvalidInput(
        "ambiguous-column", f"{sentence}, but for characters that exporters change.",
        f"Say which one is meant in 'inputs': {{{name}: COLUMN}}.",
    )  # fmt: skip


def _like(name: str, columns: Sequence[str]) -> list[str]:
    """The columns of a name as exporters write it, or if there is none, those that differ in case or punctuation."""
    renamed = [column for column in columns if name in (column, _exported(column))]
    return renamed or [column for column in columns if _folded(column) == _folded(name)]


def _exported(column: str) -> str:
    """A column's name as skl2onnx writes it: other characters than letters, digits and _ replaced, no leading digit."""
    plain = re.sub(r"[^\w+]", "_", column)
    return f"_{plain}" if re.match(r"[0-9]", plain) else plain


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.casefold()).strip("_")


def _lists_of_names(metadata: Mapping[str, str], width: int) -> Iterable[list[str]]:
    """Every list of so many different names in a model's metadata: as JSON, or divided by commas or lines."""
    readers: tuple[Callable[[str], object], ...] = (json.loads, _divided)
    for text in metadata.values():
        for read in readers:
            try:
                names = read(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(names, list) and len(names) == width and all(isinstance(name, str) for name in names):
                yield names
                break


def _divided(text: str) -> list[str]:
    return [name.strip() for name in re.split(r"[,\n]", text)]


def _only(found: Sequence[str]) -> str | None:
    return found[0] if len(found) == 1 else None


def _quoted(names: Iterable[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
