"""`caveat study make` and `read`: what raters see, which rows are taken, and what their ratings come to."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shlex
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat.study.folder import material_of, open_study
from caveat.study.making import plan
from caveat_reports.study import forms
from caveat_reports.study.dealing import Design
from caveat_spec.explain import Element
from caveat_spec.study import StudyFindings
from caveat_worker import study_analysis as analysis
from tests.api_spec import handmade
from tests.client import rated
from tests.client.conftest import ROOT
from tests.client.test_installation import SERVERS
from tests.client.test_installation import run as run_without

OF_LAYER = Element.model_validate({"activation": {"layer": "conv1"}})
SIX = ("--raters", "12", "--seed", "7", "--truth", "cab=image", "--truth", "zebra=caption")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["study", *map(str, arguments)])


def said(done: Result) -> str:
    """The output on one line, without the word before a remedy."""
    return done.output.replace("\nRemedy:", "").replace("\n", " ")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of twelve raters, in the folder where the test runs."""
    monkeypatch.chdir(tmp_path)
    rated.written(Path("report.json"))
    done = run("make", "report.json", *SIX, "-o", "st")
    assert done.exit_code == 0, done.output
    return Path("st")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def fill(path: Path, answer: Callable[[dict[str, str]], tuple[object, object, object] | None]) -> None:
    """Types answers into the file of ratings."""
    every = rows(path)
    for row in every:
        if (given := answer(row)) is not None:
            row |= dict(zip(("image", "concept", "confidence"), map(str, given), strict=True))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(every[0]))
        writer.writeheader()
        writer.writerows(every)


def test_each_rater_has_every_class_with_every_kind_of_map_once(made: Path) -> None:
    study = open_study(made).study
    orders = [[(task.of, task.map) for task in sheet.tasks] for sheet in study.sheets]
    wanted = {(name, method) for name in rated.CLASSES for method in rated.METHODS}
    assert all(len(order) == 6 and set(order) == wanted for order in orders)
    assert len({tuple(order) for order in orders}) > 8, "orders differ from rater to rater"


def test_the_maps_of_one_class_are_of_other_pictures(made: Path) -> None:
    """Eight pictures are enough for two tasks of four."""
    for sheet in open_study(made).study.sheets:
        seen = Counter(key for task in sheet.tasks for key in task.pictures)
        assert set(seen.values()) == {1}


def test_few_pictures_are_shown_with_both_kinds_of_map() -> None:
    few = [rated.explained(name, rated.maps, 5) for name in rated.CLASSES]
    study, _ = plan(rated.report(explanations=few), Design(4, 0))
    assert all(len(set(task.pictures)) == 4 for sheet in study.sheets for task in sheet.tasks)


def test_the_same_seed_makes_the_same_study_and_other_links(made: Path) -> None:
    for name, seed in (("again", "7"), ("other", "8")):
        assert run("make", "report.json", *SIX, "--seed", seed, "-o", name).exit_code == 0
    assert (made / "study.json").read_bytes() == Path("again/study.json").read_bytes()
    assert (made / "study.json").read_bytes() != Path("other/study.json").read_bytes()
    first, second = (rows(path / "tokens.csv") for path in (made, Path("again")))
    assert not {one["token"] for one in first} & {one["token"] for one in second}
    assert len({one["token"] for one in first}) == 12
    assert stat.S_IMODE((made / "tokens.csv").stat().st_mode) == 0o600


def test_what_was_shown_is_named_by_its_digest(made: Path) -> None:
    folder = open_study(made)
    for name, digest in folder.study.forms.items():
        assert digest == "sha256:" + hashlib.sha256((made / "forms" / name).read_bytes()).hexdigest()
    material_of(folder)
    (made / "material.json").write_bytes((made / "material.json").read_bytes().replace(b"AAA", b"AAB", 1))
    with pytest.raises(Exception, match="its digest is another one"):
        material_of(folder)


def test_a_form_tells_raters_neither_methods_nor_what_is_right(made: Path) -> None:
    for path in sorted((made / "forms").iterdir()):
        page = path.read_text()
        words = re.sub(r'"data:[^"]*"|<style>.*?</style>', "", page, flags=re.DOTALL).lower()
        for word in ("gradient", "saliency", "truth", "the caption raises", "baseline", ".png", "<script", "http:"):
            assert word not in words.replace("http-equiv", ""), (path.name, word)
        assert words.count('type="radio"') == 6 * 25
        assert words.count("<fieldset") == words.count("<legend>") == 18


def test_a_form_that_is_served_has_the_questions_of_the_article(made: Path) -> None:
    folder = open_study(made)
    page = forms.task(folder.study, material_of(folder), folder.study.sheets[0], 2, link="/r/x", token="t")
    assert "How important is the image to the model?" in page
    assert "How important is the caption to the model?" in page
    assert page.count('type="radio"') == 25
    assert "Task 2 of 6" in page


def test_a_study_is_made_and_served_by_the_client_alone(tmp_path: Path) -> None:
    """Without NumPy, which only the analysis needs, and says so."""
    rated.written(tmp_path / "report.json")
    absent = {"numpy", "scipy", "onnx", "pandas", *SERVERS}
    done = run_without(tmp_path, "study", "make", "report.json", "--raters", "2", absent=absent)
    assert done.returncode == 0, done.stderr
    done = run_without(tmp_path, "study", "serve", "study", "--url", "nowhere", absent=absent)
    assert "'nowhere' is no address of a site" in done.stderr
    without = "import caveat.installation as one; one.find_spec = lambda name: None"
    done = run_without(tmp_path, "study", "read", "study", absent=absent, before=without)
    assert done.returncode == 3
    assert "needs numpy, scipy" in done.stderr


def test_nothing_is_written_over(made: Path) -> None:
    before = (made / "study.json").read_bytes()
    done = run("make", "report.json", *SIX, "-o", "st")
    assert done.exit_code == 2
    assert "exists and is not an empty folder" in done.output
    assert (made / "study.json").read_bytes() == before


def withheld(number: int) -> list[Any]:
    return [rated.figure("saliency", number, withheld="It hardly changes.", map=None), *rated.maps(number)[:1]]


@pytest.mark.parametrize(
    ("explanations", "options", "sentence"),
    [
        ([], (), "draws no map"),
        (["cab"], ("--target", "zebra"), "no map for 'zebra'. It draws maps for cab."),
        (["cab"], ("--map", "occlusion"), "'occlusion'. Every class has maps of gradient_x_input, saliency."),
        (["cab"], ("--concept", "logo"), "'logo', and not one called logo-CLASS for every class. It has caption."),
        (["cab"], ("--image-concept", "taxi"), "no concept 'taxi'"),
        (["cab"], ("--truth", "cab=logo"), "Classes are cab; what matters more is image or caption."),
        (["cab"], ("--truth", "cab"), "use CLASS=WHAT"),
        (["cab"], ("--pictures", "9"), "9 is not in the range"),
        (["cab"], ("--raters", "0"), "0 is not in the range"),
        (["cab"], ("--consent", "none.txt"), "none.txt cannot be read: No such file or directory."),
        (["cab"], ("-o", "report.json"), "exists and is not an empty folder"),
    ],
)
def test_what_cannot_be_a_study_is_refused(
    explanations: list[str], options: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rated.written(
        Path("report.json"), rated.report(explanations=[rated.explained(n, rated.maps) for n in explanations])
    )
    done = run("make", "report.json", *options)
    assert done.exit_code == 2
    assert sentence in said(done)
    assert not Path("study").exists()


@pytest.mark.parametrize(
    ("changed", "concepts", "sentence"),
    [
        ({"thumbnail": None}, ("caption",), "has 0 of the 4 pictures"),
        ({"thumbnail": "https://evil.example/pixel.png"}, ("caption",), "has 0 of the 4 pictures"),
        ({"match_of": "a.png"}, ("caption",), "draws no map"),
        ({}, ("caption", "logo"), "2 concepts that raters could weigh against the image. Choose one with --concept"),
        ({}, (), "Name it with --concept"),
    ],
)
def test_a_report_that_lacks_something_is_refused(
    changed: dict[str, Any], concepts: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    path = rated.written(
        tmp_path / "report.json", rated.report(concepts, [rated.explained("cab", rated.maps, **changed)])
    )
    done = run("make", path, "-o", tmp_path / "st")
    assert done.exit_code == 2
    assert sentence in said(done)


def test_a_withheld_map_is_shown_to_nobody(tmp_path: Path) -> None:
    study, material = plan(rated.report(explanations=[rated.explained("cab", withheld)]), Design(3, 0))
    assert [kind.name for kind in study.maps] == ["gradient_x_input"]
    assert all(set(one.maps) == {"gradient_x_input"} for one in material.shown.values())


def test_a_map_of_something_else_than_the_class_is_shown_to_nobody() -> None:
    """Where a concept is says nothing about the number that raters are asked about."""

    def both(number: int) -> list[Any]:
        return [rated.figure("saliency", number, unit="activation", element=OF_LAYER), *rated.maps(number)]

    study, _ = plan(rated.report(explanations=[rated.explained("cab", both)]), Design(1, 0))
    assert [kind.name for kind in study.maps] == ["gradient_x_input", "saliency"]


def test_many_classes_are_too_many_tasks(tmp_path: Path) -> None:
    methods = ("saliency", "occlusion", "lrp", "linear", "shapley")
    many = [rated.explained(name, lambda n: [rated.figure(one, n) for one in methods], 4) for name in rated.CLASSES]
    path = rated.written(tmp_path / "report.json", rated.report(explanations=many))
    done = run("make", path, "-o", tmp_path / "st")
    assert done.exit_code == 2
    assert "15 tasks for each rater; the most is 12" in done.output.replace("\n", " ")
    assert run("make", path, "-o", tmp_path / "st", "--map", "lrp", "--map", "linear").exit_code == 0


def test_one_method_with_two_settings_is_two_kinds_of_map() -> None:
    def twice(number: int) -> list[Any]:
        return [
            rated.figure("occlusion", number, element=Element.model_validate({"occlusion": {"window": window}}))
            for window in (10, 15)
        ]

    study, _ = plan(rated.report(explanations=[rated.explained("cab", twice)]), Design(1, 0))
    assert [kind.name for kind in study.maps] == ["occlusion", "occlusion-2"]


def test_a_planted_preference_is_found_with_the_rater_as_the_unit(made: Path) -> None:
    """Saliency makes raters prefer the caption by two points, whatever the class; the other kind nothing."""
    rng = np.random.default_rng(3)

    def answer(row: dict[str, str]) -> tuple[int, int, int]:
        image = int(rng.integers(3, 8))
        return image, image + (2 if row["map"] == "saliency" else int(rng.integers(-2, 3))), int(rng.integers(1, 6))

    fill(made / "ratings.csv", answer)
    done = run("read", made, "--json", "found.json", "--html", "found.html")
    assert done.exit_code == 0, done.output
    found = StudyFindings.model_validate_json(Path("found.json").read_bytes())
    by_map = {tuple(one.maps): one for one in found.questions}
    saliency, other = by_map[("saliency",)], by_map[("gradient_x_input",)]
    assert saliency.difference == 2.0
    assert saliency.raters == 12
    assert saliency.p == pytest.approx(2 / 2**12, rel=1e-5), (
        "the rater is the unit: of all signs of twelve means two are as large"
    )
    assert saliency.p_corrected == pytest.approx(3 * 2 / 2**12, rel=1e-5)
    assert other.p_corrected is not None
    assert other.p_corrected > 0.05
    assert (found.taken, found.answered, found.refused, found.missing) == (72, 12, [], [])
    assert [one.favoured for one in found.cells if one.map == "saliency"] == ["concept"] * 3
    right = {one.map: one for one in found.correctness}["saliency"]
    assert right.share == 0.5, "caption is right for zebra and wrong for cab"
    assert "raters put the caption 2 points above the image" in done.output
    page = Path("found.html").read_text()
    assert "What raters make of the maps" in page
    assert found.study in page.replace("<wbr>", "")


def test_tasks_of_a_rater_become_one_number() -> None:
    """Six answers of two raters are two numbers, not six."""
    difference = np.array([[[3.0], [5.0], [1.0]], [[-1.0], [0.0], [1.0]]])
    values = analysis.Rated(np.zeros_like(difference), difference, np.ones_like(difference))
    (one,) = analysis.asked(values, ["saliency"], 0)
    assert (one.raters, one.difference, one.p) == (2, 1.5, None)


def test_confidence_is_compared_within_raters_who_were_right_and_wrong(made: Path) -> None:
    """Cab is right at every answer with confidence 2, zebra wrong with confidence 5; cucumber has no truth."""
    fill(made / "ratings.csv", lambda row: (8, 3, 2 if row["class"] == "cab" else 5))
    assert run("read", made, "--json", "found.json").exit_code == 0
    for one in json.loads(Path("found.json").read_text())["correctness"]:
        assert (one["share"], one["both"]) == (0.5, 12)
        assert (one["confidence_right"], one["confidence_wrong"], one["confidence_difference"]) == (2.0, 5.0, -3.0)


BAD = {
    "13,1,,,,5,5,3": "the study has no rater '13'; they are 1 to 12",
    "0,1,,,,5,5,3": "the study has no rater '0'",
    ",1,,,,5,5,3": "rater is missing",
    "1,7,,,,5,5,3": "task is '7', and not a whole number from 1 to 6",
    "1,1,,,,11,5,3": "image is '11', and not a whole number from 1 to 10",
    "1,1,,,,5,0,6": "concept is '0', and not a whole number from 1 to 10; confidence is '6', and not a whole number "
    "from 1 to 5",
    "1,1,,,,5,5,": "confidence is missing",
    "1,1,,,,5.5,5,1": "image is '5.5'",
    "1,1,,,,five,5,1": "image is 'five'",
    "1,1,,,,５,5,1": "image is '５'",
    "1,1,dog,,,5,5,1": "class is 'dog', and task 1 of rater 1 is about",
    "1,1,,x,,5,5,1": "map is 'x', and task 1 of rater 1 is about",
    "1,1,,,m,5,5,1": "model is 'm'",
    "1,1,,,,5,5,1,9": "it has more cells than the file has columns",
    "2,2,,,,5,5,1": "rater 2 has answered task 2 in line 2 of typed.csv, with the same numbers; the first is kept",
    "2,2,,,,5,6,1": "rater 2 has answered task 2 in line 2 of typed.csv, with other numbers; the first is kept",
    '1,1,,,,"::error::x\u202e",5,1': "image is '::error::x\ufffd'",
}
HEAD = "rater,task,class,map,model,image,concept,confidence\n"


@pytest.mark.parametrize("row", BAD)
def test_a_row_that_is_not_taken_is_named_with_its_line(made: Path, row: str) -> None:
    """After a good row and an empty line; a cell with a line break moves the lines of the others."""
    Path("typed.csv").write_text(f'{HEAD}2,2,,,,5,5,1\n\n3,1,,,"",6.0, 7 ,1\n{row}\n', encoding="utf-8")
    done = run("read", made, "typed.csv", "--json", "found.json")
    assert done.exit_code == 1, done.output
    (refused,) = json.loads(Path("found.json").read_text())["refused"]
    assert (refused["file"], refused["line"]) == ("typed.csv", 5)
    assert BAD[row] in refused["reason"]
    assert f"typed.csv, line 5: not taken: {BAD[row][:20]}" in done.output
    assert "2 of 72 tasks were answered by 2 of 12 raters; 1 rows were not taken" in done.output


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"rater,task,image,concept\n1,1,5,5\n", "it has no column confidence"),
        (b"rater,task,image,concept,confidence,image\n1,1,5,5,1,5\n", "the column image twice"),
        (b"\xff\xfe\x00", "it is not UTF-8"),
        (HEAD.encode() + b'1,1,,,,"5,5,3\n', "line 2 is no CSV"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_table_of_ratings_is_refused(made: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        Path("typed.csv").write_bytes(content)
    done = run("read", made, "typed.csv")
    assert done.exit_code == 2
    assert sentence in said(done)
    assert "Traceback" not in done.output


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_spreadsheet_of_another_country_is_read(made: Path, delimiter: str) -> None:
    Path("typed.csv").write_text(
        "\ufeff" + HEAD.replace(",", delimiter).upper() + "2,2,,,,5,5,1\n".replace(",", delimiter)
    )
    done = run("read", made, "typed.csv")
    assert done.exit_code == 0
    assert "1 of 72 tasks were answered" in done.output


def test_a_rater_who_answered_some_tasks_is_left_out_of_what_needs_all(made: Path) -> None:
    fill(made / "ratings.csv", lambda row: None if (row["rater"], row["class"]) == ("3", "cab") else (4, 6, 3))
    done = run("read", made, "--json", "found.json")
    assert done.exit_code == 0
    found = StudyFindings.model_validate_json(Path("found.json").read_bytes())
    assert [(one.raters, one.left_out) for one in found.questions] == [(11, 1)] * 3
    assert {one.of: one.raters for one in found.cells} == {"cab": 11, "zebra": 12, "cucumber": 12}
    (missing,) = found.missing
    assert (missing.rater, len(missing.tasks)) == (3, 2)
    assert "Rater 3 has not answered tasks" in done.output


def test_few_raters_are_described_and_not_tested(made: Path) -> None:
    fill(made / "ratings.csv", lambda row: (4, 9, 3) if int(row["rater"]) <= 7 else None)
    done = run("read", made, "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert all(one["p"] is None and one["interval"] is None for one in found["questions"])
    assert all(one["favoured"] is None for one in found["cells"])
    assert "fewer than 8 are not tested" in done.output


def test_nobody_has_answered(made: Path) -> None:
    done = run("read", made, "--html", "found.html")
    assert done.exit_code == 0
    assert "0 of 72 tasks were answered by 0 of 12 raters" in done.output


def with_tests(report_of: Any) -> Any:
    """With tests of caption and taxi for the cab: the caption moves it by little, the taxi by much."""
    small = handmade.row(in_sd=0.1, interval=(0.02, 0.2), p=0.01).model_copy(
        update={"concept": "caption", "target": "cab"}
    )
    large = handmade.row(in_sd=-1.1, interval=(-1.4, -0.8), p=0.001).model_copy(
        update={"concept": "taxi", "target": "cab"}
    )
    return report_of.model_copy(update={"tests": [small, large]})


def test_ratings_stand_beside_the_tests_and_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rated.written(Path("report.json"), with_tests(rated.report(("caption", "taxi"))))
    options = ("--concept", "caption", "--image-concept", "taxi", "--truth", "cab=taxi", "--raters", "9")
    assert run("make", "report.json", *options, "-o", "st").exit_code == 0
    fill(Path("st/ratings.csv"), lambda row: (3, 5, 3))
    done = run("read", "st", "--report", "report.json", "--json", "found.json", "--html", "found.html")
    assert done.exit_code == 0, done.output
    order, *others = json.loads(Path("found.json").read_text())["orders"]
    assert order["raters"] == {"gradient_x_input": "concept", "saliency": "concept"}
    assert (order["tests"], order["truth"]) == ("image", "image"), "the size of an effect counts, not its sign"
    assert [one["tests"] for one in others] == [None, None]
    assert re.search(r"^cab +caption +caption +image +image$", done.output, re.MULTILINE)


def test_each_class_may_have_a_concept_of_its_own() -> None:
    """As in the article, where the caption of a cab is the word cab."""
    names = tuple(f"{kind}-{of}" for kind in ("caption", "image") for of in rated.CLASSES)
    study, _ = plan(rated.report(names), Design(1, 0, concept="caption", image_concept="image", truth={"cab": "image"}))
    assert study.concepts == {of: f"caption-{of}" for of in rated.CLASSES}
    assert study.image_concepts == {of: f"image-{of}" for of in rated.CLASSES}
    assert study.truth == {"cab": "image"}


def test_tests_of_another_model_are_refused(made: Path) -> None:
    other = rated.report()
    other = other.model_copy(update={"audit": other.audit.model_copy(update={"model": "sha256:" + "9" * 64})})
    rated.written(Path("other.json"), other)
    done = run("read", made, "--report", "other.json")
    assert done.exit_code == 2
    assert "another model" in done.output


@pytest.mark.parametrize("content", [None, "{}", "[]", "{", '{"schema_version": "2"}'])
def test_a_folder_that_is_no_study_is_refused(made: Path, content: str | None) -> None:
    if content is None:
        (made / "study.json").unlink()
    else:
        (made / "study.json").write_text(content)
    done = run("read", made)
    assert done.exit_code == 2
    assert "not" in done.output
    assert "Traceback" not in done.output


PAGE = ROOT / "docs" / "how-to" / "ask-people.md"


def test_the_how_to_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block in its order, with a report of the page's own concepts."""
    monkeypatch.chdir(tmp_path)
    names = tuple(f"{kind}-{of}" for kind in ("caption", "image") for of in rated.CLASSES)
    rated.written(Path("report.json"), rated.report(names))
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            _, *arguments = shlex.split(line, comments=True)
            done = CliRunner().invoke(cli, arguments)
            assert done.exit_code == 0, (line, done.output)
    assert Path("findings.html").exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": -1}, "/seed"),
        ({"sheets": []}, "/sheets"),
        ({"truth": {"dog": "image"}}, "a class that the study does not have"),
        ({"maps": [{"name": "lrp", "title": "LRP"}]}, "shows what the study does not have"),
    ],
)
def test_a_study_that_does_not_hold_together_is_refused(made: Path, changed: dict[str, Any], sentence: str) -> None:
    document = json.loads((made / "study.json").read_bytes())
    (made / "study.json").write_text(json.dumps(document | changed))
    done = run("read", made)
    assert done.exit_code == 2
    assert sentence in said(done)


def test_a_task_that_is_there_twice_is_refused(made: Path) -> None:
    document = json.loads((made / "study.json").read_bytes())
    tasks = document["sheets"][0]["tasks"]
    tasks[1] = tasks[0]
    (made / "study.json").write_text(json.dumps(document))
    assert "two tasks of one class with one kind of map" in said(run("read", made))


def test_texts_are_rated_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caveat_spec.explained import Atom

    def words(number: int) -> list[Any]:
        atoms = [Atom(id=word, place=[at], value=0.3 - 0.1 * at) for at, word in enumerate(("very", "good", "film"))]
        return [rated.figure("saliency", number, presentation="strip", map=None, atoms=atoms, signed=True)]

    monkeypatch.chdir(tmp_path)
    texts = [rated.explained("cab", words, thumbnail=None)]
    rated.written(Path("report.json"), rated.report(explanations=texts))
    assert run("make", "report.json", "--raters", "2", "-o", "st").exit_code == 0
    page = Path("st/forms/rater-1.html").read_text()
    assert page.count('class="words"') == 4
    assert "Text 1 of 4" in page
    assert "Everything in the text but the caption" in page
