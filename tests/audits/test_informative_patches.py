"""Most informative patches in audits: of handwritten digits in folders, of tables, of texts, and what is refused."""

from __future__ import annotations

import io
import zipfile
from base64 import b64decode
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from caveat.terminal import show_explanations
from caveat_reports import html, markdown
from caveat_reports.canonical import canonical
from caveat_spec.explained import Figure, Icon
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import model_runs
from caveat_worker.engine.panels import informative
from caveat_worker.engine.panels.choice import Source
from tests.audits.conftest import Bench
from tests.audits.test_cache import Kept
from tests.audits.test_maps import kept, opened
from tests.audits.test_shards import divided, run_parts, together
from tests.audits.test_text import LENGTH, WORDS, words
from tests.engine.nets import Net
from tests.explanations import models

__all__ = ["words"]
"""Fixtures that other modules have."""

FIELD, FILTERS, COUNT = 4, 48, 200
WRONG = 4
"""Sevens that lie in the folder of the ones."""


@cache
def fitted() -> bytes:
    """Filters of 4 x 4 pixels, their mean responses as `seen`, and a logistic regression on those, for digits."""
    filters = np.random.default_rng(5).standard_normal((FILTERS, 1, FIELD, FIELD)).astype(np.float32)
    found = load_digits()
    x, y = (found.images[COUNT:1000] / 16).astype(np.float32), found.target[COUNT:1000]
    windows = np.lib.stride_tricks.sliding_window_view(x, (FIELD, FIELD), axis=(1, 2))
    responses = np.maximum(np.einsum("nhwij,fij->nfhw", windows, filters[:, 0]) - 1, 0).mean((2, 3))
    head = LogisticRegression(max_iter=1000, C=30).fit(responses, y)
    assert head.score(responses, y) > 0.9
    net = Net(0)
    conv = net.op("Conv", "x", net.constant(filters), net.constant(np.full(FILTERS, -1.0)))
    net.nodes.append(helper.make_node("Relu", [conv], ["seen"]))
    mean = net.op("Flatten", net.op("GlobalAveragePool", "seen"))
    scores = net.op("Gemm", mean, net.constant(head.coef_), net.constant(head.intercept_), transB=1)
    return net.model(("n", 1, 8, 8), scores)


def folders(to: Path, *, wrong: int = WRONG) -> list[str]:
    """A ZIP file of digits in a folder for each, and the names of the sevens that lie in the folder of the ones."""
    found, misplaced = load_digits(), []
    with zipfile.ZipFile(to, "w") as archive:
        for number in range(COUNT):
            label = int(found.target[number])
            if label == 7 and len(misplaced) < wrong:
                label = 1
                misplaced.append(f"1/{number:04}.png")
            content = io.BytesIO()
            Image.fromarray((found.images[number] / 16 * 255).round().astype(np.uint8)).save(content, "PNG")
            archive.writestr(f"{label}/{number:04}.png", content.getvalue())
    return misplaced


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return digits_in(tmp_path)


def digits_in(folder: Path) -> Bench:
    """An audit that asks which places of digits say seven."""
    (folder / "model.onnx").write_bytes(fitted())
    folders(folder / "digits.zip")
    preprocess = {"size": 8, "mean": 0, "std": 255, "channels": "gray", "layout": "nchw"}
    options = {"layer": "seen", "examples": "digits", "labels": "folder"}
    document = {
        "model": "model.onnx",
        "examples": {"digits": {"images": "digits.zip", "preprocess": preprocess}},
        "targets": {"seven": {"index": 7, "examples": "digits"}},
        "explain": {"patches": {"of": "seven", "examples": {"count": 1}, "show": [{"informative_patches": options}]}},
    }
    return Bench(folder, document)


def drawn(bench: Bench) -> Figure:
    ((_, figure),) = bench.run().explanations[0].figures
    return figure


def asked(bench: Bench) -> dict[str, Any]:
    options: dict[str, Any] = bench.document["explain"]["patches"]["show"][0]["informative_patches"]
    return options


def rows_of(figure: Figure) -> list[list[Icon]]:
    assert figure.icons is not None, figure.withheld
    return [one.icons for one in figure.icons.spectra]


def evidence_by_hand(folder: Path) -> dict[str, np.ndarray]:
    """What the head of the model's file makes of each window of 4 x 4 pixels, by the names of the pictures."""
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(folder / "model.onnx").graph.initializer}
    filters, threshold, coefficients, intercept = (weights[name] for name in sorted(weights, key=lambda n: int(n[1:])))
    found = {}
    with zipfile.ZipFile(folder / "digits.zip") as archive:
        for name in archive.namelist():
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))), float) / 255
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (FIELD, FIELD))
            responses = np.maximum(np.einsum("hwij,fij->fhw", windows, filters[:, 0]) + threshold[:, None, None], 0)
            found[name] = np.einsum("fhw,f->hw", responses, coefficients[7]) + intercept[7]
    return found


def test_patches_are_those_of_a_loop_over_every_window(digits: Bench) -> None:
    figure, evidence = drawn(digits), evidence_by_hand(digits.folder)
    own, others = rows_of(figure)
    assert [atom.id for atom in figure.atoms] == ["examples of the class", "examples of other classes"]
    for row, names in ((own, [n for n in evidence if n[0] == "7"]), (others, [n for n in evidence if n[0] != "7"])):
        order = sorted(names, key=lambda name: -evidence[name].max())[:6]
        assert [icon.example for icon in row] == order
        for icon in row:
            values = evidence[icon.example]
            assert icon.value == pytest.approx(values.max(), rel=1e-4)
            assert tuple(icon.place) == np.unravel_index(int(values.argmax()), values.shape)
            assert icon.whole == pytest.approx(values.mean(), rel=1e-3, abs=1e-3)
            assert icon.label == icon.example[0]
            y, x = icon.place
            assert icon.box == (y, x, y + FIELD - 1, x + FIELD - 1)
            assert icon.picture is not None
            assert Image.open(io.BytesIO(b64decode(icon.picture.partition(",")[2]))).size == (FIELD, FIELD)
    assert own[0].share == others[0].share == 1
    assert figure.icons is not None
    assert (figure.icons.set, figure.icons.examples, figure.icons.sees) == ("digits", COUNT, (4, 4))
    assert [atom.value for atom in figure.atoms] == [own[0].value, others[0].value]
    assert {check.code for check in figure.checks} == {"local", "flat", "mean", "same"}


def test_misplaced_sevens_are_errors_whose_whole_speaks_for_seven(digits: Bench) -> None:
    """On real digits other patches say more; those of wrong labels are the ones whose whole example says so too."""
    misplaced = folders(digits.folder / "digits.zip")
    asked(digits)["count"] = 8
    others = rows_of(drawn(digits))[1]
    found = [icon for icon in others if icon.example in misplaced]
    assert found
    assert all(icon.label == "1" for icon in found)
    assert min(icon.whole or 0 for icon in found) > max(
        icon.whole or 0 for icon in others if icon.example not in misplaced
    )


def test_every_patch_is_on_the_page_in_the_terminal_and_in_markdown(
    digits: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    report = digits.run()
    show_explanations(report)
    terminal, written, page = " ".join(capsys.readouterr().out.split()), markdown.render(report), html.render(report)
    (_, figure), *_ = report.explanations[0].figures
    for row in rows_of(figure):
        for icon in row:
            place = f"row {icon.place[0] + 1}, column {icon.place[1] + 1}"
            told = f"{icon.example}, labelled {icon.label}, at {place} ("
            assert told in terminal
            assert told in written.replace("\\", "")
            assert f"{icon.example}, labelled {icon.label}; the whole " in page
            assert icon.picture is not None
            assert icon.picture in page
    assert "Of 16 examples of digits that are of the class, the place that says most for seven by itself is in 7/" in (
        figure.sentence
    )
    assert "Such places speak for seven against the labels" in figure.sentence
    assert "Patches: of 200 examples of digits, in the order of their highest evidence." in page
    assert '<ol class="ranked"' in page


def test_as_a_table_every_patch_is_a_line(digits: Bench) -> None:
    digits.document["explain"]["patches"]["show"] = [{"informative_patches": asked(digits), "as": "table"}]
    page, figure = html.render(digits.run()), drawn(digits)
    assert figure.presentation == "table"
    for icon in rows_of(figure)[1]:
        assert f'<th scope="row">{icon.example}</th><td class="number">examples of other classes</td>' in page


def test_without_labels_there_is_one_row_and_how_to_get_the_other(digits: Bench) -> None:
    del asked(digits)["labels"]
    figure, evidence = drawn(digits), evidence_by_hand(digits.folder)
    (row,) = rows_of(figure)
    assert [icon.example for icon in row] == sorted(evidence, key=lambda name: -evidence[name].max())[:6]
    assert [atom.id for atom in figure.atoms] == ["all examples"]
    assert figure.sentence.startswith("Of 200 examples of digits, the place that says most for seven")
    assert any("give `labels`, a column of a table, or `folder`" in note for note in figure.notes)
    assert all(icon.label is None for icon in row)


def test_where_all_examples_are_of_the_class_no_row_of_errors_is_drawn(digits: Bench) -> None:
    digits.document["examples"]["digits"]["files"] = "7/*"
    figure = drawn(digits)
    assert len(rows_of(figure)) == 1
    assert "Of 16 examples of digits, all of the class, the place" in figure.sentence
    assert any("All 16 labels are the target's class: give examples of other classes" in note for note in figure.notes)


def test_labels_of_which_none_is_the_class_are_refused(digits: Bench) -> None:
    digits.document["examples"]["digits"]["files"] = "[0-6]/*"
    with pytest.raises(InvalidInput, match="No example of 'digits' has class 7 by 'folder', whose values are '0', '1'"):
        digits.run()


def test_classes_by_the_names_in_the_models_file(digits: Bench) -> None:
    model = onnx.load(digits.folder / "model.onnx")
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    onnx.helper.set_model_props(model, {"names": str(names)})
    onnx.save(model, digits.folder / "model.onnx")
    with zipfile.ZipFile(digits.folder / "digits.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(digits.folder / "digits.zip", "w") as archive:
        for name, picture in content.items():
            archive.writestr(f"{names[int(name[0])]}{name[1:]}", picture)
    own, others = rows_of(drawn(digits))
    assert {icon.label for icon in own} == {"seven"}
    assert "seven" not in {icon.label for icon in others}


@pytest.mark.parametrize(
    ("column", "own", "others"),
    [
        ([7, 1, 7], [0, 2], [1]),
        ([7.0, np.nan, 3.0], [0], [2]),
        (["7", None, "", "07", "7.0", "seven", "7.5"], [0, 3, 4], [5, 6]),
        ([np.True_, np.int64(7), float("inf")], [1], [0, 2]),
    ],
)
def test_labels_are_numbers_in_any_form_and_missing_ones_are_in_no_row(
    column: list[Any], own: list[int], others: list[int]
) -> None:
    names = {"all": [str(row) for row in range(len(column))]}
    source = Source(names, names, lambda *_: {}, lambda *_: {"y": np.array(column, object)}, lambda *_: {})
    kinds, _ = informative.kinds_of(models.opened(fitted(), index=7), source, "all", "y")
    assert [np.flatnonzero(kind).tolist() for kind in kinds] == [own, others]


def _several(bench: Bench) -> None:
    bench.document["explain"]["patches"]["examples"] = {"count": 3}


def _of_the_input(bench: Bench) -> None:
    asked(bench)["layer"] = "input"


def _of_scores(bench: Bench) -> None:
    asked(bench)["layer"] = "gemm_4"


def _as_a_map(bench: Bench) -> None:
    bench.document["explain"]["patches"]["show"] = [{"informative_patches": asked(bench), "as": "map"}]


def _of_another_set(bench: Bench) -> None:
    bench.document["examples"]["ones"] = bench.document["examples"]["digits"] | {"files": "1/*"}
    bench.document["explain"]["patches"]["show"] = [{"informative_patches": asked(bench), "icons": "ones"}]


def _of_a_number(bench: Bench) -> None:
    model = onnx.load(bench.folder / "model.onnx")
    model.graph.node.append(
        helper.make_node("ReduceMax", [model.graph.output[0].name], ["largest"], axes=[1], keepdims=0)
    )
    model.opset_import[0].version = 13
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("largest", onnx.TensorProto.FLOAT, ["n"]))
    onnx.save(model, bench.folder / "model.onnx")
    bench.document["targets"]["seven"] = {"examples": "digits"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (_several, "one-example-is-enough", "informative_patches says the same at each of 3 examples"),
        (_of_the_input, "patches-of-the-input", "those of the input see one pixel, token or number each"),
        (_of_scores, "no-positions", "has no positions and no channels, only 10 numbers"),
        (_as_a_map, "cannot-be-drawn-so", "is not drawn as map: a map has rows and columns of places"),
        (_of_another_set, "icons-not-drawn", "'icons' names 'ones', and patches are from 'digits'"),
        (_of_a_number, "no-errors-of-a-number", "is a single number, and labels tell the examples of its class"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_runs(digits: Bench, change: Any, code: str, said: str) -> None:
    change(digits)
    with pytest.raises(InvalidInput) as refused:
        digits.run()
    assert refused.value.code == code
    assert said in refused.value.sentence
    assert refused.value.remedy
    assert "explaining" not in {stage for stage, _ in digits.stages}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 9}, "9 patches are more than anybody compares at a glance; the most is 8"),
        ({"examples": "digit"}, "names the example set 'digit', which is not declared"),
        ({"labels": "label"}, "'digits' has no such labels: give a column of a table, or 'folder'"),
        ({"labels": ""}, "String should have at least 1 character"),
    ],
)
def test_options_that_mean_nothing_are_refused(digits: Bench, options: dict[str, Any], said: str) -> None:
    asked(digits).update(options)
    with pytest.raises(ValidationError, match=said):
        digits.run()


def test_numbers_that_are_none_are_a_sentence_with_the_example(digits: Bench) -> None:
    x = np.random.default_rng(0).random((12, 1, 8, 8)).astype(np.float32)
    x[7, 0, 3, 3] = np.nan
    digits.save("noise.npy", x)
    digits.document["examples"]["noise"] = {"arrays": "noise.npy"}
    digits.document["explain"]["patches"]["show"] = [{"informative_patches": {"layer": "seen", "examples": "noise"}}]
    with pytest.raises(InvalidInput, match="NaN or infinite at '7' of example set 'noise'") as refused:
        digits.run()
    assert refused.value.pointer == "/explain/patches/show/0"


def test_a_model_whose_places_see_too_much_is_a_sentence(digits: Bench) -> None:
    digits.document["examples"]["digits"]["preprocess"]["size"] = 7
    model = onnx.load(digits.folder / "model.onnx")
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 7
    onnx.save(model, digits.folder / "model.onnx")
    withheld = drawn(digits).withheld
    assert withheld is not None
    assert "A place of seen sees 57% of the input's longer side, and at most 50% is local" in withheld


def test_names_of_examples_are_text_on_the_page(digits: Bench) -> None:
    found = load_digits()
    with zipfile.ZipFile(digits.folder / "digits.zip", "a") as archive:
        content = io.BytesIO()
        row = int(np.flatnonzero(found.target == 7)[-1])
        Image.fromarray((found.images[row] / 16 * 255).astype(np.uint8)).save(content, "PNG")
        archive.writestr("7/<b>bold.png", content.getvalue())
    digits.document["examples"]["digits"]["files"] = "7/<*"
    page = html.render(digits.run())
    assert "&lt;b&gt;bold.png" in page
    assert "<b>bold" not in page.split('<script type="application/json"')[0]


def test_shards_and_a_cache_give_the_same_bytes(digits: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 1)
    digits.document["targets"]["one"] = {"index": 1, "examples": "digits"}
    asking = digits.document["explain"]["patches"] | {"examples": {"pick": ["1/0001.png"]}}
    digits.document["explain"] = {name: asking | {"of": name} for name in ("seven", "one")}
    first = Kept(digits.folder / "kept")
    alone = canonical(digits.run(store=first.store))
    division = divided(digits, 1)
    assert len(division.panels) == 2
    pieces = run_parts(digits, division, digits.folder)
    monkeypatch.setattr(informative.StreamedSets, "_batches", None)
    assert canonical(digits.run(store=first.store)) == alone
    assert canonical(digits.run(store=partial(together, pieces))) == alone


def test_a_file_of_maps_has_the_highest_of_each_kind(digits: Bench) -> None:
    report, content = kept(digits)
    contents, arrays = opened(content)
    (one,) = contents.figures
    assert [array.axes for array in one.arrays] == [["kind of example"]]
    (_, figure), *_ = report.explanations[0].figures
    assert arrays[one.arrays[0].name] == pytest.approx([atom.value for atom in figure.atoms], rel=1e-5)


def of_words(folder: Path) -> None:
    """Embeddings, a window of three tokens, and the mean over those that are no padding: one logit."""
    net = Net(4)
    embedded = net.op("Gather", net.constant(np.random.default_rng(2).standard_normal((len(WORDS), 8))), "input_ids")
    across = net.op("Transpose", embedded, perm=[0, 2, 1])
    window = net.op("Relu", net.op("Conv", across, net.weight(12, 8, 3), net.weight(12), pads=[1, 1]))
    net.nodes.append(helper.make_node("Transpose", [window], ["seen"], perm=[0, 2, 1]))
    mask = net.op("Unsqueeze", net.op("Cast", "attention_mask", to=1), net.constant([2], np.int64))
    along = net.constant([1], np.int64)
    summed = net.op("ReduceSum", net.op("Mul", "seen", mask), along, keepdims=0)
    mean = net.op("Div", summed, net.op("ReduceSum", mask, along, keepdims=0))
    net.nodes.append(helper.make_node("Identity", [net.dense(mean, 12, 1)], ["logit"]))
    inputs = [
        helper.make_tensor_value_info(x, onnx.TensorProto.INT64, ["N", LENGTH]) for x in ("input_ids", "attention_mask")
    ]
    output = [helper.make_tensor_value_info("logit", onnx.TensorProto.FLOAT, ["N", 1])]
    graph = helper.make_graph(net.nodes, "words", inputs, output, net.initializers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )


def test_patches_of_a_text_are_words(words: Bench) -> None:
    of_words(words.folder)
    words.document.pop("gate")
    words.document |= {"test_concepts": False, "layers": "auto"}
    shown = [{"informative_patches": {"layer": "seen", "examples": "others"}}]
    words.document["explain"] = {"patches": {"of": "answer", "examples": {"count": 1}, "show": shown}}
    figure = drawn(words)
    assert figure.withheld is None
    (row,) = rows_of(figure)
    assert len(row) == 6
    for icon in row:
        assert icon.words
        assert icon.mark is not None
        assert icon.place[0] < len(icon.words), "of three words, and no place of padding"
        assert icon.words[icon.mark].startswith("word")
    assert figure.atoms[0].note is not None
    assert f"{row[0].example} at “{row[0].words[row[0].mark or 0]}” (" in figure.atoms[0].note
