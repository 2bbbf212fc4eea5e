"""The section of docs/gradients.md about the gradient check: right networks refused, and broken rules caught.

`python -m bench.gradients --parts check` prints and writes it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target
from tests.engine.ordinary import network
from tests.engine.test_rules import ROWS
from tests.oracle.mutants import AMONG_KINKS, Judged, judged, judged_among_kinks, quiet

NETWORKS = 200
TARGET = Target("t", index=0)
TOLERANCE = 0.01
OUTCOMES = ("caught", "missed", "within the tolerance", "no change", "does not run")


def gradient_check() -> Iterator[str]:
    """Right networks refused, and broken rules caught."""
    yield (
        f"Every audit compares the mean of its gradient along short random segments with the change of the target "
        f"between their ends, at four examples and along four directions (`autodiff/segments.py`). The tolerance is "
        f"{TOLERANCE:g}, an audit's default."
    )
    yield ""
    yield from right_networks()
    yield from broken_rules()


def right_networks() -> Iterator[str]:
    """The networks of tests/engine/ordinary.py, whose gradients agree with torch."""
    layers: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    networks: Counter[str] = Counter()
    largest: defaultdict[str, float] = defaultdict(float)
    for number in range(NETWORKS):
        case = network(number)
        family = case.name.split(": ", 1)[1].rsplit(", ", 2)[0]
        model = load(case.content)
        tensors = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable][::3]
        checks = check_gradients(model, [*tensors, "x"], [TARGET], {"x": case.x}, seed=0, tolerance=TOLERANCE)
        networks[family] += 1
        layers[family] += len(checks)
        refused[family] += any(not check.ok for check in checks)
        largest[family] = max(largest[family], *(check.residual for check in checks))
    yield (
        f"**Right networks.** {refused.total()} of {NETWORKS} ordinary networks with seeded weights are refused, at "
        f"{layers.total():,} layers: every third layer and the input. Biases are small, zero, large or negative (most "
        f"units dead); inputs are noise, pixels, or mostly zero. *Residual* is the largest."
    )
    yield ""
    yield "| family | networks | layers | networks refused | residual |"
    yield "| --- | --- | --- | --- | --- |"
    for family in networks:
        yield (f"| {family} | {networks[family]} | {layers[family]} | {refused[family]} | {largest[family]:.4f} |")
    yield ""


def broken_rules() -> Iterator[str]:
    """The mutants of tests/oracle/mutants.py."""
    with quiet():
        around = list(judged(ROWS))
        among = list(judged_among_kinks([network(number) for number in AMONG_KINKS]))
    yield (
        f"**Broken rules.** Each of {len({one.operator for one in around})} rules is broken in turn: in its results "
        "(the sign, a factor of 0.9 or 2, zero, a wrong order, arguments exchanged, a mean in place of a sum over "
        "broadcast axes) and in its source (a term, a factor or a sign left out, a comparison turned round, also in "
        "its helpers). It is checked on a network around the operator, at one example; rules of ordinary networks are "
        "also broken there, among kinks. A mutant whose gradient is within the tolerance of the right one cannot count "
        "as wrong."
    )
    yield ""
    yield f"| broken rules | {' | '.join(OUTCOMES)} | share caught |"
    yield f"| --- |{' --- |' * (len(OUTCOMES) + 1)}"
    places = (
        ("in their results, on a network around the operator", [one for one in around if not one.in_source]),
        ("in their source, on a network around the operator", [one for one in around if one.in_source]),
        ("in their results, on ordinary networks", among),
    )
    for name, results in places:
        count = Counter(one.outcome for one in results)
        share = count["caught"] / (count["caught"] + count["missed"])
        yield f"| {name} | {' | '.join(str(count[outcome]) for outcome in OUTCOMES)} | {share:.2%} |"
    yield ""
    yield from _missed([*around, *among])


def _missed(results: Iterable[Judged]) -> Iterator[str]:
    missed = [one for one in results if one.outcome == "missed"]
    if missed:
        yield "Missed, with how far the gradient is from the right one, relative to its norm:"
        yield ""
        yield from (f"- {one.operator}: {one.way}: {one.difference:.3f}" for one in missed)
        yield ""
