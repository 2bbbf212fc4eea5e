"""What a concept adds to another: rows that are tested beyond it."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench


@pytest.fixture
def both(bench: Bench) -> Bench:
    """The small audit with one more concept, `both`, which moves the used and the ignored feature together."""
    base = np.load(bench.folder / "base.npy")
    bench.save("both.npy", base + np.array([1.5, 1.5, 0, 0]))
    bench.document["examples"]["both"] = {"arrays": "both.npy", "pairs_with": "base"}
    bench.document["concepts"]["both"] = {"examples": "both", "against": "base"}
    return bench


def test_a_concept_has_no_effect_beyond_the_one_that_it_works_by(both: Bench) -> None:
    plain = {row.concept: row for row in both.run().associations}
    both.document["concepts"]["both"]["controlling_for"] = ["used"]
    report = both.run()
    beyond = {row.concept: row for row in report.associations}
    assert abs(plain["both"].effect.in_sd) > 0.5
    assert abs(beyond["both"].effect.in_sd) < 0.15
    assert beyond["both"].accuracy.encoded  # the ignored feature is left of it
    assert {name: row for name, row in beyond.items() if name != "both"} == {
        name: row.model_copy(update={"effect": row.effect.model_copy(update={"p_corrected": after.effect.p_corrected})})
        for name, row in plain.items()
        if name != "both" and (after := beyond[name])
    }
    (table,) = report.matrices
    at = table.names.index
    assert abs(table.values[at("both")][at("used")]) < 1e-6
    assert table.values[at("both")][at("ignored")] > 0.3


def test_concepts_that_coincide_are_refused(both: Bench) -> None:
    both.document["concepts"]["again"] = both.document["concepts"]["used"]
    both.document["concepts"]["both"]["controlling_for"] = ["used", "again"]
    with pytest.raises(InvalidInput, match="combination of the others") as refused:
        both.run()
    assert refused.value.pointer == "/concepts/both/controlling_for"


@pytest.mark.parametrize(
    ("controlling_for", "words"),
    [
        (["nobody"], "names the concept 'nobody', which is not declared"),
        (["both"], "each of them once"),
        (["used", "used"], "each of them once"),
    ],
)
def test_beyond_names_other_concepts(both: Bench, controlling_for: list[str], words: str) -> None:
    both.document["concepts"]["both"]["controlling_for"] = controlling_for
    with pytest.raises(ValueError, match=words):
        both.run()
