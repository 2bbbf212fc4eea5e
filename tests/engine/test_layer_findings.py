"""Layers side by side."""

from __future__ import annotations

import pytest

from caveat_worker.engine.layer_findings import summarise_layers
from tests.api_spec import handmade

UP, DOWN = {"in_sd": 1.0, "p": 0.01}, {"in_sd": -1.0, "p": 0.01}
STILL, ABSENT = {"in_sd": 0.1, "p": 0.5}, {"in_sd": 1.0, "p": 0.01, "encoded": False}


@pytest.mark.parametrize(
    ("rows", "raising", "lowering", "sentence"),
    [
        ([ABSENT, ABSENT], [], [], "None of the 2 layers encodes mark."),
        ([ABSENT, UP], ["l1"], [], "1 of 2 layers encodes mark; a step towards it raises carton there."),
        ([UP, UP], ["l0", "l1"], [], "2 of 2 layers encode mark; a step towards it raises carton at each of them."),
        (
            [DOWN, STILL],
            [],
            ["l0"],
            "2 of 2 layers encode mark; a step towards it lowers carton at l0 and is within chance at the other.",
        ),
        (
            [STILL, STILL],
            [],
            [],
            "2 of 2 layers encode mark; at none of them does a step towards it move carton beyond chance.",
        ),
        (
            [UP, ABSENT, DOWN],
            ["l0"],
            ["l2"],
            "2 of 3 layers encode mark, and they disagree: a step towards it raises carton at l0 and lowers it at l2.",
        ),
    ],
)
def test_what_the_layers_say_together(rows: list[dict], raising: list[str], lowering: list[str], sentence: str) -> None:
    tests = [handmade.row(layer=f"l{number}", **row) for number, row in enumerate(rows)]
    (found,) = summarise_layers(tests, alpha=0.05)
    assert (found.raising, found.lowering, found.sentence) == (raising, lowering, sentence)
    assert found.encoding == [test.layer for test in tests if test.accuracy and test.accuracy.encoded]


def test_one_layer_says_nothing_together() -> None:
    assert summarise_layers([handmade.row(**UP)], alpha=0.05) == []
