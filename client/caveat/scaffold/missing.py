"""What to put beside a model, and where, so that a first audit can be written."""

from __future__ import annotations

from collections.abc import Iterator

from caveat.scaffold.arrays import fitting_arrays
from caveat.scaffold.beside import FEWEST, Beside, described, sizes
from caveat.scaffold.columns import TABLES, UNREAD, read_columns, why_unread
from caveat.scaffold.features import takes_text, unfitting
from caveat.scaffold.picture_sizes import is_channels_last, spatial_sizes
from caveat.scaffold.pictures import picture_folders, unread_folders
from caveat.scaffold.texts import token_inputs, tokenizer_of

MOST_NAMED = 5
"""Files that a sentence names."""


def what_to_put_where(beside: Beside) -> tuple[str, str]:
    """What is missing, by what the model takes, and the remedy."""
    inputs = beside.inputs
    if len(inputs) == 1 and _takes_pictures(beside):
        detail, remedy = _pictures(beside)
    elif token_inputs(inputs) is not None:
        detail, remedy = _texts(beside)
    elif takes_text(inputs):
        detail, remedy = _column_of_texts(beside)
    elif len(inputs) == 1 and len(inputs[0].shape) == 2:
        detail, remedy = _table(beside)
    elif any(len(one.shape) == 1 and isinstance(one.shape[0], int) and one.shape[0] > 1 for one in inputs):
        detail, remedy = _no_batch(beside)
    elif all(len(one.shape) < 2 or one.shape[1] == 1 for one in inputs):
        detail, remedy = _columns(beside)
    else:
        detail, remedy = _arrays(beside)
    return detail, f"{remedy} Then run `caveat init {beside.model}` again."


def _takes_pictures(beside: Beside) -> bool:
    """Whether the only input has the shape of pictures: square or of colours, or any where pictures are beside it."""
    tensor = beside.inputs[0]
    spatial = spatial_sizes(tensor)
    if spatial is None:
        return False
    colours = tensor.shape[3 if is_channels_last(tensor) else 1] == 3
    return None in spatial or len(set(spatial)) == 1 or colours or bool(picture_folders(beside))


def _pictures(beside: Beside) -> tuple[str, str]:
    unread = unread_folders(beside)
    there = ", ".join(f"{path.name} ({count})" for path, count in {**picture_folders(beside), **unread}.items())
    formats = "Save pictures as PNG, JPEG or WebP. " if unread else ""
    return (
        f"{beside.model} takes pictures of {sizes(beside.inputs[0])}, and beside it there is no folder of {FEWEST} or "
        f"more{f'; found: {there}' if there else ''}.",
        f"{formats}Put pictures that show the concept into {_folder(beside)}concept/, and others, typical of what it "
        f"sees, into {_folder(beside)}photos/: at least {FEWEST} each, better 50. Or put one folder beside it and a "
        "table of their file names and labels: a CSV file, JSON lines, COCO's annotations, or a Parquet or Arrow "
        "dataset.",
    )


def _texts(beside: Beside) -> tuple[str, str]:
    has_tokenizer = tokenizer_of(beside) is not None
    return (
        f"{beside.model} takes tokens, and beside it there are no two sets of {FEWEST} texts"
        f"{'' if has_tokenizer else ' and no tokenizer.json'}.",
        f"Put {'' if has_tokenizer else 'the tokenizer.json of the model beside it, '}texts that show the "
        f"concept into {_folder(beside)}concept.jsonl and others into {_folder(beside)}reference.jsonl, one "
        f'{{"text": "…"}} a line, at least {FEWEST} each.',
    )


def _column_of_texts(beside: Beside) -> tuple[str, str]:
    name = beside.inputs[0].name
    return (
        f"{beside.model} takes a text in its input '{name}', and beside it there is no CSV file with a column of texts "
        f"and a column of two values, with at least {FEWEST} rows of each, that an audit of this model can ask about.",
        f"Put a CSV file beside it with a column '{name}' of texts, and another that says which of them show the "
        "concept. For a model without gradients, write an audit with two CSV files of the same rows: the texts, and "
        "the texts edited to show the concept, with 'pairs_with' the first.",
    )


def _table(beside: Beside) -> tuple[str, str]:
    width = sizes(beside.inputs[0])
    tables = [table for path in beside.files(*TABLES) if (table := read_columns(path)) is not None]
    absent = f"{beside.model} takes {width} numbers a row, and beside it there is no CSV file that can be read."
    return (
        " ".join([unfitting(tables[0], beside.inputs) if tables else absent, *_unread(beside)]),
        f"Put a CSV file beside it that has the model's inputs as columns of numbers, in its order, and at "
        f"most one more, for the outcome; or save arrays of n x {width} as {_folder(beside)}concept.npy (examples with "
        f"the concept) and reference.npy (without), at least {FEWEST} rows each.",
    )


def _columns(beside: Beside) -> tuple[str, str]:
    names = ", ".join(one.name for one in beside.inputs)
    return (
        f"{beside.model} takes one value a row in each of its inputs ({names}), and beside it there is no CSV file "
        f"with these columns.{''.join(f' {sentence}' for sentence in _unread(beside))}",
        "Put a CSV file beside it that has a column by each of these names, and others for what groups people.",
    )


def _unread(beside: Beside) -> Iterator[str]:
    """A sentence for each file that people would take for a table, and that cannot be read as one."""
    for path in beside.files(*TABLES, *UNREAD)[:MOST_NAMED]:
        reason = why_unread(path)
        if reason is not None:
            yield f"{path.name} {reason}."


def _no_batch(beside: Beside) -> tuple[str, str]:
    """An input whose only axis has a fixed size: one example, and no axis of a batch."""
    taken = "; ".join(map(described, beside.inputs))
    return (
        f"{beside.model} takes {taken}: one example, without an axis for the examples of a batch.",
        "Export it with the batch as the first axis, so that an example of 4 numbers is 1 x 4 and not 4: for torch, "
        "call it with `x[None]`.",
    )


def _arrays(beside: Beside) -> tuple[str, str]:
    inputs = beside.inputs
    there = ", ".join(f"{one.name} ({one.count})" for one in fitting_arrays(beside))
    names = ", ".join(one.name for one in inputs)
    ending, what = (
        ("npy", f"arrays of n x {sizes(inputs[0])}") if len(inputs) == 1 else ("npz", f"arrays by the names {names}")
    )
    return (
        f"{beside.model} takes {'; '.join(map(described, inputs))}, and beside it there are no two sets of arrays that "
        f"fit{f'; found: {there}' if there else ''}.",
        f"Save {what} as {_folder(beside)}concept.{ending} (examples with the concept) and reference.{ending}, at "
        f"least {FEWEST} examples each.{_by_table(beside)}",
    )


def _by_table(beside: Beside) -> str:
    """How a table feeds several inputs, of which some take several columns; nothing where no table can."""
    inputs = beside.inputs
    if len(inputs) == 1 or any(len(one.shape) > 2 for one in inputs):
        return ""
    columns = ", ".join(f"{one.name}: {'column' if sizes(one) == '1' else '[column, …]'}" for one in inputs)
    return f" Or write an audit of a table: an example set with `table: people.csv` and `inputs: {{{columns}}}`."


def _folder(beside: Beside) -> str:
    """The folder of the audit file as a beginning of paths, nothing where it is this one."""
    return "" if str(beside.folder) == "." else f"{beside.folder}/"
