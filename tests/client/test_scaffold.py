"""A first audit fits the model and the data beside it, and runs; where it cannot, `init` says what to put where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from caveat.auditfile import read_audit
from caveat.cli import cli
from caveat.scaffold.beside import likeliest
from caveat.scaffold.draft import flow, set_name
from caveat.scaffold.picture_sizes import sizes_to_try
from caveat_spec.artifacts import Tensor
from caveat_spec.audit import Arrays, Audit, ConceptLine, Images, Table
from caveat_spec.power import amount
from tests.client import first_audits
from tests.client.first_audits import REFUSED, RUNS

DECIDED = {0, 1, 4}
QUICK = ("a_table_with_a_protected_column", "odd_names", "one_folder_of_pictures", "two_arrays")
"""Folders that are tried in every run of the tests; the others are tried with the slow ones."""

Caveat = Callable[..., Result]


@pytest.fixture
def caveat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Caveat:
    """`caveat …` in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli, arguments)


def drafted(caveat: Caveat, folder: Path, name: str) -> Audit:
    """The audit that `init` writes for a folder."""
    RUNS[name](folder)
    done = caveat("init", "model.onnx")
    assert done.exit_code == 0, done.output
    return read_audit(folder / "audit.yaml").audit


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_what_init_writes_runs(caveat: Caveat, tmp_path: Path, name: str) -> None:
    RUNS[name](tmp_path)
    done = caveat("init", "model.onnx")
    assert done.exit_code == 0, done.output
    gate = caveat("gate", "audit.yaml")
    assert gate.exit_code in DECIDED, gate.output + (tmp_path / "audit.yaml").read_text()


def test_texts_that_differ_in_a_word_are_pairs(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "two_files_of_pairs_and_one_of_other_texts")
    assert {name: one.pairs_with for name, one in audit.examples.items()} == {"reviews": None, "he": "she", "she": None}
    assert {name: (one.examples, one.reference_sets) for name, one in audit.concepts.items()} == {"he": ("he", ["she"])}
    (target,) = audit.targets.values()
    assert target.examples == "reviews"
    gate = caveat("gate", "audit.yaml", "--json", "report.json")
    assert gate.exit_code in DECIDED, gate.output
    tests = json.loads((tmp_path / "report.json").read_bytes())["tests"]
    assert [one["concept"] for one in tests if one["evidence"] == "intervention"] == ["he"]


def test_a_decoder_is_asked_for_the_token_that_follows(caveat: Caveat, tmp_path: Path) -> None:
    (target,) = drafted(caveat, tmp_path, "two_files_of_texts_for_a_decoder").targets.values()
    assert (target.output, target.reduce) == ("logits", "last")
    file = tmp_path / "audit.yaml"
    assert "labels: tokenizer.json" in file.read_text(), "in a comment, which says how tokens are named"
    index = f"index: {target.index}"
    named = file.read_text().replace(index, "class: nurse, versus: doctor").replace(
        "model: model.onnx", "model: model.onnx\nlabels: tokenizer.json"
    )  # fmt: skip
    file.write_text(named)
    gate = caveat("gate", "audit.yaml", "--json", "report.json")
    assert gate.exit_code in DECIDED, gate.output
    sentence = json.loads((tmp_path / "report.json").read_bytes())["plan"]["targets"][0]["sentence"]
    assert "is class 7 ('nurse') less class 6 of tensor 'logits' at the last token by 'attention_mask'" in sentence


@pytest.mark.parametrize(
    "name", [name if name == "an_empty_folder" else pytest.param(name, marks=pytest.mark.slow) for name in REFUSED]
)
def test_init_says_what_is_missing_and_writes_nothing(caveat: Caveat, tmp_path: Path, name: str) -> None:
    build, remedy = REFUSED[name]
    build(tmp_path)
    before = set(tmp_path.rglob("*"))
    done = caveat("init", "model.onnx")
    assert done.exit_code == 2, done.output
    assert remedy in done.output
    assert set(tmp_path.rglob("*")) == before


def test_the_explanation_in_a_comment_runs_once_it_is_none(caveat: Caveat, tmp_path: Path) -> None:
    drafted(caveat, tmp_path, "two_arrays")
    audit = tmp_path / "audit.yaml"
    audit.write_text(audit.read_text().replace("# explain:", "explain:"))
    done = caveat("explain", "audit.yaml")
    assert done.exit_code == 0, done.output
    assert "highest: Of " in done.output


def test_a_two_valued_column_becomes_pairs_and_groups(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "a_table_with_a_protected_column")
    everyone, shown = audit.examples["everyone"], audit.examples["race_1"]
    assert isinstance(everyone, Table)
    assert isinstance(shown, Table)
    assert everyone.features == ["net income", "debt ratio", "race"]
    assert (shown.set, shown.pairs_with) == ({"race": 1}, "race_0")
    assert (audit.targets["answer"].index, audit.targets["answer"].versus) == (1, 0)
    assert (audit.groups["by_race"].sensitive, audit.groups["by_race"].label) == (["race"], "approved")


@pytest.mark.parametrize("name", ["default", "churned", "is_fraud"])
def test_nobody_is_selected_by_an_outcome_that_nobody_wants(caveat: Caveat, tmp_path: Path, name: str) -> None:
    """The four-fifths rule compares who gets the favourable decision: here the class without the outcome."""
    first_audits.mlp(tmp_path, 3, 2, "Softmax")
    columns = {"saved": first_audits.numbers(1), "debt": first_audits.numbers(2), "sex": first_audits.bits(3)}
    first_audits.table(tmp_path, {**columns, name: first_audits.bits(4)})
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert f"`{name}` is taken for what nobody wants, so the answer is class 0: without it, and selected." in said
    audit = read_audit(tmp_path / "audit.yaml").audit
    assert (audit.targets["answer"].index, audit.targets["answer"].versus) == (0, 1)
    assert audit.groups["by_sex"].label is None, "its positives are the other class"


@pytest.mark.parametrize(("words", "index"), [(("approved", "denied"), 0), (("bad", "good"), 1), (("no", "yes"), 1)])
def test_the_favourable_of_two_words_is_selected(
    caveat: Caveat, tmp_path: Path, words: tuple[str, str], index: int
) -> None:
    """Classifiers have their classes in the order of the alphabet."""
    first_audits.mlp(tmp_path, 3, 2, "Softmax")
    columns = {"saved": first_audits.numbers(1), "debt": first_audits.numbers(2), "sex": first_audits.bits(3)}
    first_audits.table(tmp_path, {**columns, "decision": [words[bit] for bit in first_audits.bits(4)]})
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert read_audit(tmp_path / "audit.yaml").audit.targets["answer"].index == index
    assert ("`denied` in `decision` is taken for what nobody wants" in said) == (index == 0)


def test_one_score_of_what_nobody_wants_is_told(caveat: Caveat, tmp_path: Path) -> None:
    first_audits.mlp(tmp_path, 3, 1, "Sigmoid")
    columns = {"saved": first_audits.numbers(1), "debt": first_audits.numbers(2), "sex": first_audits.bits(3)}
    first_audits.table(tmp_path, {**columns, "default": first_audits.bits(4)})
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert "the model has one score: those over its threshold count as selected, who are the ones with it." in said


def test_a_concept_of_two_texts_is_named_by_the_one_that_is_added(caveat: Caveat, tmp_path: Path) -> None:
    """Sentences say that adding the concept raises or lowers the answer: of `sex` alone that says nothing."""
    first_audits.mlp(tmp_path, 3, 2)
    words = [["male", "female"][bit] for bit in first_audits.bits(3)]
    columns = {"a": first_audits.numbers(1), "b": first_audits.numbers(2), "sex": words}
    first_audits.table(tmp_path, columns)
    assert caveat("init", "model.onnx").exit_code == 0
    audit = read_audit(tmp_path / "audit.yaml").audit
    ((name, concept),) = audit.concepts.items()
    shown = audit.examples[concept.examples]
    assert isinstance(shown, Table)
    assert name == f"sex_{shown.set['sex']}"


def test_the_order_of_columns_is_to_check_where_the_model_does_not_name_them(caveat: Caveat, tmp_path: Path) -> None:
    RUNS["a_table_with_a_protected_column"](tmp_path)
    assert "`features` have the order of the file's columns" in " ".join(caveat("init", "model.onnx").output.split())


def test_the_tolerance_is_one_that_the_examples_can_settle(caveat: Caveat, tmp_path: Path) -> None:
    """Two arrays without pairs, of a few dozen examples: a tenth of a standard deviation is out of their reach."""
    RUNS["two_arrays"](tmp_path)
    said = " ".join(caveat("init", "model.onnx").output.split())
    (line,) = read_audit(tmp_path / "audit.yaml").audit.gate
    assert isinstance(line, ConceptLine)
    assert 0.1 < line.tolerance <= 0.5
    assert f"The draft has {line.tolerance:g} sd all the same, as more would call too much harmless" in said
    planned = json.loads(caveat("plan", "audit.yaml", "--format", "json").stdout)["lines"][0]
    assert f"which runs no model and assumes a spread, says {amount(planned['settles'], 'sd')};" in said


def test_trees_are_asked_only_what_an_edit_can_show(caveat: Caveat, tmp_path: Path) -> None:
    first_audits.trees(tmp_path)
    rows = [f"{i % 2},{i % 7},{i % 5},{i % 3},{'fm'[i % 2]}" for i in range(120)]
    (tmp_path / "people.csv").write_text("\n".join(["married,a,b,c,sex", *rows]))
    done = caveat("init", "model.onnx")
    assert "no audit asks for sex_m: the model has no layer" in " ".join(done.output.split())
    audit = read_audit(tmp_path / "audit.yaml").audit
    assert set(audit.concepts) == {"married"}
    assert set(audit.groups) == {"by_married", "by_sex"}


@pytest.mark.slow
def test_a_column_that_the_model_does_not_take_selects_rows(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "odd_names_beside_the_inputs")
    wheres = {one.where for one in audit.examples.values() if isinstance(one, Table)}
    assert wheres == {None, """`the "race"` == 'c"d'""", """`the "race"` == "a'b\""""}


def test_a_label_alone_is_audited_by_the_scores_beside_it(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "trees_with_a_label_alone")
    assert (audit.targets["answer"].output, audit.targets["answer"].index) == ("scores", 1)
    assert caveat("gate", "audit.yaml").exit_code in DECIDED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output", "axis"),
    [("a_detector_of_one_output", "output0", 1), ("a_detector_of_boxes_and_scores", "scores", None)],
)
def test_a_detector_is_asked_for_its_scores(caveat: Caveat, tmp_path: Path, name: str, output: str, axis: int) -> None:
    answer = drafted(caveat, tmp_path, name).targets["answer"]
    assert (answer.output, answer.class_axis) == (output, axis)
    assert answer.index == (4 if axis else answer.index)
    gate = caveat("gate", "audit.yaml")
    assert gate.exit_code in DECIDED, gate.output
    assert "to none of the" not in gate.output


def test_a_number_for_all_examples_is_held_constant(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "a_sampling_rate")
    assert audit.constants == {"sr": 16_000}


@pytest.mark.slow
def test_a_model_may_lack_the_protected_columns(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "a_model_without_the_protected_columns")
    everyone = audit.examples["everyone"]
    assert isinstance(everyone, Table)
    assert everyone.features == ["salary", "debt"]
    assert set(audit.groups) == {"by_female", "by_race"}


@pytest.mark.slow
def test_rows_without_a_value_are_left_out(caveat: Caveat, tmp_path: Path) -> None:
    everyone = drafted(caveat, tmp_path, "missing_values").examples["everyone"]
    assert isinstance(everyone, Table)
    assert everyone.where == "`net income` is not null and debt is not null"


def test_rows_without_a_text_are_left_out_where_the_model_knows_none(caveat: Caveat, tmp_path: Path) -> None:
    everyone = drafted(caveat, tmp_path, "texts_that_are_missing").examples["everyone"]
    assert isinstance(everyone, Table)
    assert everyone.where == "city is not null"
    said = " ".join(caveat("init", "model.onnx", "--force").output.split())
    assert "rows without `city` are left out: the model shows no text that stands for a missing one." in said


@pytest.mark.slow
def test_numbers_become_pairs_of_quartiles(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "no_column_of_two_values")
    high, low = audit.examples["a_high"], audit.examples["a_low"]
    assert isinstance(high, Table)
    assert isinstance(low, Table)
    assert float(high.set["a"]) > float(low.set["a"])


@pytest.mark.slow
def test_folders_by_class_give_the_class(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "folders_by_class")
    (concept,) = audit.concepts
    assert audit.targets["answer"].index == ["cat", "dog", "emu"].index(concept)
    assert set(audit.concepts[concept].reference_sets) == {"cat", "dog", "emu"} - {concept}


@pytest.mark.slow
def test_a_folder_that_is_not_compared_with_is_named(caveat: Caveat, tmp_path: Path) -> None:
    RUNS["more_folders_than_are_compared"](tmp_path)
    said = " ".join(caveat("init", "model.onnx").output.split())
    (concept,) = (audit := read_audit(tmp_path / "audit.yaml").audit).concepts
    (left,) = {f"kind-{number}" for number in range(10)} - {concept, *audit.concepts[concept].reference_sets}
    assert f"the concept is compared with 8 folders, and not with {left}; add those" in said


def test_only_pictures_that_are_alike_are_pairs(caveat: Caveat, tmp_path: Path) -> None:
    """Classes often number their pictures from 1, and a cat is not a dog with something added."""
    assert drafted(caveat, tmp_path, "classes_whose_pictures_have_the_same_names").examples["cat"].pairs_with is None


@pytest.mark.slow
def test_pictures_with_and_without_a_mark_are_pairs(caveat: Caveat, tmp_path: Path) -> None:
    assert drafted(caveat, tmp_path, "pairs_of_pictures").examples["watermarked"].pairs_with == "photos"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda file: file.unlink(), "because red/ has 7 of the 20 that it needs;"),
        (lambda file: file.rename(file.with_suffix(".bmp")), "and red/ has 17 of .bmp, a format that is not read;"),
        (lambda file: file.write_bytes(file.read_bytes()[:99]), "an audit of red does not run: Picture '07.png'"),
    ],
)
def test_a_folder_that_cannot_be_compared_with_is_named_with_the_reason(
    caveat: Caveat, tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    """Two folders, and of one only 7 pictures that can be read: what is drafted says so, and not that there is one."""
    first_audits.cnn(tmp_path)
    first_audits.pictures(tmp_path / "photos", 24)
    first_audits.pictures(tmp_path / "red", 24, shade=90)
    for number, file in enumerate(sorted((tmp_path / "red").iterdir())):
        file = file.rename(file.with_name(f"{number:02d}.png"))
        if number >= 7:
            spoil(file)
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert sentence in said, said
    assert "there is one folder" not in said
    assert set(read_audit(tmp_path / "audit.yaml").audit.concepts) == {"brightness"}


def test_formats_that_are_not_read_are_named(caveat: Caveat, tmp_path: Path) -> None:
    first_audits.cnn(tmp_path)
    first_audits.pictures(tmp_path / "photos", 24)
    for file in (tmp_path / "photos").iterdir():
        file.rename(file.with_suffix(".tif"))
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert "found: photos (24 of .tif). Remedy: Save pictures as PNG, JPEG or WebP." in said, said


@pytest.mark.parametrize("folders", [("photos",), ("photos", "marked")])
def test_pixels_that_the_model_scales_itself_are_scaled_once(
    caveat: Caveat, tmp_path: Path, folders: tuple[str, ...]
) -> None:
    first_audits.cnn(tmp_path, kind="scales pixels")
    for number, name in enumerate(folders):
        first_audits.pictures(tmp_path / name, 24, shade=90 * number)
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert "`preprocess` has mean 0 and std 1, because the model's first steps scale pixels themselves." in said
    sets = {name: one.preprocess for name, one in read_audit(tmp_path / "audit.yaml").audit.examples.items()
            if isinstance(one, Images)}  # fmt: skip
    assert {name: (how.mean, how.std) for name, how in sets.items()} == {
        "photos": (0, 1),
        **({"marked": (0, 1)} if "marked" in folders else {"brighter": (-20, 1)}),
    }


def test_the_bits_that_a_scanner_stores_are_drafted(caveat: Caveat, tmp_path: Path) -> None:
    first_audits.cnn(tmp_path)
    first_audits.pictures(tmp_path / "photos", 24)
    for file in (tmp_path / "photos").iterdir():
        greys = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16
        Image.fromarray(greys).save(file)
    said = " ".join(caveat("init", "model.onnx").output.split())
    assert "`bit_depth` is 12, because no grey of the 16-bit pictures that were looked at takes more." in said, said
    sets = read_audit(tmp_path / "audit.yaml").audit.examples.values()
    assert [one.preprocess.bit_depth for one in sets if isinstance(one, Images)] == [12, 12]


def test_preprocessing_comes_from_the_config(caveat: Caveat, tmp_path: Path) -> None:
    audit = drafted(caveat, tmp_path, "a_preprocessor_config")
    marked = audit.examples["marked"]
    assert isinstance(marked, Images)
    assert marked.preprocess.mean == [122.4, 114.75, 102.0]


@pytest.mark.parametrize("name", ["pictures_that_are_not_square", "pictures_of_a_free_size"])
def test_pictures_have_the_height_and_width_that_the_model_takes(caveat: Caveat, tmp_path: Path, name: str) -> None:
    plain = drafted(caveat, tmp_path, name).examples["plain"]
    assert isinstance(plain, Images)
    assert plain.preprocess.height_and_width == (16, 40)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (["n", 3, 64, "w"], [(64, 160)]),
        (["n", "h", 20, 1], [(8, 20)]),
        (["n", None, None, 3], [(16, 40), (224, 224)]),
        (["n", 3, 50], []),
    ],
)
def test_free_sizes_are_those_of_the_pictures(tmp_path: Path, shape: list[Any], sizes: list[tuple[int, int]]) -> None:
    first_audits.lines_of_print(tmp_path / "plain", 3)
    tensor = Tensor(name="x", dtype="float32", shape=shape)
    assert sizes_to_try(tensor, sorted((tmp_path / "plain").iterdir())) == sizes


def test_free_sizes_without_pictures_of_one_size_are_a_square(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    free, high = (Tensor(name="x", dtype="float32", shape=["n", 3, height, None]) for height in (None, 32))
    for pictures in ([], [tmp_path / "no.png"]):
        assert sizes_to_try(free, pictures) == [(224, 224)]
        assert sizes_to_try(high, pictures) == [(32, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("alike", [True, False])
def test_rows_of_two_arrays_are_pairs_where_they_are_alike(caveat: Caveat, tmp_path: Path, alike: bool) -> None:
    """As many rows on both sides: the same ones with something added, or others."""
    first_audits.mlp(tmp_path, 24, 2)
    random = np.random.default_rng(0)
    pool = random.normal(size=(40, 24)).astype(np.float32)
    np.save(tmp_path / "pool.npy", pool)
    np.save(tmp_path / "louder.npy", (pool if alike else random.normal(size=(40, 24)).astype(np.float32)) + 0.5)
    said = " ".join(caveat("init", "model.onnx").output.split())
    shown = read_audit(tmp_path / "audit.yaml").audit.examples["louder"]
    assert shown.pairs_with == ("pool" if alike else None)
    assert ("row by row louder and pool are taken for the same examples" in said) == alike


def test_several_inputs_are_fed_by_name(caveat: Caveat, tmp_path: Path) -> None:
    tall = drafted(caveat, tmp_path, "two_inputs").examples["tall"]
    assert isinstance(tall, Arrays)
    assert tall.inputs == {"a": "a", "b": "b"}


@pytest.mark.parametrize(
    ("concept", "reference"),
    [("struck", "plain"), ("small", "everyone"), ("stripes", "all_rows"), ("brown", "other-dogs"), ("Tall", "Base")],
)
def test_the_folder_without_the_concept_is_told_by_its_name(concept: str, reference: str) -> None:
    assert likeliest({Path(reference): 30, Path(concept): 40}) == [Path(concept), Path(reference)]


def test_an_existing_file_is_kept(caveat: Caveat, tmp_path: Path) -> None:
    first_audits.mlp(tmp_path, 2, 2)
    (tmp_path / "audit.yaml").write_text("mine")
    done = caveat("init", "model.onnx")
    assert done.exit_code == 2
    assert "--force" in done.output
    assert (tmp_path / "audit.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "name"),
    [("striped horses", "striped_horses"), ("größe", "gr_e"), ("???", "set"), ("a" * 99, "a" * 50), (".x", "x")],
)
def test_names_of_sets(words: str, name: str) -> None:
    assert set_name(words) == name
    assert set_name(words, {name: None}) == f"{name}_2"


def test_yaml_of_odd_words() -> None:
    assert flow({"a b": ["yes", "it's", "1", 2, 0.5, "x/y.npy", ".5", "two\nlines"]}) == (
        "{'a b': ['yes', 'it''s', '1', 2, 0.5, x/y.npy, '.5', \"two\\nlines\"]}"
    )
