"""The zoo judges models as its page says, and its quick models are audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.zoo import __main__ as zoo
from bench.zoo.collection import ExpectedRefusal, Model, models
from bench.zoo.journey import Journey, make_keys, travel, without_folders
from bench.zoo.page import holds, kept, written

QUICK = [one for one in models(("scikit_learn", "pipelines", "packaged_pictures")) if one.quick]
ALWAYS = "mlp-iris"
"""The one that every run audits; the slow tests audit all the quick ones."""


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "one", [pytest.param(one, id=one.name, marks=() if one.name == ALWAYS else pytest.mark.slow) for one in QUICK]
)
def test_a_model_goes_through_every_command(one: Model, tmp_path: Path) -> None:
    folder = tmp_path / one.name
    folder.mkdir()
    one.make(folder)
    journey = travel(folder, make_keys(tmp_path))
    assert journey.result == "audited", journey.words
    assert list(journey.seconds) == ["layers", "init", "gate", "verify"]


def test_a_file_that_is_no_model_is_refused_at_the_first_command(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    journey = travel(tmp_path, make_keys(tmp_path))
    assert (journey.result, list(journey.seconds)) == ("refused", ["layers"])
    assert "Remedy:" in journey.words


def rows(journey: Journey, refusal: ExpectedRefusal | None = None, count: int = 60) -> list[tuple[Model, Journey]]:
    """As many audited models as the aims ask for, and one that came to `journey`."""
    fine = Journey("audited", "pass: 1 intervention", {"gate": 2.0})
    others = [(Model(f"m{number}", f"source {number}", "A model", lambda _: None), fine) for number in range(count)]
    return [*others, (Model("last", "source 0", "The last", lambda _: None, refusal), journey)]


@pytest.mark.parametrize("result", ["crashed", "does not run", "refused", "not made"])
def test_one_failure_misses_an_aim(result: str) -> None:
    assert holds(rows(Journey("audited", "pass: 1 intervention")))
    page = rows(Journey(result, "something is wrong"))  # type: ignore[arg-type]
    assert not holds(page)
    assert "**no**" in written(page)


def test_a_refusal_is_right_only_where_its_words_are_declared() -> None:
    journey = Journey("refused", "`caveat layers`: The weights of 'w' are missing. Remedy: …")
    declared = ExpectedRefusal("weights of 'w' are missing", "the package ships the graph alone.")
    assert holds(rows(journey, declared))
    assert "**Right:** the package ships the graph alone." in written(rows(journey, declared))
    assert not holds(rows(journey, ExpectedRefusal("another sentence", "…")))


def test_too_few_models_or_sources_miss_an_aim() -> None:
    assert not holds(rows(Journey("audited", "pass: 1 intervention"), count=20))


@pytest.mark.parametrize("result", ["audited", "refused", "does not run", "crashed", "not made"])
@pytest.mark.parametrize("refusal", [None, ExpectedRefusal("a | b", "it is so.")])
def test_a_page_keeps_what_it_shows(result: str, refusal: ExpectedRefusal | None) -> None:
    page = rows(Journey(result, "`caveat init`: it says a | b. Remedy: none", {"all": 7.0}), refusal, count=2)  # type: ignore[arg-type]
    found = kept(written(page), [model for model, _ in page])
    assert {name: (one.result, one.words, one.total) for name, one in found.items()} == {
        model.name: (one.result, one.words, one.total) for model, one in page
    }


def test_the_page_grows_by_a_row_for_each_model_that_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "CAGES", tmp_path)
    monkeypatch.setattr(zoo, "PAGE", tmp_path / "zoo.md")
    every = [model for model, _ in rows(Journey("audited", "pass: 1 intervention"), count=2)]
    for ran, one in enumerate(every, 1):
        (tmp_path / one.name).mkdir()
        Journey("audited", "pass: 1 intervention", {"gate": 2.0}).save(tmp_path / one.name / "journey.json")
        assert not zoo.write_page(every)
        assert list(kept(zoo.PAGE.read_text(), every)) == [model.name for model in every[:ran]]


def test_some_models_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["--family", "scikit_learn", "--first", "wages", "SVC", "--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:3] == ["SVC", "linear-wages", "mlp-wages"]
    assert "LogisticRegression" in names[3:]


def test_a_run_goes_on_where_another_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zoo, "CAGES", tmp_path)
    (tmp_path / "SVC").mkdir()
    Journey("audited", "pass: 1 intervention").save(tmp_path / "SVC" / "journey.json")
    wanted = ["--family", "scikit_learn", "--only", "SVC", "GaussianNB", "--list"]
    assert zoo.main([*wanted, "--resume"]) == zoo.main(wanted) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["GaussianNB", "SVC", "GaussianNB"]


def test_messages_hold_no_folders_of_the_machine() -> None:
    text = "OSError: '/home/me/zoo/.venv/lib/a b.py', line 3: no /tmp/x/model.onnx; see https://example.org/a/b, n/a"
    assert without_folders(text) == "OSError: 'a b.py', line 3: no model.onnx; see https://example.org/a/b, n/a"
