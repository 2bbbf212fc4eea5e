"""Influence in audits: the rows of a table that a fitted head leans on, by name, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from caveat_spec.explained import Figure
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.engine.nets import Net
from tests.explanations.test_influence import D, clouds, fitted

COLUMNS = [f"c{number}" for number in range(D)]


@pytest.fixture
def heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A head that was fitted on a table of labelled rows, asked about one of them."""
    x, y = clouds(60, 3, seed=3)
    pd.DataFrame(x, columns=COLUMNS).assign(label=y).to_csv(tmp_path / "train.csv", index=False)
    head, net = fitted(x, y, 1.0), Net(0)
    scores = net.op("Gemm", net.op("Identity", "x"), net.constant(head.coef_.T), net.constant(head.intercept_))
    (tmp_path / "model.onnx").write_bytes(net.model(("n", D), scores))
    document = {
        "model": "model.onnx",
        "examples": {"train": {"table": "train.csv", "features": COLUMNS}},
        "targets": {"first": {"index": 0, "examples": "train"}},
        "explain": {
            "why": {
                "of": "first",
                "examples": {"pick": ["row 4"]},
                "show": [{"influence": {"training": "train", "labels": "label", "top": 5}}],
            }
        },
    }
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, document)


def drawn(bench: Bench) -> Figure:
    ((_, figure),) = bench.run().explanations[0].figures
    return figure


def test_rows_of_the_training_set_are_named_with_what_they_add(heads: Bench) -> None:
    figure = drawn(heads)
    assert figure.withheld is None
    assert (figure.presentation, figure.atoms_of, figure.total) == ("bars", "examples", None)
    assert len(figure.atoms) == 5
    assert figure.rest.count == 55
    assert all(atom.id == f"row {atom.place[0] + 1}" for atom in figure.atoms)
    y = clouds(60, 3, seed=3)[1]
    strongest = max(figure.atoms, key=lambda atom: atom.value)
    assert strongest.value > 0
    assert y[strongest.place[0]] == 0, "what speaks most for a class has its label"
    assert "raises first most" in figure.sentence or "lowers first most" in figure.sentence


def test_other_labels_than_it_was_fitted_on_are_a_sentence(heads: Bench) -> None:
    table = pd.read_csv(heads.folder / "train.csv")
    table["label"] = (table["label"] + 1) % 3
    table.to_csv(heads.folder / "train.csv", index=False)
    withheld = drawn(heads).withheld
    assert withheld is not None
    assert "not at a minimum of the loss" in withheld


def test_labels_are_columns_or_folders(heads: Bench) -> None:
    heads.save("plain.npy", clouds(60, 3, seed=3)[0])
    heads.document["examples"]["plain"] = {"arrays": "plain.npy"}
    heads.document["explain"]["why"]["show"] = [{"influence": {"training": "plain", "labels": "label"}}]
    with pytest.raises(ValidationError, match="'plain' has no such labels: give a column of a table, or 'folder'"):
        heads.run()
    heads.document["explain"]["why"]["show"] = [{"influence": {"training": "trian", "labels": "label"}}]
    with pytest.raises(ValidationError, match="names the example set 'trian', which is not declared"):
        heads.run()


def test_a_head_that_is_no_affine_layer_is_refused_when_the_audit_is_planned(heads: Bench) -> None:
    net: Any = Net(0)
    (heads.folder / "model.onnx").write_bytes(net.model(("n", D), net.op("Tanh", net.dense("x", D, 3))))
    with pytest.raises(InvalidInput, match="it comes from an operator Tanh") as refused:
        heads.run()
    assert refused.value.pointer == "/explain/why/show/0"
    assert "explaining" not in {stage for stage, _ in heads.stages}


def test_influence_on_own_labels_is_about_the_set(heads: Bench) -> None:
    element = {"influence": {"training": "train", "labels": "label", "on": "own_label", "top": 5}}
    heads.document["explain"]["why"]["show"] = [element]
    figure = drawn(heads)
    values = [atom.value for atom in figure.atoms]
    assert values == sorted(values, reverse=True)
    assert (figure.title, figure.unit, figure.signed) == ("Influence on its own label", "log p", False)
    first = figure.atoms[0]
    most = f"Of 60 examples of train, {first.id} does most for its own label (+{first.value:.3g} of log p)"
    assert most in figure.sentence
    assert "may be wrong: look at these first" in figure.sentence
    heads.document["explain"]["why"]["examples"] = {"count": 2}
    with pytest.raises(InvalidInput, match="influence says the same at each of 2 examples") as refused:
        heads.run()
    assert refused.value.code == "one-example-is-enough"
