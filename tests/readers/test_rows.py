"""Tables, texts and pictures from the forms in which datasets lie on disk, and pictures by folder or annotation."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from caveat_spec.audit import Images, Table
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.registry import open_examples
from caveat_worker.readers.rows import read_rows
from tests.readers.conftest import at
from tests.readers.test_images import png, tarred, zipped
from tests.readers.test_texts import declared as text
from tests.readers.test_texts import place  # noqa: F401  # a fixture

ROWS = pa.table({"income": [40.0, 50.5], "text": ["he is", "she is"], "label": ["kind", "rude"]})
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def parquet(rows: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(rows, buffer)
    return buffer.getvalue()


def arrow(rows: pa.Table, new: Callable[..., Any] = pa.ipc.new_stream) -> bytes:
    buffer = io.BytesIO()
    with new(buffer, rows.schema) as writer:
        writer.write_table(rows)
    return buffer.getvalue()


def json_lines(rows: pa.Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows.to_pylist()).encode()


def split(tmp_path: Path, rows: pa.Table) -> bytes:
    """The folder of one split of a dataset, packed as the client packs it."""
    parts = {f"data-0000{i}-of-00002.arrow": arrow(rows.slice(i, 1)) for i in (1, 0)}
    return tarred(tmp_path / "packed", {**parts, "state.json": b"{}"}).read_bytes()


FORMS: dict[str, Callable[[Path], bytes]] = {
    "JSON lines": lambda _: json_lines(ROWS),
    "Parquet": lambda _: parquet(ROWS),
    "Arrow stream": lambda _: arrow(ROWS),
    "Arrow file": lambda _: arrow(ROWS, pa.ipc.new_file),
    "a split of a dataset": lambda folder: split(folder, ROWS),
}


@pytest.fixture(params=FORMS)
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    path.write_bytes(FORMS[request.param](tmp_path))
    return path


def test_tables_are_read_in_every_form(rows: Path) -> None:
    declared = Table.model_validate({"table": "x", "features": ["income"]})
    opened = open_examples(declared, at(rows), 0)
    assert opened.fit is not None
    assert opened.fit(None).load([0, 1])[ONLY].tolist() == [[40.0], [50.5]]


def test_texts_are_read_in_every_form(place: Path, rows: Path) -> None:  # noqa: F811
    rows.rename(place / "text")
    source = open_examples(text(where="label == rude"), place.joinpath, 0)
    assert source.load([0])["input_ids"].tolist() == [[3, 4, 0, 0, 0]]
    assert source.names[0].split()[1] == "2"


def test_texts_may_be_a_column_of_a_csv(place: Path) -> None:  # noqa: F811
    pyarrow.csv.write_csv(ROWS, place / "text")
    assert open_examples(text(), place.joinpath, 0).names == ("row 1", "row 2")


def test_a_table_without_the_field_says_what_it_has(place: Path) -> None:  # noqa: F811
    (place / "text").write_bytes(parquet(ROWS))
    with pytest.raises(InvalidInput, match=r"no column 'body'; it has: income, text, label"):
        open_examples(text(field="body"), place.joinpath, 0)


def images(**fields: object) -> Images:
    return Images.model_validate({"images": "images", "preprocess": {"size": 1}, **fields})


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two classes of pictures in folders."""
    zipped(tmp_path / "images", {"horse/1.png": png(RED), "zebra/1.png": png(GREEN), "zebra/2.png": png(BLUE)})
    return tmp_path


def test_a_class_folder_is_chosen_by_a_pattern(zoo: Path) -> None:
    assert open_examples(images(files="zebra/*"), zoo.joinpath, 0).names == ("zebra/1.png", "zebra/2.png")


def test_a_pattern_that_fits_nothing_names_the_folders(zoo: Path) -> None:
    with pytest.raises(InvalidInput, match=r"like 'zebras/\*'.* there are: horse, zebra"):
        open_examples(images(files="zebras/*"), zoo.joinpath, 0)


@pytest.mark.parametrize("form", [json_lines, parquet, arrow])
def test_a_table_of_paths_chooses_pictures(zoo: Path, form: Callable[[pa.Table], bytes]) -> None:
    listed = pa.table({"path": ["data/zebra/2.png", "horse/1.png"], "striped": [1, 0]})
    (zoo / "annotations").write_bytes(form(listed))
    source = open_examples(images(annotations="annotations", where="striped == 1"), zoo.joinpath, 0)
    assert source.names == ("zebra/2.png",)
    assert source.load([0])[ONLY].ravel().tolist() == list(BLUE)


COCO = {
    "images": [{"id": 7, "file_name": "1.png", "width": 8}, {"id": 8, "file_name": "2.png", "width": 8}],
    "categories": [{"id": 3, "name": "zebra"}, {"id": 4, "name": "car"}],
    "annotations": [{"image_id": 7, "category_id": 3}, {"image_id": 8, "category_id": 4}],
}


@pytest.mark.parametrize(("where", "names"), [("zebra >= 1", ["1.png"]), ("zebra == 0", ["2.png"])])
def test_coco_s_categories_are_columns(tmp_path: Path, where: str, names: list[str]) -> None:
    zipped(tmp_path / "images", {"1.png": png(RED), "2.png": png(GREEN)})
    (tmp_path / "annotations").write_text(json.dumps(COCO))
    source = open_examples(images(annotations="annotations", where=where), tmp_path.joinpath, 0)
    assert list(source.names) == names


@pytest.mark.parametrize(
    ("annotations", "where", "code", "words"),
    [
        ('{"path": "horse/9.png"}', None, "missing-picture", "'horse/9.png', which is not among the pictures"),
        ('{"path": "1.png"}', None, "missing-picture", "'1.png', which fits 2 pictures"),
        ('{"striped": 1}', None, "missing-column", "no column seems to hold the file names"),
        ('{"path": 3}', None, "missing-field", "no file name in row 1"),
        ('{"path": "zebra/2.png"}', "path == x", "no-examples", "for which 'path == x' holds"),
        ('{"images": [], "annotations": [{"image_id": 1}]}', None, "not-coco", "KeyError: 'category_id'"),
        ('{"images": [], "annotations": 3}', None, "not-coco", "TypeError"),
        ('{"images": 1', None, "not-a-table", "cannot be read as JSON lines"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(
    zoo: Path, annotations: str, where: str | None, code: str, words: str
) -> None:
    (zoo / "annotations").write_text(annotations)
    with pytest.raises(InvalidInput, match=words) as refused:
        open_examples(images(annotations="annotations", where=where), zoo.joinpath, 0)
    assert refused.value.code == code


def test_rows_cannot_be_selected_without_rows(zoo: Path) -> None:
    with pytest.raises(InvalidInput, match="'where' selects rows"):
        open_examples(images(where="zebra >= 1"), zoo.joinpath, 0)


PICTURES = pa.table(
    {
        "image": [{"bytes": png(color), "path": None} for color in (RED, GREEN, BLUE)],
        "label": [0, 1, 1],
    }
)


@pytest.mark.parametrize("form", ["Parquet", "a split of a dataset"])
def test_pictures_may_be_a_column_of_a_dataset(tmp_path: Path, form: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(parquet(PICTURES) if form == "Parquet" else split(tmp_path, PICTURES))
    source = open_examples(images(where="label >= 0", limit=2), tmp_path.joinpath, 0)
    assert len(source) == 2
    whole = open_examples(images(), tmp_path.joinpath, 0)
    np.testing.assert_array_equal(whole.load([1])[ONLY].ravel(), GREEN)


@pytest.mark.parametrize(
    ("table", "code", "words"),
    [
        (ROWS, "missing-column", "no column seems to hold pictures"),
        (pa.table({"image": pa.array([None], pa.binary())}), "missing-picture", "no bytes in row 1"),
    ],
)
def test_a_dataset_without_pictures_is_refused(tmp_path: Path, table: pa.Table, code: str, words: str) -> None:
    (tmp_path / "images").write_bytes(parquet(table))
    with pytest.raises(InvalidInput, match=words) as refused:
        open_examples(images(), tmp_path.joinpath, 0).load([0])
    assert refused.value.code == code


def test_a_tar_of_broken_parts_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images", "w") as archive:
        member = tarfile.TarInfo("a.arrow")
        member.size = 6
        archive.addfile(member, io.BytesIO(b"ARROW1"))
    with pytest.raises(InvalidInput, match="cannot be read as a tar of tables"):
        open_examples(images(), tmp_path.joinpath, 0)


@pytest.mark.parametrize(
    "text",
    [
        "income;label\n40,5;0\n1,25;1\n",
        '\ufeffincome;"label"\n"40,5";0\n"1,25";1\n',
        "income\tlabel\n40.5\t0\n1.25\t1\n",
        "income;label\n40.5;0\n1.25;1\n",
        "income,label\n40.5,0\n1.25,1\n",
    ],
)
def test_numbers_are_the_same_however_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    source = open_examples(Table(table="x", features=["income", "label"]), at(path), 0)
    assert source.fit is not None
    assert source.fit(None).load([0, 1])[ONLY].tolist() == [[40.5, 0], [1.25, 1]]


def test_semicolons_inside_cells_separate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('income,"a;b"\n40.5,"x;y"\n')
    assert read_rows(path).to_pylist() == [{"income": 40.5, "a;b": "x;y"}]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PK\3\4" + bytes(600), "an Excel workbook, or another zip archive"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "an old Excel workbook"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "compressed by gzip"),
        (pickle.dumps({"a": 1}), "a pickle, which runs code when it is read"),
        ("a,b\n1,2\n".encode("utf-16"), "text in UTF-16"),
        (b' [ {"a": 1}, {"a": 2} ]', "one array of JSON"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=f"The table is {sentence}"):
        read_rows(path)
