"""Discovery in audits: a column that nobody named is proposed, and what nobody can examine is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from onnx import helper
from pydantic import ValidationError

from caveat_spec.explained import Figure
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
    told = "\n".join(figure.notes)
    assert "column c5" in told
    assert "mostly first (R²" in told
    assert "`examples: {proposal_1: {of: people, only: [" in told
    assert "column c0" not in told


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
    note = next(one for one in drawn(leaning).notes if one.startswith("Proposal 1"))
    parts = note.split("`")
    leaning.document["examples"] |= yaml.safe_load(parts[1])["examples"]
    leaning.document["concepts"] = yaml.safe_load(parts[3])["concepts"]
    leaning.document["test_concepts"] = True
    leaning.document["method"] = {"min_examples": 10, "permutations": 40}
    del leaning.document["explain"]
    (tested,) = {one.concept for one in leaning.run().tests}
    assert tested == "proposal_1"


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
