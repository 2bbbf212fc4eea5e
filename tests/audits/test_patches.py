"""Activation grids and colours in audits: what places are like, how large they are drawn, and what is refused."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import pytest

from caveat_reports import html
from caveat_reports.canonical import canonical
from caveat_spec.audit import Audit
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import model_runs
from caveat_worker.engine.panels import explain
from caveat_worker.engine.panels.grids import blocks
from tests.audits.conftest import Bench
from tests.audits.test_cache import Kept
from tests.audits.test_explain import labelled
from tests.audits.test_explain_concepts import SIDE, crosses, drawn, pictures, show
from tests.audits.test_icons import activations
from tests.audits.test_shards import divided, run_parts, together
from tests.audits.test_text import words

__all__ = ["crosses", "words"]
"""Fixtures that other modules have."""


def vectors(a: np.ndarray) -> np.ndarray:
    """Activations [n, channels, side, side] at each place [n, places, channels], of length 1."""
    flat = a.reshape(*a.shape[:2], -1).swapaxes(1, 2).astype(float)
    return flat / np.maximum(np.linalg.norm(flat, axis=2, keepdims=True), 1e-300)


def cosines(own: int, *, crossed: bool) -> np.ndarray:
    """Of each place of an example of the crossed set with the most like of each example of a set [places, n]."""
    here = vectors(activations(crossed=True))[own]
    return np.stack([(here @ one.T).max(1) for one in vectors(activations(crossed=crossed))], 1)


def test_each_place_is_drawn_by_the_most_like_place_of_the_set(crosses: Bench) -> None:
    show(crosses, {"activation_norm": {"layer": "seen"}, "icons": "plain"})
    norms = np.linalg.norm(activations(crossed=True).astype(float), axis=1)
    for figure, row in zip(drawn(crosses), (3, 17, 30), strict=True):
        assert figure.patches is not None
        assert (figure.presentation, figure.patches.set, figure.patches.shape) == ("patches", "plain", [SIDE, SIDE])
        assert figure.patches.sees == (3, 3)
        expected = cosines(row, crossed=False)
        for place, one in enumerate(figure.patches.places):
            assert one.place == [place // SIDE, place % SIDE]
            assert one.value == pytest.approx(norms[row].ravel()[place], rel=1e-5)
            assert one.like is not None
            assert one.like.value == pytest.approx(expected[place].max(), abs=1e-5)
            assert expected[place, one.like.position] == pytest.approx(expected[place].max(), abs=1e-6)
            there = vectors(activations(crossed=False))[one.like.position]
            y, x = np.unravel_index((vectors(activations(crossed=True))[row][place] @ there.T).argmax(), (SIDE, SIDE))
            assert one.like.box == (max(y - 1, 0), max(x - 1, 0), min(y + 1, SIDE - 1), min(x + 1, SIDE - 1))
    assert len({figure.scale for figure in drawn(crosses)}) == 1, "sizes can be compared between examples"


def test_an_example_is_no_patch_of_itself_nor_of_its_match_nor_of_its_copy(crosses: Bench) -> None:
    show(crosses, "activation_grid")
    crosses.document["layers"] = ["seen"]
    for figure, row in zip(drawn(crosses), (3, 17, 30), strict=True):
        assert figure.patches is not None
        assert figure.patches.set == "crossed"
        assert row not in {one.like.position for one in figure.patches.places if one.like is not None}
    matched, copied = pictures(crosses=True, seed=2)[0], pictures(crosses=False, seed=1)[0]
    matched[:, :, :2] = 0
    copied[7] = pictures(crosses=True, seed=2)[0][3]
    crosses.save("matched.npy", matched)
    crosses.save("copied.npy", copied)
    crosses.document["examples"] |= {
        "matched": {"arrays": "matched.npy", "pairs_with": "crossed"},
        "copied": {"arrays": "copied.npy"},
    }
    show(
        crosses,
        {"activation_norm": {"layer": "seen"}, "icons": "matched"},
        {"activation_norm": {"layer": "seen"}, "icons": "copied"},
    )
    beside_match, beside_copy = drawn(crosses)[:2]
    for figure, row in ((beside_match, 3), (beside_copy, 7)):
        assert figure.patches is not None
        assert row not in {one.like.position for one in figure.patches.places if one.like is not None}


def test_any_number_at_places_can_be_the_size(crosses: Bench) -> None:
    """An attribution on an activation grid, whose patches are the same and whose sizes and signs are its own."""
    crosses.document["integrity"] = {"sanity": "none"}
    positions = {"layer": "seen", "atoms": "positions"}
    show(
        crosses,
        {"linear": positions, "as": "patches", "icons": "plain"},
        {"activation_norm": {"layer": "seen"}, "icons": "plain"},
        {"linear": positions},
    )
    (one,) = crosses.run().explanations
    for panel in one.panels:
        parts, norms, mapped = panel.figures
        assert parts.patches is not None
        assert norms.patches is not None
        assert mapped.map is not None
        assert [each.like for each in parts.patches.places] == [each.like for each in norms.patches.places]
        numbers = np.array([each.value for each in parts.patches.places])
        assert (numbers < 0).any()
        assert numbers.sum() == pytest.approx(mapped.total, rel=1e-4)


def test_blocks_of_numbers_that_are_no_parts_are_their_means() -> None:
    values = np.arange(30.0).reshape(5, 6)
    expected = np.array([[3.5, 5.5, 7.5], [15.5, 17.5, 19.5], [24.5, 26.5, 28.5]])
    assert blocks(values, additive=False, most=3) == pytest.approx(expected)


def test_places_without_rows_are_those_of_the_text_without_padding(words: Bench) -> None:
    words.document.pop("gate")
    words.document |= {"test_concepts": False, "integrity": {"sanity": "none"}}
    asked = {"of": "answer", "examples": {"set": "he", "count": 1}}
    words.document["explain"] = {
        "where": {
            **asked,
            "show": [
                {"activation_norm": {"layer": "mixed"}, "icons": "others"},
                {"principal_components": {"layer": "mixed", "over": "others"}},
            ],
        }
    }
    report = words.run()
    (panel,) = report.explanations[0].panels
    grid, colours = panel.figures
    assert grid.words == colours.words
    assert grid.words[0] == "he"
    assert grid.patches is not None
    assert [one.place for one in grid.patches.places] == [[k] for k in range(len(grid.words))]
    first = grid.patches.places[0].like
    assert first is not None
    assert first.mark is not None
    assert first.words[first.mark] in str(words.document | {"others": (words.folder / "others.jsonl").read_text()})
    assert all(atom.map is not None and atom.map.shape[0] == 1 for atom in colours.atoms)
    page = html.render(report)
    assert page.count('<span class="word">he</span>') == 1
    assert 'class="words toned"' in page


def test_colours_are_three_components_on_one_scale_and_may_be_those_of_a_set(crosses: Bench) -> None:
    crosses.document["keep"] = "maps"
    show(
        crosses,
        {"principal_components": {"layer": "seen"}},
        {"principal_components": {"layer": "seen", "over": "plain"}},
    )
    written: list[bytes] = []
    (one,) = crosses.run(keep_maps=written.append).explanations
    kept = np.load(io.BytesIO(written[0]))
    whole = activations(crossed=False).reshape(40, 16, -1).swapaxes(1, 2).reshape(-1, 16).astype(float)
    _, _, right = np.linalg.svd(whole - whole.mean(0), full_matrices=False)
    for number, panel in enumerate(one.panels):
        own, shared = panel.figures
        for figure in (own, shared):
            assert (figure.presentation, figure.withheld) == ("colours", None)
            assert {atom.map.scale for atom in figure.atoms if atom.map} == {figure.atoms[0].map.scale}  # type: ignore[union-attr]
        a = activations(crossed=True)[panel.position].reshape(16, -1).T.astype(float)
        for component in range(3):
            found = kept[f"where/1/{number}/maps"][component].ravel()
            expected = (a - whole.mean(0)) @ right[component]
            assert np.abs(found) == pytest.approx(np.abs(expected), abs=2e-4 * np.abs(expected).max())
        (ratio,) = np.unique([atom.map.scale for atom in own.atoms if atom.map])
        assert ratio > 0
        assert "together" in own.sentence


def test_components_have_icons_of_the_set(crosses: Bench) -> None:
    show(crosses, {"principal_components": {"layer": "seen"}, "icons": "plain"})
    for figure in drawn(crosses):
        assert figure.presentation == "icons"
        assert figure.icons is not None
        assert {one.atom for one in figure.icons.spectra} == {"component 1", "component 2", "component 3"}


def test_shards_and_a_cache_give_the_same_bytes(crosses: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 1)
    show(
        crosses,
        {"activation_norm": {"layer": "seen"}, "icons": "plain"},
        {"principal_components": {"layer": "seen", "over": "plain"}},
    )
    kept = Kept(crosses.folder / "kept")
    alone = canonical(crosses.run(store=kept.store))
    pieces = run_parts(crosses, divided(crosses, 20), crosses.folder)
    monkeypatch.setattr(explain, "responses", None)
    assert canonical(crosses.run(store=kept.store)) == alone
    assert canonical(crosses.run(store=partial(together, pieces))) == alone


@pytest.mark.parametrize(
    ("element", "code", "said"),
    [
        ({"by": "saliency", "as": "patches"}, "cannot-be-drawn-so", "places of a layer inside the model"),
        ({"layer": "seen", "atoms": "channels", "as": "patches"}, "cannot-be-drawn-so", "not drawn as patches"),
        ({"layer": "seen", "atoms": "positions", "as": "colours"}, "cannot-be-drawn-so", "mix three components"),
        ({"principal_components": {"layer": "flatten_3"}}, "no-positions", "no positions"),
    ],
)
def test_what_has_no_places_is_refused_in_a_sentence(crosses: Bench, element: Any, code: str, said: str) -> None:
    show(crosses, element)
    with pytest.raises(InvalidInput, match=said) as refused:
        crosses.run()
    assert refused.value.code == code


def test_one_example_has_no_others_to_be_like(crosses: Bench) -> None:
    crosses.document["examples"]["alone"] = {"of": "crossed", "only": ["3"]}
    crosses.document["explain"]["where"]["examples"] = {"set": "alone", "count": 1}
    show(crosses, {"activation_norm": {"layer": "seen"}})
    with pytest.raises(InvalidInput, match="'alone' has no other") as refused:
        crosses.run()
    assert refused.value.code == "too-few-for-patches"


def test_a_row_of_a_table_has_no_places(tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = labelled(tmp_path_factory.mktemp("rows"))
    rows.document["explain"] = {
        "why": {"of": "approve", "examples": {"count": 1}, "show": [{"activation_norm": {"layer": "scores"}}]}
    }
    with pytest.raises(InvalidInput, match="has no positions and no channels"):
        rows.run()


def test_the_recipe_is_an_activation_norm(crosses: Bench) -> None:
    show(crosses, "activation_grid")
    (element,) = Audit.model_validate(crosses.settled()[0].model_dump(mode="json", by_alias=True)).explain["where"].show
    assert (element.by, element.options["layer"]) == ("activation_norm", "auto")


def test_places_that_are_all_the_same_are_no_colours(crosses: Bench) -> None:
    crosses.save("crossed.npy", np.zeros((40, 1, SIDE, SIDE), np.float32))
    show(crosses, {"principal_components": {"layer": "x"}})
    del crosses.document["concepts"], crosses.document["test_concepts"]
    for figure in drawn(crosses):
        assert figure.withheld == "Its places are all the same, so that no direction tells them apart."
