"""Discovery in audits: a column that nobody named is proposed, and what nobody can examine is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image
from pydantic import ValidationError

from caveat.terminal import show_explanations
from caveat_reports import markdown
from caveat_spec.explained import Atom, Figure
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.engine.nets import Net

COLUMNS = [f"c{number}" for number in range(6)]


def table(seed: int, n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6)).astype(np.float32)
    return pd.DataFrame(x, columns=COLUMNS).assign(label=np.where(rng.random(n) < 0.5, "yes", "no"))


@pytest.fixture
def leaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A model that adds up its named first column and, unnamed, its last."""
    net = Net(0)
    weights = np.zeros((6, 6), np.float32)
    weights[0, 0], weights[5, 1], weights[5, 2] = 1, 1, -1
    net.nodes.append(helper.make_node("Relu", [net.op("MatMul", "x", net.constant(weights))], ["hidden"]))
    seen = net.op("Gemm", "hidden", net.constant([[1.0], [0.8], [-0.8], [0], [0], [0]]))
    (tmp_path / "model.onnx").write_bytes(net.model(("n", 6), seen))
    people = table(1)
    people.to_csv(tmp_path / "people.csv", index=False)
    for name, shift in (("high", 2.0), ("low", -2.0)):
        other = table(2, 60)
        other["c0"] += shift
        other.to_csv(tmp_path / f"{name}.csv", index=False)
    document = {
        "model": "model.onnx",
        "examples": {name: {"table": f"{name}.csv", "features": COLUMNS} for name in ("people", "high", "low")},
        "concepts": {"first": {"examples": "high", "against": "low"}},
        "test_concepts": False,
        "targets": {"sum": {"examples": "people"}},
        "explain": {
            "else": {
                "of": "sum",
                "examples": {"count": 1},
                "show": [{"discover": {"layer": "input", "examples": "people", "labels": "label"}}],
            }
        },
    }
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, document)


def drawn(bench: Bench) -> Figure:
    ((_, figure),) = bench.run().explanations[0].figures
    return figure


def said_of(atom: Atom) -> str:
    assert atom.note is not None
    return atom.note


def asked(bench: Bench) -> dict[str, Any]:
    options: dict[str, Any] = bench.document["explain"]["else"]["show"][0]["discover"]
    return options


def test_the_unnamed_column_is_proposed_with_entries_to_adopt_it(leaning: Bench) -> None:
    figure = drawn(leaning)
    assert figure.withheld is None
    assert (figure.presentation, figure.atoms_of, figure.unit) == ("bars", "proposals", "sd")
    assert figure.atoms[0].id == "proposal 1"
    assert figure.atoms[0].spread is not None
    assert "moves sum in people beyond what is known" in figure.sentence.replace("directions move", "direction moves")
    told = "\n".join(atom.note or "" for atom in figure.atoms)
    assert "olumn c5: +" in told
    assert "mostly first (R²" in "\n".join(figure.notes)
    assert len(figure.entries) == len(figure.atoms)
    assert figure.entries[0].startswith("examples: {proposal_1: {of: people, only: [")
    assert "olumn c0" not in told


def test_every_proposal_is_in_the_terminal_and_in_markdown(leaning: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    report = leaning.run()
    show_explanations(report)
    note = said_of(report.explanations[0].figures[0][1].atoms[0])
    assert f"proposal 1: {note}" in " ".join(capsys.readouterr().out.split())
    assert "  - proposal 1: " in markdown.render(report)


def test_inside_the_model_proposals_have_icons_of_the_examined_set(leaning: Bench) -> None:
    asked(leaning)["layer"] = "hidden"
    figure = drawn(leaning)
    assert figure.presentation == "icons"
    assert figure.icons is not None
    assert figure.icons.set == "people"
    rows = pd.read_csv(leaning.folder / "people.csv")
    highest = figure.icons.spectra[0].icons[0].position
    assert abs(rows["c5"][highest]) > 1.5


def test_nothing_is_proposed_of_a_model_that_leans_on_what_is_named(leaning: Bench) -> None:
    people = pd.read_csv(leaning.folder / "people.csv")
    people["c5"] *= 0.05
    people.to_csv(leaning.folder / "people.csv", index=False)
    withheld = drawn(leaning).withheld
    assert withheld is not None
    assert withheld.startswith("Nothing is proposed: none of ")
    assert "the labels by label and the concepts first as scored at input" in withheld


def test_the_adopted_entries_are_an_audit(leaning: Bench) -> None:
    entries = yaml.safe_load(drawn(leaning).entries[0])
    leaning.document["examples"] |= entries["examples"]
    leaning.document["concepts"] = entries["concepts"]
    leaning.document["test_concepts"] = True
    leaning.document["method"] = {"min_examples": 10, "permutations": 40}
    del leaning.document["explain"]
    (tested,) = {one.concept for one in leaning.run().tests}
    assert tested == "proposal_1"


def test_removal_tells_what_the_model_uses_from_what_goes_with_it(leaning: Bench) -> None:
    people = pd.read_csv(leaning.folder / "people.csv")
    people["c4"] = (people["c5"] + 0.6 * np.random.default_rng(4).standard_normal(len(people))).astype(np.float32)
    people.to_csv(leaning.folder / "people.csv", index=False)
    by_column = {said_of(atom).split("olumn ")[1][:2]: said_of(atom) for atom in drawn(leaning).atoms}
    assert "of it is gone: the model itself uses this direction." in by_column["c5"]
    assert "Removed at input, +0.00 sd (+0.00 to +0.00) of it is gone, less than the margin: " in by_column["c4"]
    assert by_column["c4"].endswith("the model hardly uses it itself, but something that goes with it.")


def test_proposals_are_drawn_in_the_order_of_what_removal_takes(leaning: Bench) -> None:
    people = pd.read_csv(leaning.folder / "people.csv")
    people["c4"] = (people["c5"] + 0.6 * np.random.default_rng(4).standard_normal(len(people))).astype(np.float32)
    people.to_csv(leaning.folder / "people.csv", index=False)
    atoms = drawn(leaning).atoms
    assert [atom.id for atom in atoms] == [f"proposal {number}" for number in range(1, len(atoms) + 1)]
    assert "olumn c5" in said_of(atoms[0])
    assert any("olumn c4" in said_of(atom) for atom in atoms[1:])


def test_too_few_examples_to_adopt_are_said(leaning: Bench) -> None:
    assert "To adopt it takes" not in said_of(drawn(leaning).atoms[0])
    leaning.document["method"] = {"min_examples": 60}
    assert "To adopt it takes 60 examples, of which the set has " in said_of(drawn(leaning).atoms[0])


def test_removal_inside_the_model_is_said_too(leaning: Bench) -> None:
    asked(leaning)["layer"] = "hidden"
    for atom in drawn(leaning).atoms:
        assert "Removed at hidden, " in said_of(atom)
        assert "hardly" not in said_of(atom), "directions of a layer overlap, so that others may carry it"


def test_a_concept_that_cannot_be_scored_is_said_to_be_left(leaning: Bench) -> None:
    """Both of its sets are alike, so that nothing of it is taken out."""
    table(7, 60).to_csv(leaning.folder / "high.csv", index=False)
    table(8, 60).to_csv(leaning.folder / "low.csv", index=False)
    told = "\n".join(drawn(leaning).notes)
    assert "first cannot be scored at input: " in told
    assert "no more than by chance. It may be proposed again; name a layer in `known_at` that tells it." in told


def test_what_is_not_known_is_said_beside_proposals(leaning: Bench) -> None:
    known = "\n".join(drawn(leaning).notes)
    assert "cannot be scored" not in known
    assert "No concept is named" not in known
    del asked(leaning)["labels"], leaning.document["concepts"]
    told = "\n".join(drawn(leaning).notes)
    assert "No labels are given, so that what makes up the class is proposed as well" in told
    assert "as far as it varies among examples of the set. The false discovery rate counts" in told


def test_columns_of_whole_numbers_are_not_removed(leaning: Bench) -> None:
    """A number between two of them would be no input of the model."""
    net = Net(0)
    as_float = net.op("Cast", "x", to=TensorProto.FLOAT)
    seen = net.op("Gemm", as_float, net.constant([[1.0], [0], [0], [0], [0], [0.8]]))
    (leaning.folder / "model.onnx").write_bytes(net.model(("n", 6), seen, dtype=TensorProto.INT64))
    for name in ("people", "high", "low"):
        people = pd.read_csv(leaning.folder / f"{name}.csv")
        people[COLUMNS] = (people[COLUMNS] * 10).round().astype(int)
        people.to_csv(leaning.folder / f"{name}.csv", index=False)
    note = said_of(drawn(leaning).atoms[0])
    assert "It was not removed, since the inputs are no fractions" in note


def picture_set(folder: Path, seed: int, count: int) -> None:
    """A ZIP file with a folder for each class, in which half of the noisy pictures have a bright corner."""
    rng = np.random.default_rng(seed)
    with zipfile.ZipFile(folder, "w") as archive:
        for number in range(count):
            pixels = rng.integers(60, 120, (8, 8), np.uint8)
            if rng.random() < 0.5:
                pixels[:3, :3] = 255
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "PNG")
            archive.writestr(f"{'dark' if number % 2 else 'light'}/{number:03}.png", content.getvalue())


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A network of two channels: one follows bright squares, the other the mean; it adds up the first."""
    net = Net(0)
    kernel = np.stack([np.full((1, 3, 3), 1 / 9), np.eye(3)[None] / 3])
    conv = net.op("Conv", "x", net.constant(kernel), net.constant([-0.6, 0.0]), pads=[1] * 4)
    net.nodes.append(helper.make_node("Relu", [conv], ["seen"]))
    flat = net.op("Flatten", net.op("GlobalAveragePool", "seen"))
    score = net.op("Gemm", flat, net.constant([[20.0], [0.3]]))
    (tmp_path / "model.onnx").write_bytes(net.model(("n", 1, 8, 8), score))
    picture_set(tmp_path / "all.zip", 1, 160)
    preprocess = {"size": 8, "mean": 0, "std": 255, "channels": "gray", "layout": "nchw"}
    options = {"layer": "seen", "examples": "all", "labels": "folder"}
    document = {
        "model": "model.onnx",
        "examples": {"all": {"images": "all.zip", "preprocess": preprocess}},
        "test_concepts": False,
        "targets": {"score": {"examples": "all"}},
        "explain": {"else": {"of": "score", "examples": {"count": 1}, "show": [{"discover": options}]}},
    }
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, document)


def test_pictures_are_adopted_by_the_names_of_their_files(pictures: Bench) -> None:
    figure = drawn(pictures)
    assert "of it is gone: the model itself uses this direction." in said_of(figure.atoms[0])
    entries = yaml.safe_load(figure.entries[0])
    picture_set(pictures.folder / "others.zip", 2, 60)
    examples = pictures.document["examples"]
    examples |= entries["examples"]
    examples["others"] = examples["all"] | {"images": "others.zip"}
    pictures.document |= {
        "concepts": entries["concepts"],
        "test_concepts": True,
        "targets": {"score": {"examples": "others"}},
        "layers": ["seen"],
        "method": {"min_examples": 10, "permutations": 40},
    }
    del pictures.document["explain"]
    (test,) = pictures.run().associations
    assert test.concept == "proposal_1"
    assert test.effect.in_sd > 0.5


def test_several_examples_would_say_the_same(leaning: Bench) -> None:
    leaning.document["explain"]["else"]["examples"] = {"count": 3}
    with pytest.raises(InvalidInput, match="says the same at each of 3 examples") as refused:
        leaning.run()
    assert refused.value.pointer == "/explain/else/examples"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"examples": "peopel"}, "names the example set 'peopel', which is not declared"),
        ({"margin": 2}, "margin: Input should be less than or equal to 1"),
    ],
)
def test_names_and_numbers_are_checked_when_the_file_is_read(
    leaning: Bench, options: dict[str, Any], sentence: str
) -> None:
    asked(leaning).update(options)
    with pytest.raises(ValidationError, match=sentence):
        leaning.run()


def test_unknown_layers_and_few_examples_are_refused_in_a_sentence(leaning: Bench) -> None:
    asked(leaning)["known_at"] = "hiden"
    with pytest.raises(InvalidInput, match="no layer 'hiden'"):
        leaning.run()
    asked(leaning)["known_at"] = "input"
    pd.read_csv(leaning.folder / "people.csv")[:30].to_csv(leaning.folder / "people.csv", index=False)
    with pytest.raises(InvalidInput, match="There are 30 different examples, and 50 are needed"):
        leaning.run()


def test_labels_that_the_set_does_not_have_are_refused(leaning: Bench) -> None:
    leaning.document["examples"]["plain"] = {"arrays": "plain.npy"}
    leaning.save("plain.npy", table(3)[COLUMNS].to_numpy())
    asked(leaning)["examples"] = "plain"
    with pytest.raises(ValidationError, match="'plain' has no such labels"):
        leaning.run()
