"""A sequential audit stops when its lines are settled, computes nothing twice, and looks like an ordinary one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from caveat_reports.canonical import canonical
from caveat_spec.alpha_spending import SpentAt, method_at, spending
from caveat_spec.audit import Audit, ConceptLine, Method
from caveat_spec.gate import settled
from caveat_spec.report import Report, SequentialSummary
from caveat_worker import sharding
from caveat_worker.array_stores import scratch
from caveat_worker.readers.source import ExampleSource, drawn_order, taken
from caveat_worker.sequential import with_steps
from tests.api_spec.handmade import report as handmade
from tests.api_spec.handmade import row
from tests.audits.conftest import FEATURES, Bench
from tests.audits.test_cache import Kept, kept, seen_rows  # noqa: F401

LOOKS = [0.5, 0.75, 1.0]


@pytest.fixture
def looked(bench: Bench) -> Bench:
    """The small audit with four times its examples, so that the first look has enough of them."""
    rng = np.random.default_rng(4)
    base = rng.normal(size=(200, FEATURES))
    bench.save("base.npy", base)
    for number, name in enumerate(("used", "ignored")):
        moved = base[:160].copy()
        moved[:, number] += 1.5
        bench.save(f"{name}.npy", moved)
    bench.document["method"] |= {"sequential": {"looks": LOOKS}}
    return bench


def summary_of(report: Report) -> SequentialSummary:
    assert report.sequential is not None
    return report.sequential


def undecided(bench: Bench) -> None:
    """A tolerance at the measured change, which no number of examples settles."""
    only = bench.document | {"method": bench.document["method"] | {"sequential": None}}
    report = Bench(bench.folder, only).run()
    change = next(one.effect.in_sd for one in report.interventions if one.concept == "used")
    bench.document["gate"][0]["tolerance"] = abs(change)


def test_it_stops_at_the_first_look_that_settles_every_line(looked: Bench) -> None:
    report = looked.run()
    found = summary_of(report)
    assert [line.finding for line in report.verdict.lines] == ["influential", "not_influential"]
    assert [look.share for look in found.looks] == [0.5]
    assert found.looks[0].settled == [0, 1]
    assert found.planned == LOOKS
    assert found.saved > 0.3
    assert report.audit.method.alpha == 0.05
    assert report.alpha == pytest.approx(0.05 * 0.5**2)
    assert report.audit.method.sequential is not None
    counts = {one.name: one.count for one in report.plan.examples}
    assert counts == found.looks[0].examples
    assert 60 < counts["used"] < 100
    shares = [share for _, share in looked.stages]
    assert shares == sorted(shares)


def test_each_example_goes_through_the_model_once(
    looked: Bench,
    seen_rows: list[int],  # noqa: F811
) -> None:
    undecided(looked)
    seen_rows.clear()
    found = summary_of(looked.run())
    assert len(found.looks) > 1
    assert sum(seen_rows) == sum(found.looks[-1].examples.values())


def test_a_look_that_goes_on_takes_no_finite_steps(looked: Bench) -> None:
    undecided(looked)
    report = looked.run()
    found = summary_of(report)
    assert [look.passes.partial for look in found.looks[:-1]] == [0] * (len(found.looks) - 1)
    assert all(test.finite_step is not None for test in report.associations)
    last = {"used", "ignored"}
    assert found.looks[-1].passes.partial == len(last) * found.looks[-1].examples["targets"]
    assert found.saved >= 0


def by_association(bench: Bench) -> None:
    """Leaves the measured changes out."""
    for name in ("used", "ignored"):
        bench.document["examples"][name] = {"arrays": f"{name}.npy"}


def test_a_look_that_ends_by_association_takes_its_steps(looked: Bench) -> None:
    by_association(looked)
    for line in looked.document["gate"]:
        line["tolerance"] = 0.4
    report = looked.run()
    found = summary_of(report)
    assert found.looks[-1].settled
    assert all(test.finite_step is not None for test in report.associations)
    taken = [look.passes.partial for look in found.looks]
    assert taken == [0] * (len(taken) - 1) + [2 * found.looks[-1].examples["targets"]]
    assert all(look.settled == [] for look in found.looks[:-1])


def test_where_a_step_gives_the_shares_every_look_takes_it(looked: Bench) -> None:
    by_association(looked)
    looked.document["gate"] = [
        {"concept": "used", "target": "first", "must": "not_matter", "unit": "probability", "tolerance": 0.02}
    ]
    found = summary_of(looked.run())
    assert found.looks[0].passes.partial == 2 * found.looks[0].examples["targets"]


def test_a_step_that_was_taken_later_can_take_back_what_a_slope_says() -> None:
    line = ConceptLine(concept="mark", target="carton", must="not_matter", tolerance=0.3)
    slope = handmade(row(in_sd=0.1, interval=(0.0, 0.2))).model_copy(update={"verdict": None})
    asked = slope.model_copy(update={"audit": slope.audit.model_copy(update={"gate": [line]})})
    assert settled(asked, line)
    bent = row(whole=(0.8, 0.6, 1.0)).finite_step
    assert bent is not None
    report = with_steps(asked, {("mark", "block", "carton"): bent})
    assert not settled(report, line)
    assert report.verdict.lines[0].finding == "inconclusive"


def test_a_look_has_the_figures_of_an_audit_of_its_examples(looked: Bench) -> None:
    undecided(looked)
    report = looked.run()
    found = summary_of(report)
    last = found.looks[-1]
    assert len(found.looks) > 1
    for name in ("base", "used", "ignored", "targets"):
        values = np.load(looked.folder / f"{name}.npy")[:160]  # the base's other 40 have no match, and no part in this
        order = drawn_order(_source(len(values)), 3)
        looked.save(f"{name}.npy", values[[position for number, position in order if number < last.share]])
    asked = Method.model_validate(looked.document["method"])
    looked.document["method"] = method_at(asked, SpentAt(last.share, last.alpha)).model_dump()
    alone = looked.run()
    assert [one.effect.interval_in_sd for one in report.tests] == [
        pytest.approx(one.effect.interval_in_sd, rel=1e-3) for one in alone.tests
    ]
    assert [one.effect.deciding_p for one in report.tests] == [
        pytest.approx(one.effect.deciding_p, rel=1e-3) for one in alone.tests
    ]
    assert [line.finding for line in report.verdict.lines] == [line.finding for line in alone.verdict.lines]


def test_cold_warm_and_without_a_cache_the_report_is_the_same(
    looked: Bench,
    kept: Kept,  # noqa: F811
    seen_rows: list[int],  # noqa: F811
) -> None:
    undecided(looked)
    plain = canonical(looked.run())
    assert canonical(looked.run()) == plain
    assert canonical(looked.run(store=kept.store)) == plain
    before = sum(seen_rows)
    assert canonical(looked.run(store=kept.store)) == plain
    assert sum(seen_rows) == before


def test_examples_that_came_in_other_batches_are_not_recalled(
    looked: Bench,
    kept: Kept,  # noqa: F811
    seen_rows: list[int],  # noqa: F811
) -> None:
    """The last bits of a number may differ with its batch: the same look behind other looks is computed again."""
    undecided(looked)
    looked.run(store=kept.store)
    looked.document["method"]["sequential"]["looks"] = LOOKS[1:]
    seen_rows.clear()
    found = summary_of(looked.run(store=kept.store))
    assert sum(seen_rows) == sum(found.looks[-1].examples.values())


def test_it_is_never_divided(looked: Bench) -> None:
    audit, by_digest = looked.settled()
    nothing: dict[str, Any] = {"threads": 1, "store": scratch}
    done = sharding.run_or_divide(audit, by_digest.__getitem__, lambda *_: None, batches=1, **nothing)
    assert isinstance(done, Report)
    assert canonical(done) == canonical(looked.run())


def test_a_look_with_too_few_examples_is_left_out_and_the_next_one_spends_its_alpha(looked: Bench) -> None:
    looked.document["method"]["sequential"]["looks"] = [0.02, 0.5, 1.0]
    found = summary_of(looked.run())
    assert found.planned == [0.5, 1.0]
    assert found.looks[0].alpha == pytest.approx(0.05 * 0.5**2)


def test_groups_are_compared_in_everybody_at_every_look(looked: Bench) -> None:
    rng = np.random.default_rng(2)
    features = [f"f{number}" for number in range(FEATURES)]
    people = [[*(f"{value:.6f}" for value in row), str(rng.integers(2))] for row in rng.normal(size=(90, FEATURES))]
    rows = "\n".join(",".join(one) for one in people)
    (looked.folder / "people.csv").write_text(",".join([*features, "sex"]) + "\n" + rows)
    looked.document["examples"]["people"] = {"table": "people.csv", "features": features}
    looked.document["groups"] = {"by_sex": {"examples": "people", "sensitive": ["sex"], "target": "first"}}
    looked.document["gate"].append({"group": "by_sex", "metric": "selection_rate_ratio", "at_least": 0.01})
    report = looked.run()
    assert summary_of(report).looks[0].examples["people"] == 90
    assert summary_of(report).looks[0].settled == [0, 1, 2]
    looked.document["method"]["sequential"] = None
    assert looked.run().comparisons == report.comparisons


def _source(count: int) -> ExampleSource:
    names = tuple(f"example {number}" for number in range(count))
    values = np.arange(count)
    return ExampleSource(kind="arrays", names=names, shapes={"": ()}, load=lambda rows: {"": values[list(rows)]})


def test_matched_pairs_stay_together_where_one_side_has_more() -> None:
    sides = []
    for count in (40, 60):
        source = _source(count)
        some = taken(source, [position for number, position in drawn_order(source, 5) if number < 0.5])
        sides.append(some)
        assert some.load(range(len(some)))[""].tolist() == [int(key) for key in some.keys]
    assert set(sides[0].keys) == {key for key in sides[1].keys if int(key) < 40}


def test_the_looks_spend_alpha_and_no_more() -> None:
    """200,000 means of nothing, looked at as often: false alarms stay under alpha."""
    looks = spending([0.25, 0.5, 1.0], 0.05)
    assert sum(look.alpha for look in looks) == pytest.approx(0.05)
    assert spending([1.0], 0.05) == [SpentAt(1.0, 0.05)]
    rng = np.random.default_rng(1)
    parts = rng.normal(size=(200_000, 3)) * np.sqrt([0.25, 0.25, 0.5])
    z = parts.cumsum(axis=1) / np.sqrt([0.25, 0.5, 1.0])
    alarms = (np.abs(z) > norm.isf([look.alpha / 2 for look in looks])).any(axis=1).mean()
    assert 0.04 < alarms <= 0.05


@pytest.mark.parametrize("looks", [[0.5], [0.5, 0.25, 1.0], [0.25, 0.5], [0.5, 0.5, 1.0], [0.0, 1.0]])
def test_looks_that_are_none_are_refused(looks: list[float]) -> None:
    with pytest.raises(ValidationError, match="looks"):
        Method.model_validate({"sequential": {"looks": looks}})


def test_a_gate_without_a_line_about_a_concept_is_refused(looked: Bench) -> None:
    with pytest.raises(ValidationError, match="/method/sequential stops when the gate's lines about concepts"):
        Audit.model_validate(looked.document | {"gate": []})
