"""Icons: the examples for which a feature or a concept is highest, lowest and in between, and what it sees of them."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from caveat_reports import html
from caveat_reports.canonical import canonical
from caveat_reports.figures.table import adopted
from caveat_spec.audit import Audit
from caveat_spec.explained import Figure
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import model_runs
from caveat_worker.engine.panels import explain
from caveat_worker.readers.icons import crop_of, words_of
from caveat_worker.readers.source import ExampleSource
from tests.audits.conftest import Bench
from tests.audits.test_cache import Kept
from tests.audits.test_explain_concepts import COUNT, SIDE, crosses, drawn, network, pictures, show
from tests.audits.test_shards import divided, run_parts, together
from tests.audits.test_text import words
from tests.explanations.models import opened

__all__ = ["crosses", "words"]
"""Fixtures that other modules have."""


def activations(*, crossed: bool) -> np.ndarray:
    """The layer at every picture of a set [n, 16, side, side]."""
    runs, _ = opened(network(), index=0).around({"x": np.zeros((1, 1, SIDE, SIDE), np.float32)})
    return np.asarray(runs.activations(pictures(crosses=crossed, seed=1 + crossed)[0], "seen"))


def test_examples_are_in_the_order_of_their_largest_activation(crosses: Bench) -> None:
    show(crosses, {"activation": {"layer": "seen", "only": [3, 11], "icons": "plain"}})
    strongest = activations(crossed=False).max((2, 3))
    for figure in drawn(crosses):
        assert figure.icons is not None
        assert (figure.icons.set, figure.icons.examples, figure.icons.sees) == ("plain", COUNT, (3, 3))
        assert {one.atom for one in figure.icons.spectra} == {"channel 3", "channel 11"}
        for one in figure.icons.spectra:
            values = strongest[:, int(one.atom.removeprefix("channel "))]
            order = np.argsort(-values, kind="stable")
            assert [icon.position for icon in one.icons] == order[[0, 10, 20, 29, 39]].tolist()
            assert [icon.value for icon in one.icons] == pytest.approx(values[order[[0, 10, 20, 29, 39]]], rel=1e-5)
            assert one.highest == [str(row) for row in order[:20] if values[row] > np.median(values)]


def test_an_icon_is_the_field_of_the_strongest_place(crosses: Bench) -> None:
    show(crosses, {"activation": {"layer": "seen", "only": [5], "icons": "plain"}})
    (spectrum,) = drawn(crosses)[0].icons.spectra  # type: ignore[union-attr]
    a = activations(crossed=False)[:, 5]
    for icon in spectrum.icons:
        y, x = np.unravel_index(a[icon.position].argmax(), (SIDE, SIDE))
        assert icon.box == (max(y - 1, 0), max(x - 1, 0), min(y + 1, SIDE - 1), min(x + 1, SIDE - 1))
        assert icon.picture is None, "arrays have no pictures"


def test_what_is_shown_is_what_is_most_active_here(crosses: Bench) -> None:
    show(crosses, {"activation": {"layer": "seen", "top": 3, "icons": "plain"}})
    here = activations(crossed=True)[3].max((1, 2))
    figure = drawn(crosses)[0]
    assert [atom.place for atom in figure.atoms] == [[one] for one in np.argsort(-here)[:3]]
    assert figure.sentence.startswith(f"In 3, channel {here.argmax()} is the most active ({here.max():.3g}), followed")
    assert f"In plain, the activation of channel {here.argmax()} is highest for " in figure.sentence


def test_a_feature_that_decides_is_shown_with_what_it_looks_for(crosses: Bench) -> None:
    """The teaser: channels by their part of the target, each with its icons."""
    show(crosses, {"layer": "seen", "atoms": "channels", "as": "icons", "top": 2})
    for figure in drawn(crosses):
        assert figure.withheld is None
        assert figure.icons is not None
        assert [one.atom for one in figure.icons.spectra] == [atom.id for atom in figure.atoms]
        assert figure.icons.set == "crossed", "the explained set, where no other is named"
        assert "raises first most" in figure.sentence or "lowers first most" in figure.sentence
        for atom in figure.atoms:
            assert atom.map is not None, "where the channel does its part"
            summed = np.array(atom.map.rows()).sum() * atom.map.scale / 127
            assert summed == pytest.approx(atom.value, abs=SIDE**2 / 2 * atom.map.scale / 127)


def test_a_concept_s_order_has_its_examples_first(crosses: Bench) -> None:
    both = np.concatenate([pictures(crosses=one, seed=20 + one)[0] for one in (True, False)])
    crosses.save("both.npy", both)
    crosses.document["examples"]["both"] = {"arrays": "both.npy"}
    crosses.document["integrity"] = {"sanity": "none"}
    element = {"concept": "cross", "layer": "seen"}
    show(crosses, {"concept_score": {**element, "icons": "both"}}, {"cav_attribution": element})
    (one,) = crosses.run().explanations
    for panel in one.panels:
        score, parts = panel.figures
        assert score.icons is not None
        assert score.atoms[0].value == pytest.approx(parts.total, rel=1e-5)
        (spectrum,) = score.icons.spectra
        assert all(int(name) < COUNT for name in spectrum.highest), "those with a cross"
        assert spectrum.icons[-1].position >= COUNT
        assert "cross has the score" in score.sentence


def test_the_highest_examples_can_be_adopted_as_a_concept(crosses: Bench) -> None:
    show(crosses, {"activation": {"layer": "seen", "only": [3], "icons": "plain"}})
    figure = drawn(crosses)[0]
    assert figure.icons is not None
    (spectrum,) = figure.icons.spectra
    assert adopted(figure.icons, spectrum).startswith('channel_3: {of: plain, only: ["')
    crosses.document["examples"]["channel_3"] = {"of": "plain", "only": spectrum.highest}
    crosses.document["concepts"]["found"] = {"examples": "channel_3", "against": "crossed"}
    crosses.document["test_concepts"] = True
    assert any(test.concept == "found" for test in crosses.run().associations)


def test_shards_and_a_cache_give_the_same_bytes(crosses: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 1)
    show(crosses, {"activation": {"layer": "seen"}}, {"concept_score": {"concept": "cross", "layer": "seen"}})
    crosses.document["integrity"] = {"sanity": "none"}
    kept = Kept(crosses.folder / "kept")
    alone = canonical(crosses.run(store=kept.store))
    pieces = run_parts(crosses, divided(crosses, 20), crosses.folder)
    monkeypatch.setattr(explain, "responses", None)
    assert canonical(crosses.run(store=kept.store)) == alone
    assert canonical(crosses.run(store=partial(together, pieces))) == alone


def test_groups_have_maps_that_add_up_to_their_effects_and_icons_of_their_own(crosses: Bench) -> None:
    show(crosses, {"groups": {"layer": "seen", "count": 4, "icons": "crossed"}})
    crosses.document["keep"] = "maps"
    written: list[bytes] = []
    (one,) = crosses.run(keep_maps=written.append).explanations
    kept = np.load(io.BytesIO(written[0]))
    for number, (_, figure) in enumerate(one.figures):
        assert figure.withheld is None
        assert [atom.id for atom in figure.atoms] == ["group 1", "group 2", "group 3", "group 4"]
        assert figure.icons is not None
        for atom in figure.atoms:
            assert atom.map is not None
            assert atom.map.shape == (SIDE, SIDE)
            summed = np.array(atom.map.rows()).sum() * atom.map.scale / 127
            assert summed == pytest.approx(atom.value, abs=SIDE**2 / 2 * atom.map.scale / 127)
        maps = kept[f"where/0/{number}/maps"]
        assert maps.sum((1, 2)) == pytest.approx([atom.value for atom in figure.atoms], rel=1e-3)
        assert {spectrum.atom for spectrum in figure.icons.spectra} == {atom.id for atom in figure.atoms}
        values = [icon.value for icon in figure.icons.spectra[0].icons]
        assert values == sorted(values, reverse=True)


def test_groups_of_a_text_say_at_which_words_they_are(words: Bench) -> None:
    show_groups = [{"groups": {"layer": "state", "count": 2}}]
    asked = {"of": "answer", "examples": {"set": "he", "count": 1}, "show": show_groups}
    words.document |= {"concepts": {}, "gate": [], "explain": {"why": asked}}
    (figure,) = drawn(words)
    assert figure.withheld is None
    assert any(note.startswith("Where each is most: group 1: ") for note in figure.notes)


@pytest.mark.parametrize(
    ("element", "sentence", "remedy"),
    [
        ({"groups": {"layer": "input"}}, "the input has none that act together", "Name a layer inside the model"),
        ({"groups": {"layer": "seen", "only": [1]}}, "groups here has groups", "Leave 'only' out"),
        ({"groups": {"layer": "seen", "as": "map"}}, "groups at groups is not drawn as map", "icons or bars or"),
        ({"activation": {"layer": "seen", "only": [16]}}, "'seen' has no channel 16, only 16 of them", "from 0 to 15"),
        ({"saliency": {"only": [1]}}, "saliency here has pixels", "Leave 'only' out"),
        ({"layer": "seen", "as": "icons", "atoms": "positions"}, "is not drawn as icons", "It is shown as map"),
        ({"activation": {"layer": "seen", "icons": "few"}}, "'few' has 4", "Name a larger set in 'icons'"),
        ({"saliency": {"icons": "plain"}}, "is not drawn as icons", "It is shown as map or table"),
    ],
)
def test_what_has_no_icons_is_refused(crosses: Bench, element: Any, sentence: str, remedy: str) -> None:
    crosses.document["examples"]["few"] = {"of": "plain", "only": ["1", "2", "3", "4"]}
    show(crosses, element)
    with pytest.raises(InvalidInput) as refused:
        crosses.run()
    assert refused.value.pointer == "/explain/where/show/0"
    assert sentence in refused.value.sentence
    assert remedy in refused.value.remedy


def test_the_budget_counts_the_examples_that_are_put_in_order(crosses: Bench) -> None:
    show(crosses, {"activation": {"layer": "seen"}})
    crosses.document["method"] = {"explanation_passes": 30}
    with pytest.raises(InvalidInput, match="would take 46 passes"):
        crosses.run()


def quarters(position: int, blurred: bool, pixels: int) -> bytes:
    """A picture whose lower right quarter is red, and the rest blue."""
    picture = Image.new("RGB", (pixels, pixels), (0, 0, 255))
    picture.paste((255, 0, 0), (pixels // 2, pixels // 2, pixels, pixels))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def audit(shown: str) -> Audit:
    """One that shows examples or names them only."""
    return Audit.model_validate(
        {
            "model": "m.onnx",
            "examples": {"photos": {"images": "p.zip", "preprocess": {"size": 64}}},
            "targets": {"t": {"examples": "photos"}},
            "explain": {"why": {"of": "t", "show": ["saliency"]}},
            "method": {"pictures": shown},
        }
    )


@pytest.mark.parametrize("shown", ["full", "ids"])
def test_an_icon_is_a_part_of_the_picture_where_the_audit_shows_pictures(shown: str) -> None:
    source = ExampleSource("images", ("a.png",), {}, lambda rows: {}, thumbnail=quarters)
    icon = crop_of(audit(shown), {"photos": source})("photos", 0, (32, 40, 47, 63), (64, 64))
    if shown == "ids":
        assert icon is None
        return
    assert icon is not None
    picture = Image.open(io.BytesIO(b64decode(icon.partition(",")[2]))).convert("RGB")
    assert picture.size == (24, 16)
    red, _, blue = picture.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert red > 200
    assert blue < 60


def test_an_icon_of_a_text_is_the_words_around_the_place_without_the_padding(words: Bench) -> None:
    asked = {"of": "answer", "examples": {"set": "he", "count": 2}, "show": [{"activation": {"layer": "state"}}]}
    words.document |= {"concepts": {}, "gate": [], "explain": {"why": asked}}
    texts = [json.loads(line)["text"].split() for line in (words.folder / "he.jsonl").read_text().splitlines()]
    for figure in drawn(words):
        assert figure.icons is not None
        for one in figure.icons.spectra:
            for icon in one.icons:
                assert icon.mark is not None, "no strongest place is padding"
                assert icon.words == texts[icon.position]
        assert figure.icons.spectra[0].icons[0].value >= figure.atoms[0].value


def test_an_icon_of_a_row_is_its_columns_where_the_audit_shows_examples() -> None:
    frame = pd.DataFrame({"age": [31.0, 64.0], "job": ["cook", "smith"]})
    source = ExampleSource(
        "table", ("row 1", "row 2"), {}, lambda rows: {}, parts=lambda row: {"x": ["age", "job"]},
        columns=lambda names: frame[list(names)],
    )  # fmt: skip
    assert words_of(audit("full"), {"photos": source})("photos", 1) == ["age 64", "job smith"]
    assert words_of(audit("ids"), {"photos": source})("photos", 1) == []


def test_figures_read_themselves(crosses: Bench) -> None:
    show(crosses, {"activation": {"layer": "seen"}})
    figure = drawn(crosses)[0]
    assert Figure.model_validate_json(figure.model_dump_json()) == figure


def test_both_ends_of_a_ribbon_have_what_they_look_for(crosses: Bench) -> None:
    """Channels of two layers beside the examples of a set at which each is highest, in their own layer's order."""
    to = {"layer": "conv_0", "to": {"layer": "seen"}, "icons": "plain"}
    show(crosses, {**to, "atoms": "channels"}, {**to, "atoms": "groups"})
    crosses.document["integrity"] = {"sanity": "none"}
    report = crosses.run()
    strongest = activations(crossed=False).max((2, 3))
    for panel in report.explanations[0].panels:
        channels, groups = panel.figures
        for figure in (channels, groups):
            assert (figure.presentation, figure.withheld) == ("flow", None)
            assert figure.icons is not None
            assert figure.upper_icons is not None
            assert {one.atom for one in figure.icons.spectra} == {link.source for link in figure.links}
            assert {one.atom for one in figure.upper_icons.spectra} == {link.sink for link in figure.links}
        assert channels.upper_icons is not None
        for one in channels.upper_icons.spectra:
            values = strongest[:, int(one.atom.removeprefix("channel "))]
            assert one.icons[0].position == values.argmax()
            assert one.icons[0].value == pytest.approx(values.max(), rel=1e-5)
    page = html.render(report)
    assert page.count("What those of the later layer look for in plain") == 2 * 2 * len(report.explanations[0].panels)


def test_shards_and_a_cache_give_the_same_ribbons(crosses: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 1)
    to = {"layer": "conv_0", "to": {"layer": "seen"}, "icons": "plain"}
    show(crosses, {**to, "atoms": "groups"}, {**to, "atoms": "channels"})
    kept = Kept(crosses.folder / "kept")
    alone = canonical(crosses.run(store=kept.store))
    pieces = run_parts(crosses, divided(crosses, 20), crosses.folder)
    monkeypatch.setattr(explain, "responses", None)
    assert canonical(crosses.run(store=kept.store)) == alone
    assert canonical(crosses.run(store=partial(together, pieces))) == alone


def test_places_beside_ribbons_have_no_icons(crosses: Bench) -> None:
    element = {"layer": "conv_0", "to": {"layer": "seen"}, "atoms": "positions", "as": "flow", "icons": "plain"}
    show(crosses, element)
    with pytest.raises(InvalidInput, match="not drawn with icons") as refused:
        crosses.run()
    assert refused.value.code == "icons-not-drawn"
