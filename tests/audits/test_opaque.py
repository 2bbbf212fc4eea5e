"""Models of ai.onnx.ml: what an audit says of trees, which no gradient passes, and of support vectors."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import numpy as np
import onnx
import pytest

from caveat_reports.canonical import canonical
from caveat_spec.formats import FORMATS
from caveat_spec.jobs import Division, NewDirections
from caveat_spec.report import Report
from caveat_worker import sharding
from caveat_worker.array_stores import cached, scratch
from caveat_worker.directions import find_directions
from caveat_worker.engine.activations import batches
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.inspection import inspect_model
from tests.audits.conftest import Bench
from tests.audits.test_shards import run_parts, together
from tests.engine import trees


@pytest.fixture
def boosted(bench: Bench) -> Bench:
    """The small audit, of boosted trees that read the first feature and not the second."""
    return of_model(bench, trees.boosted_classifier())


def of_model(bench: Bench, model: onnx.ModelProto) -> Bench:
    onnx.save(model, bench.folder / "model.onnx")
    bench.document["layers"] = "auto"
    bench.document["targets"] = {"first": {"index": 1, "examples": "targets"}}
    return bench


def examples(bench: Bench, name: str) -> np.ndarray:
    return np.asarray(np.load(bench.folder / f"{name}.npy"))


def change(bench: Bench, concept: str) -> float:
    """The mean change of the boosted classifier's probability."""
    with_concept, without = (trees.probability(examples(bench, name)) for name in (concept, "base"))
    return float((with_concept - without).mean())


def intervention(report: Report, concept: str) -> float:
    (found,) = [test for test in report.interventions if test.concept == concept]
    return found.effect.value


@pytest.mark.parametrize("zip_map", [False, True])
def test_trees_are_audited_by_interventions_alone(bench: Bench, zip_map: bool) -> None:
    report = of_model(bench, trees.boosted_classifier(zip_map=zip_map)).run()
    assert report.associations == []
    assert report.plan.layers == []
    assert intervention(report, "used") == pytest.approx(change(bench, "used"), abs=1e-6)
    assert abs(change(bench, "used")) > 0.1
    assert intervention(report, "ignored") == 0
    assert report.warnings == [
        "No layer inside this model can be audited: no gradient passes node 'trees' (TreeEnsembleClassifier, "
        "ai.onnx.ml opset 1), because its output is piecewise constant. So association was left out (tcav).",
        "Concepts 'used' and 'ignored' rest on the intervention on matched pairs alone.",
    ]


def test_the_intervention_settles_its_lines(boosted: Bench) -> None:
    report = boosted.run()
    assert [line.finding for line in report.verdict.lines] == ["influential", "not_influential"]


def test_a_probability_is_read_as_the_model_gives_it(boosted: Bench) -> None:
    report = boosted.run()
    decisions = report.interventions[0].decisions
    assert decisions is not None
    without, with_concept = (trees.probability(examples(boosted, name)) for name in ("base", "used"))
    assert decisions.probability_without == pytest.approx(without.mean(), abs=1e-6)
    assert decisions.probability_with == pytest.approx(with_concept.mean(), abs=1e-6)
    assert decisions.flips_to == int(((without <= 0.5) & (with_concept > 0.5)).sum()) > 0
    (target,) = report.plan.targets
    assert target.unit == "probability"
    assert target.sentence.endswith("which is a probability as the model gives it.")


def test_a_regression_makes_no_decisions(bench: Bench) -> None:
    of_model(bench, trees.boosted_regressor())
    del bench.document["targets"]["first"]["index"]
    report = bench.run()
    moved = trees.margin(examples(bench, "used")) - trees.margin(examples(bench, "base"))
    assert intervention(report, "used") == pytest.approx(moved.mean(), abs=1e-6)
    assert report.interventions[0].decisions is None
    assert report.plan.targets[0].unit == "unit"


@pytest.mark.parametrize("probable", [True, False])
def test_a_support_vector_machine_is_audited_by_interventions_and_by_association(bench: Bench, probable: bool) -> None:
    """Its kernel is a layer, and of two classes' probabilities the score behind them is the target."""
    report = of_model(bench, trees.vector_machine(probable=probable)).run()
    assert report.plan.targets[0].unit == "logit"
    assert intervention(report, "used") != 0
    assert intervention(report, "ignored") == 0
    used, ignored = (
        [abs(row.effect.in_sd) for row in report.associations if row.concept == name] for name in ("used", "ignored")
    )
    assert min(used) > 0.1 > max(ignored)


def test_a_look_at_trees_says_what_audits_of_them_rest_on(boosted: Bench) -> None:
    seen = inspect_model(boosted.folder / "model.onnx")
    assert not any(layer.auto for layer in seen.layers)
    assert "no gradient passes node 'trees'" in seen.warnings[-1]
    assert "rest on interventions on matched pairs" in seen.warnings[-1]


@pytest.mark.parametrize("name", [one.name for one in FORMATS if one.name != "json"])
def test_every_format_shows_a_report_without_associations(boosted: Bench, name: str) -> None:
    shown = import_module(f"caveat_reports.{name}").render(boosted.run())
    assert "used" in shown
    assert "association only" not in shown.lower()


def test_the_cache_gives_the_same_report(boosted: Bench) -> None:
    kept = boosted.folder / "kept"
    first = canonical(boosted.run(store=partial(cached, boosted.folder / "nothing", kept)))
    assert any(kept.iterdir())
    assert canonical(boosted.run(store=partial(cached, kept, boosted.folder / "fresh"))) == first


def test_shards_give_the_same_report(boosted: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_BATCH", 16)
    plain = canonical(boosted.run())
    audit, places = boosted.settled()
    division = sharding.run_or_divide(audit, places.__getitem__, lambda *_: None, threads=1, store=scratch, batches=2)
    assert isinstance(division, Division)
    pieces = run_parts(boosted, division, boosted.folder)
    assert canonical(boosted.run(store=partial(together, pieces))) == plain


def test_a_layer_that_is_asked_for_and_cannot_be_audited_stays_an_error(boosted: Bench) -> None:
    boosted.document["layers"] = ["x"]
    with pytest.raises(InvalidInput, match=r"eave out 'layers'.*matched pairs") as caught:
        boosted.run()
    assert (caught.value.code, caught.value.pointer) == ("layer-cannot-be-audited", "/layers/0")


def test_a_concept_without_pairs_is_named_beside_those_that_have_them(boosted: Bench) -> None:
    del boosted.document["examples"]["ignored"]["pairs_with"]
    report = boosted.run()
    assert [test.concept for test in report.tests] == ["used"]
    assert report.warnings[-1] == (
        "Concept 'ignored' could not be tested; make 'ignored' an example set of copies of the same examples into "
        "which the concept was edited, and name the set without the concept in its 'pairs_with'."
    )
    assert [line.finding for line in report.verdict.lines][1] == "inconclusive"


def test_without_any_pairs_an_audit_is_refused_with_how_to_make_them(boosted: Bench) -> None:
    for name in ("used", "ignored"):
        del boosted.document["examples"][name]["pairs_with"]
    with pytest.raises(InvalidInput, match="no gradient passes node 'trees'") as caught:
        boosted.run()
    assert (caught.value.code, caught.value.pointer) == ("no-layers", "/concepts")
    assert "'pairs_with'" in caught.value.remedy


def test_a_pairing_the_wrong_way_round_is_named(boosted: Bench) -> None:
    """`pairs_with` stands in the set without the concept."""
    for name in ("used", "ignored"):
        del boosted.document["examples"][name]["pairs_with"]
    boosted.document["examples"]["base"]["pairs_with"] = "used"
    with pytest.raises(InvalidInput) as caught:
        boosted.run()
    assert "move 'pairs_with' from 'base' to 'used', as 'pairs_with: base'" in caught.value.remedy


def test_a_direction_is_not_asked_of_pairs_that_are_there(boosted: Bench) -> None:
    """A monitor needs a layer: to advise pairs where every concept has them leads nowhere."""
    audit, places = boosted.settled()
    with pytest.raises(InvalidInput, match="No layer inside this model can be audited") as caught:
        find_directions(NewDirections(audit=audit, watch=True), places.__getitem__, lambda *_: None, threads=1)
    assert caught.value.remedy.startswith("A direction of a concept needs a layer; `caveat gate` measures")


def table_of(bench: Bench) -> Bench:
    rows = np.round(examples(bench, "targets"), 4)
    rows[:, 1] = np.arange(len(rows)) % 2
    lines = [",".join(map(str, row)) for row in rows.tolist()]
    (bench.folder / "people.csv").write_text("\n".join(["a,b,c,d", *lines]) + "\n")
    people = {"table": "people.csv", "features": ["a", "b", "c", "d"]}
    bench.document |= {
        "examples": {"people": people, "low": {**people, "set": {"a": 0.0}}},
        "targets": {"first": {"index": 1, "examples": "people"}},
        "concepts": {},
        "gate": [],
        "groups": {"by_b": {"examples": "people", "sensitive": ["b"], "target": "first"}},
    }
    return bench


def test_the_decision_of_a_probability_is_favourable_over_half(boosted: Bench) -> None:
    report = table_of(boosted).run()
    (comparison,) = report.comparisons
    rows = np.round(examples(boosted, "targets"), 4)
    chosen = trees.probability(rows) > 0.5
    by_group = {row.group: row.selection_rate.value for row in comparison.rows}
    assert by_group == {f"b={b}": pytest.approx(chosen[b::2].mean(), abs=1e-6) for b in (0, 1)}
    assert comparison.decisions == "the model's own decisions (first over 0.5)"


def test_scores_above_the_median_of_everybody_are_compared(boosted: Bench) -> None:
    bench = table_of(boosted)
    bench.document["groups"] = {
        "own": {"examples": "people", "sensitive": ["b"], "target": "first", "threshold": "median"},
        "recorded": {"examples": "people", "sensitive": ["b"], "score": "c", "threshold": "median"},
        "bound": {"examples": "people", "sensitive": ["b"], "score": "c", "threshold": 0.25},
    }
    found = {one.name: one for one in bench.run().comparisons}
    rows = np.round(examples(boosted, "targets"), 4)
    scores = {"own": trees.probability(rows), "recorded": rows[:, 2], "bound": rows[:, 2]}
    for name, values in scores.items():
        threshold = 0.25 if name == "bound" else float(np.median(values))
        assert found[name].threshold == pytest.approx(threshold, abs=1e-6)
        selected = {row.values[0]: row.selected for row in found[name].rows}
        assert selected == {str(b): int((values > threshold)[b::2].sum()) for b in (0, 1)}
    assert found["recorded"].decisions.startswith("the recorded scores (c over its median, ")


def test_people_without_a_score_are_refused(boosted: Bench) -> None:
    bench = table_of(boosted)
    people = bench.folder / "people.csv"
    people.write_text(people.read_text().replace("\n", ",7\n").replace("d,7", "d,fit", 1).replace(",7\n", ",\n", 2))
    bench.document["groups"] = {"g": {"examples": "people", "sensitive": ["b"], "score": "fit", "threshold": "median"}}
    with pytest.raises(InvalidInput, match="2 people have no number in 'fit'"):
        bench.run()


def test_decisions_are_compared_among_people_who_are_alike(boosted: Bench) -> None:
    bench = table_of(boosted)
    bench.document["groups"]["by_b"]["given"] = ["a"]
    bench.document["gate"] = [{"group": "by_b", "metric": "conditional_selection_rate_difference", "at_most": 1}]
    report = bench.run()
    (comparison,) = report.comparisons
    assert comparison.conditional is not None
    assert comparison.conditional.given == ["a"]
    assert all(row.standardised_rate is not None for row in comparison.rows)
    assert report.verdict.lines[0].outcome == "pass"
    assert "given a is" in report.verdict.lines[0].reason


def test_strata_that_are_all_too_small_are_said(boosted: Bench) -> None:
    bench = table_of(boosted)
    bench.document["examples"]["people"]["limit"] = 40
    bench.document["groups"]["by_b"]["given"] = ["a", "c", "d"]
    report = bench.run()
    assert report.comparisons[0].conditional is None
    assert "'by_b' is not compared given a and c and d" in " ".join(report.warnings)


def test_a_table_is_told_to_set_a_column(boosted: Bench) -> None:
    table_of(boosted).document["concepts"] = {"low": {"examples": "low", "against": "people"}}
    report = boosted.run()
    assert "of the same rows with another value by 'set'" in report.warnings[-1]
    boosted.document["examples"]["low"]["pairs_with"] = "people"
    assert intervention(boosted.run(), "low") < 0


def test_a_model_of_labels_alone_is_refused_with_what_to_export(bench: Bench) -> None:
    model = trees.boosted_classifier()
    del model.graph.output[1]
    with pytest.raises(InvalidInput, match="Output 'label' holds classes or texts") as caught:
        of_model(bench, model).run()
    assert caught.value.code == "no-logits"
    assert "Name a tensor of scores as the target's output, such as 'scores'" in caught.value.remedy
