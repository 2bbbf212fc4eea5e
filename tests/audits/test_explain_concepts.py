"""CAV attribution in audits: where in an example a concept is, by a vector that has not seen the example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import helper

from caveat.cli import cli
from caveat_spec.explained import Figure
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.panels import explain
from tests.audits.conftest import Bench
from tests.engine.nets import Net
from tests.explanations.models import opened

SIDE, COUNT = 12, 40
CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.float32)


def network() -> bytes:
    """Random filters of 3 x 3, and a class for their mean responses: whatever it says of crosses, it sees them."""
    net = Net(3)
    net.nodes.append(_named(net.op("Conv", "x", net.weight(16, 1, 3, 3), net.weight(16), pads=[1] * 4), "Relu", "seen"))
    return net.model(("n", 1, SIDE, SIDE), net.dense(net.op("Flatten", net.op("GlobalAveragePool", "seen")), 16, 3))


def _named(x: str, operator: str, name: str) -> Any:
    return helper.make_node(operator, [x], [name])


def pictures(*, crosses: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise [n, 1, side, side], with a cross anywhere in each; and where those are [n, side, side]."""
    rng = np.random.default_rng(seed)
    x, there = rng.normal(0, 0.3, (COUNT, 1, SIDE, SIDE)).astype(np.float32), np.zeros((COUNT, SIDE, SIDE), bool)
    for row in range(COUNT) if crosses else ():
        top, left = rng.integers(0, SIDE - 3, 2)
        x[row, 0, top : top + 3, left : left + 3] += 2 * CROSS
        there[row, top : top + 3, left : left + 3] = True
    return x, there


@pytest.fixture
def crosses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return crosses_in(tmp_path)


def crosses_in(tmp_path: Path) -> Bench:
    """An audit that asks where crosses are in pictures of the concept's own set."""
    (tmp_path / "model.onnx").write_bytes(network())
    document = {
        "model": "model.onnx",
        "examples": {"plain": {"arrays": "plain.npy"}, "crossed": {"arrays": "crossed.npy"}},
        "concepts": {"cross": {"examples": "crossed", "against": "plain"}},
        "test_concepts": False,
        "targets": {"first": {"index": 0, "examples": "plain"}},
        "explain": {
            "where": {
                "of": "first",
                "examples": {"set": "crossed", "pick": ["3", "17", "30"]},
                "show": [{"concept": "cross", "layer": "seen"}],
            }
        },
    }
    bench = Bench(tmp_path, document)
    bench.save("plain.npy", pictures(crosses=False, seed=1)[0])
    bench.save("crossed.npy", pictures(crosses=True, seed=2)[0])
    return bench


def show(bench: Bench, *elements: Any) -> None:
    bench.document["explain"]["where"]["show"] = list(elements)


def drawn(bench: Bench) -> list[Figure]:
    (one,) = bench.run().explanations
    return [figure for _, figure in one.figures]


def cells(figure: Figure) -> np.ndarray:
    assert figure.map is not None, figure.withheld
    return np.array(figure.map.rows()) * figure.map.scale / 127


@pytest.mark.parametrize(("at", "share"), [("layer", 0.6), ("input", 0.4)])
def test_the_concept_is_where_it_was_put(crosses: Bench, at: str, share: float) -> None:
    show(crosses, {"concept": "cross", "layer": "seen", "at": at})
    crosses.document["integrity"] = {"sanity": "none"}  # other random filters see crosses just as well
    there = pictures(crosses=True, seed=2)[1]
    for figure, row in zip(drawn(crosses), (3, 17, 30), strict=True):
        assert figure.withheld is None
        assert figure.unit == "sd"
        found = np.maximum(cells(figure), 0)
        around = np.zeros_like(there[row])
        y, x = np.nonzero(there[row])
        around[max(y.min() - 1, 0) : y.max() + 2, max(x.min() - 1, 0) : x.max() + 2] = True
        assert found[around].sum() / found.sum() > share, "where one would have at most 17 % by chance"
        assert "the concept score of cross" in figure.sentence


def test_it_is_the_difference_of_the_means_without_the_example(crosses: Bench) -> None:
    """A literal twin: the mean activations of 39 crossed pictures less those of 40 plain ones."""
    runs, _ = opened(network(), index=0).around({"x": np.zeros((1, 1, SIDE, SIDE), np.float32)})
    plain, crossed = (
        runs.activations(pictures(crosses=one, seed=1 + one)[0], "seen").astype(float) for one in (False, True)
    )
    others = np.delete(np.arange(COUNT), 17)
    reference = np.delete(plain, 17, axis=0).mean((0, 2, 3))  # "17" of the plain set is called the same
    v = crossed[others].mean((0, 2, 3)) - reference
    v /= np.linalg.norm(v)
    lies = np.concatenate([held_out(plain.mean((2, 3)), crossed.mean((2, 3)), fold) for fold in range(5)])
    origin = reference + lies.mean() * v
    by_place = np.einsum("chw,c->hw", crossed[17] - origin[:, None, None], v) / SIDE**2 / lies.std()
    figure = drawn(crosses)[1]
    assert figure.total == pytest.approx(by_place.sum(), rel=1e-4)
    assert cells(figure) == pytest.approx(by_place, abs=figure.scale / 127)


def held_out(plain: np.ndarray, crossed: np.ndarray, fold: int) -> np.ndarray:
    """Where every fifth plain picture lies along the difference of the means of the others, from their mean."""
    held = np.arange(fold, COUNT, 5)
    v = np.delete(crossed, held, axis=0).mean(0) - (middle := np.delete(plain, held, axis=0).mean(0))
    return (plain[held] - middle) @ v / np.linalg.norm(v)


def test_a_meaningless_concept_is_a_sentence(crosses: Bench) -> None:
    crosses.save("crossed.npy", pictures(crosses=False, seed=7)[0])
    for figure in drawn(crosses):
        assert figure.withheld is not None
        assert (
            "seen does not tell 'cross' from its reference set, so that its direction means nothing" in figure.withheld
        )


@pytest.mark.parametrize("without", [True, False], ids=["without the example", "with it"])
def test_an_example_does_not_find_itself_in_its_own_vector(
    crosses: Bench, monkeypatch: pytest.MonkeyPatch, without: bool
) -> None:
    """Of two sets of noise an example's score is about 0, which it is not where the CAV has seen the example."""
    crosses.save("crossed.npy", pictures(crosses=False, seed=7)[0])
    show(crosses, {"concept": "cross", "layer": "seen", "reduce": "flatten"})
    crosses.document["explain"]["where"]["examples"] = {"set": "crossed", "pick": [str(row) for row in range(8)]}
    scores, made, kept = [], explain.Directions, explain.found_in

    def seen(answer: Any, atoms: Any) -> Any:
        scores.append(float(answer.total[0]))
        return kept(answer, atoms)

    monkeypatch.setattr(explain, "found_in", seen)
    if not without:
        monkeypatch.setattr(explain, "Directions", lambda *given: made(*given[:3], "no example's key"))
    drawn(crosses)
    assert (abs(np.mean(scores)) < 1) == without


def test_only_what_is_shown_is_computed(crosses: Bench) -> None:
    report = crosses.run()
    assert report.tests == []
    assert {stage for stage, _ in crosses.stages} >= {"explaining"}
    (one,) = report.explanations
    assert one.passes >= 2 * COUNT * 8, "the concept's examples go through the model and seven others"


def test_the_command_keeps_the_concepts_that_are_shown(crosses: Bench) -> None:
    crosses.document |= {
        "test_concepts": True,
        "gate": [{"concept": "cross", "target": "first", "must": "not_matter"}],
    }
    path = crosses.folder / "audit.json"
    path.write_text(json.dumps(crosses.document))
    done = CliRunner().invoke(cli, ["explain", str(path), "--local"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "CAV attribution: cross at seen" in done.output


def test_a_concept_that_is_not_declared_is_refused_with_those_that_are(crosses: Bench) -> None:
    show(crosses, {"concept": "crosss", "layer": "seen"})
    with pytest.raises(ValueError, match=r"/show/0/concept names the concept 'crosss'.*declared: cross"):
        crosses.run()


def test_a_gate_that_tests_no_concept_is_refused(crosses: Bench) -> None:
    crosses.document["gate"] = [{"concept": "cross", "target": "first", "must": "not_matter"}]
    with pytest.raises(ValueError, match="/gate/0 bounds a concept, and `test_concepts: false` tests none"):
        crosses.run()


def test_the_budget_counts_the_concept_s_examples(crosses: Bench) -> None:
    crosses.document["method"] = {"explanation_passes": 500}
    with pytest.raises(InvalidInput, match="cav_attribution alone takes 6") as refused:
        crosses.run()
    assert refused.value.pointer == "/explain/where/show/0"


def test_a_bag_of_features_is_a_map_that_adds_up_to_the_number(crosses: Bench) -> None:
    """The network is one by construction: filters of 3 x 3, their mean, and a dense layer."""
    show(crosses, {"bag_of_features": {"layer": "seen"}})
    crosses.document["integrity"] = {"sanity": "none"}
    (one,) = crosses.run().explanations
    for panel in one.panels:
        (figure,) = panel.figures
        assert (figure.withheld, figure.presentation) == (None, "map")
        assert figure.total == pytest.approx(panel.value, rel=1e-5)
        assert cells(figure).sum() == pytest.approx(panel.value, abs=SIDE**2 / 2 * figure.scale / 127)
        assert "A place sees 25% of the input's longer side." in figure.notes[0]
