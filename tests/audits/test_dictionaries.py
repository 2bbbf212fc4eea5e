"""Groups over an example set: the same in every panel, read once, and the same bytes however the work is divided."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from pydantic import ValidationError

from caveat_reports.canonical import canonical
from caveat_spec.audit import Audit
from caveat_spec.explained import Figure
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import model_runs
from caveat_worker.engine.panels import dictionaries
from tests.audits.conftest import Bench
from tests.audits.test_cache import Kept
from tests.audits.test_explain import show
from tests.audits.test_shards import divided, run_parts, together
from tests.audits.test_text import words
from tests.engine.nets import Net

__all__ = ["words"]
"""Fixtures that other modules have."""

SIDE, MIXES = 4, np.kron(np.eye(3), np.ones(3)) * [1.0, 2, 3, 1, 1, 1, 2, 1, 2]
"""Three groups of three channels each [3, 9]."""
WEIGHTS = np.array([1.0] * 3 + [-3.0] * 3 + [0.5] * 3)


def shares(n: int, seed: int) -> np.ndarray:
    """How much of each group is where, in n examples [n, 3, side, side]: two of three places have none of it."""
    rng = np.random.default_rng(seed)
    return rng.exponential(1, (n, 3, SIDE, SIDE)) * (rng.random((n, 3, SIDE, SIDE)) < 0.3)


@pytest.fixture
def planted(tmp_path: Path) -> Bench:
    """A layer `seen` that holds three groups, and a score that is linear in it."""
    net = Net(0)
    net.nodes.append(helper.make_node("Relu", ["x"], ["seen"]))
    mean = net.op("Flatten", net.op("GlobalAveragePool", "seen"))
    scores = net.op("Gemm", mean, net.constant(WEIGHTS[:, None] * [[0, 1]]))
    (tmp_path / "model.onnx").write_bytes(net.model(("n", 9, SIDE, SIDE), scores))
    bench = Bench(
        tmp_path,
        {
            "model": "model.onnx",
            "examples": {"many": {"arrays": "many.npy"}, "few": {"arrays": "few.npy"}},
            "targets": {"first": {"index": 1, "examples": "few"}},
            "explain": {"why": {"of": "first", "examples": {"pick": ["0", "1", "2"]}, "show": []}},
        },
    )
    for name, n, seed in (("many", 60, 1), ("few", 3, 2)):
        bench.save(f"{name}.npy", np.einsum("nkyx,kc->ncyx", shares(n, seed), MIXES).astype(np.float32))
    show(bench, {"groups": {"layer": "seen", "count": 3, "over": "many"}})
    return bench


def figures(bench: Bench, **options: Any) -> list[Figure]:
    (one,) = bench.run(**options).explanations
    return [figure for _, figure in one.figures]


def test_groups_are_the_same_in_every_example_with_effects_of_their_own(planted: Bench) -> None:
    drawn, few = figures(planted), shares(3, 2)
    named = {figure.notes[0].partition("Strongest channels: ")[2] for figure in drawn}
    assert len(named) == 1
    listed = [set(each.partition(": ")[2].strip(" .").split(", ")) for each in named.pop().split("; ")]
    order = [min(map(int, channels)) // 3 for channels in listed]
    assert sorted(map(sorted, listed)) == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"]]
    for number, figure in enumerate(drawn):
        assert figure.withheld is None
        assert "at 960 places of many, the same for every example" in figure.notes[0]
        expected = few[number].sum((1, 2)) * (MIXES @ WEIGHTS) / SIDE**2
        found = {atom.id: atom.value for atom in figure.atoms}
        wanted = {f"group {place + 1}": expected[group] for place, group in enumerate(order)}
        assert found == pytest.approx(wanted, rel=0.02, abs=0.02)


def test_a_set_is_read_once_and_the_work_may_be_divided(planted: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 4)
    made: list[int] = []
    once = dictionaries.dictionary
    monkeypatch.setattr(dictionaries, "dictionary", lambda rows, count: made.append(len(rows)) or once(rows, count))
    kept = Kept(planted.folder / "kept")
    alone = canonical(planted.run(store=kept.store))
    assert made == [60 * SIDE**2]
    pieces = run_parts(planted, divided(planted, 1), planted.folder)
    monkeypatch.setattr(dictionaries, "dictionary", None)
    assert canonical(planted.run(store=kept.store)) == alone
    assert canonical(planted.run(store=partial(together, pieces))) == alone


def test_many_places_are_spaced_evenly(planted: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionaries, "MOST_PLACES", 240)
    assert all("at 240 places of many" in figure.notes[0] for figure in figures(planted))


def test_another_set_is_another_answer(planted: Bench) -> None:
    kept = Kept(planted.folder / "kept")
    first = figures(planted, store=kept.store)
    planted.save("many.npy", np.einsum("nkyx,kc->ncyx", shares(60, 7), MIXES[:, ::-1]).astype(np.float32))
    assert [one.notes for one in figures(planted, store=kept.store)] != [one.notes for one in first]


def test_texts_give_their_words_and_no_padding(words: Bench) -> None:
    asked = {"of": "answer", "examples": {"set": "he", "count": 1}}
    asked["show"] = [{"groups": {"layer": "state", "count": 2, "over": "he"}}]
    words.document |= {"concepts": {}, "gate": [], "explain": {"why": asked}}
    (figure,) = figures(words)
    assert "at 160 places of he, the same for every example" in figure.notes[0], "four words of 40 sentences each"


def test_what_cannot_be_is_a_sentence(planted: Bench) -> None:
    show(planted, {"groups": {"layer": "seen", "over": "nobody"}})
    with pytest.raises(ValidationError, match="/explain/why/show/0/over"):
        Audit.model_validate(planted.document)
    show(planted, {"groups": {"layer": "seen", "over": "many", "by": "attributions"}})
    with pytest.raises(ValidationError, match="groups over an example set are of activations"):
        Audit.model_validate(planted.document)
    for count, over in ((7, {}), (33, {"over": "many"})):
        show(planted, {"groups": {"layer": "seen", "count": count, **over}})
        with pytest.raises(ValidationError, match=f"{count} groups are more than anybody compares"):
            Audit.model_validate(planted.document)
    show(planted, {"groups": {"layer": "seen", "over": "many"}})
    wrong = np.load(planted.folder / "many.npy")
    wrong[5, 0, 0, 0] = np.inf
    planted.save("many.npy", wrong)
    with pytest.raises(InvalidInput, match="NaN or infinit"):
        planted.run()


def test_more_groups_than_are_shown_are_a_number_and_a_sum(planted: Bench) -> None:
    show(planted, {"groups": {"layer": "seen", "count": 9, "over": "many", "top": 4}})
    for figure in figures(planted):
        assert (len(figure.atoms), figure.rest.count) == (4, 5)
        assert figure.total == pytest.approx(sum(atom.value for atom in figure.atoms) + figure.rest.sum, rel=1e-4)


def test_a_budget_counts_the_set(planted: Bench) -> None:
    for allowed in (80, 81):  # 60 to find groups, 3 for their numbers, 6 for each of 3 examples
        planted.document["method"] = {"explanation_passes": allowed}
        if allowed == 81:
            assert planted.run().explanations[0].passes == 81
            continue
        with pytest.raises(InvalidInput, match="'explain' would take 81 passes through the model, and 80 are allowed"):
            planted.run()
