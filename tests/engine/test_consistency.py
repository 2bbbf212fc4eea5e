"""Layers side by side."""

from __future__ import annotations

import pytest

from worker.engine.consistency import Said, story

UP, DOWN = {"effect": 1.0, "significant": True}, {"effect": -1.0, "significant": True}
STILL, ABSENT = {"effect": 0.1, "significant": False}, {"effect": 1.0, "significant": True, "encoded": False}


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
    layers = [Said(**{"layer": f"l{number}", "encoded": True, **row}) for number, row in enumerate(rows)]
    found = story("mark", "carton", layers)
    assert (found.raising, found.lowering, found.sentence) == (raising, lowering, sentence)
    assert found.encoding == [layer.layer for layer in layers if layer.encoded]
