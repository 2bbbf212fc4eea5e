"""`caveat.audit`: objects in memory are audited on this machine, and what comes back is of use in Python."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import onnx
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from pre_commit.clientlib import load_manifest
from skl2onnx import to_onnx
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import caveat
from caveat.cli import cli
from caveat.objects.examples import ExampleFiles
from caveat.testing import assert_concept, assert_passes
from caveat_reports import summary
from tests.client.conftest import ROOT

COLUMNS = ["income", "debt", "race"]
FIT = {"bootstrap": 199, "permutations": 199, "runs": 20}
TARGETS = {"approved": {"examples": "people", "index": 1}}
LINE = {"concept": "race", "target": "approved", "must": "not_matter"}


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    """Applicants whose race counts four points of income."""
    rng = np.random.default_rng(0)
    count = 300
    frame = pd.DataFrame({"city": rng.choice(["Rome", "Bonn"], count), "income": rng.normal(50, 10, count)})
    frame["race"] = rng.integers(0, 2, count)
    frame["debt"] = rng.normal(20, 5, count)
    frame["approved"] = (frame.income - frame.debt - 4 * frame.race + rng.normal(0, 5, count) > 28).astype(int)
    return frame


def matched_pairs(people: pd.DataFrame) -> dict[str, Any]:
    """The same people with either race."""
    return {
        "people": people,
        "white": {"table": people, "set": {"race": 0}},
        "black": {"table": people, "set": {"race": 1}, "pairs_with": "white"},
    }


def race_audit(model: Any, people: pd.DataFrame, **fields: Any) -> caveat.AuditResult:
    return caveat.audit(
        model,
        examples=matched_pairs(people),
        concepts={"race": {"examples": "black", "against": "white"}},
        targets=TARGETS,
        gate=[LINE],
        method=FIT,
        show_progress=False,
        **fields,
    )


def by_columns() -> BaseEstimator:
    encode = ColumnTransformer([("n", StandardScaler(), COLUMNS), ("c", OneHotEncoder(), ["city"])])
    return make_pipeline(encode, LogisticRegression())


@pytest.mark.parametrize(
    ("estimator", "columns"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), COLUMNS),
        (RandomForestClassifier(20, random_state=0), COLUMNS),
        (HistGradientBoostingClassifier(max_iter=60), COLUMNS),
        (by_columns(), [*COLUMNS, "city"]),
    ],
    ids=["logistic", "forest", "histograms", "columns"],
)
def test_a_fitted_model_of_scikit_learn(people: pd.DataFrame, estimator: Any, columns: list[str]) -> None:
    fitted = estimator.fit(people[columns], people.approved)
    result = race_audit(fitted, people)
    assert result.passes is False
    change = fitted.predict_proba(people[columns].assign(race=1)) - fitted.predict_proba(people[columns].assign(race=0))
    decisions = result.report.interventions[0].decisions
    assert decisions is not None
    assert decisions.probability_with is not None
    assert decisions.probability_without is not None
    assert decisions.probability_with - decisions.probability_without == pytest.approx(change[:, 1].mean(), abs=2e-5)


@pytest.fixture(scope="module")
def fitted(people: pd.DataFrame) -> BaseEstimator:
    return LogisticRegression().fit(people[COLUMNS], people.approved)


@pytest.fixture(scope="module")
def result(fitted: BaseEstimator, people: pd.DataFrame) -> caveat.AuditResult:
    comparison = {"examples": "people", "sensitive": ["race"], "target": "approved"}
    return race_audit(fitted, people, groups={"lending": comparison})


def test_it_gives_the_bytes_that_the_command_gives(
    fitted: BaseEstimator, people: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proto = to_onnx(fitted, people[COLUMNS][:1].to_numpy(np.float32), options={"zipmap": False})
    onnx.save(proto, "model.onnx")
    people.to_parquet("people.parquet", index=False)
    asked = {
        "model": "model.onnx",
        "examples": {"people": {"table": "people.parquet", "features": COLUMNS}},
        "groups": {"lending": {"examples": "people", "sensitive": ["race"], "decision": "approved"}},
    }
    Path("audit.json").write_text(json.dumps(asked))
    done = CliRunner().invoke(cli, ["gate", "audit.json", "--json", "report.json"])
    assert done.exit_code == 0, done.output
    for model in ("model.onnx", proto, proto.SerializeToString()):
        examples = {"people": {"table": people, "features": COLUMNS}}
        again = caveat.audit(model, examples=examples, groups=asked["groups"], show_progress=False)
        assert again.canonical == Path("report.json").read_bytes()
        assert again.passes is None


def test_a_result_is_shown_in_words_frames_and_pages(result: caveat.AuditResult, tmp_path: Path) -> None:
    assert repr(result) == "<AuditResult: Fails. The one line of the gate does not hold.>"
    (line,) = summary.lines(result.report)
    assert line.people
    assert f"✗ race must not matter to approved: {line.people} Adding race to 300 examples changes approved" in str(
        result
    )
    assert line.decided_by in str(result)
    assert "What to do next" not in str(result), "a failure is no question that more examples settle"
    tests = result.to_frame()
    assert set(tests.evidence) == {"association", "intervention"}
    assert (tests.low <= tests.effect).all()
    assert set(result.to_frame("groups").group) == {"race=0", "race=1"}
    assert list(result.to_frame("gate").outcome) == ["fail"]
    page = result._repr_html_()
    assert page.startswith("<iframe sandbox ")
    assert "<script" not in page
    for name in ("report.json", "report.html", "report.md", "junit.xml", "report.sarif"):
        assert result.save(tmp_path / name).stat().st_size > 100
    assert (tmp_path / "report.json").read_bytes() == result.canonical
    with pytest.raises(caveat.ProblemError, match=r"'\.pdf' is no format of a report"):
        result.save(tmp_path / "report.pdf")


def test_its_plot_has_a_row_for_each_test(result: caveat.AuditResult) -> None:
    mpl.use("agg")
    axes = result.plot()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == len(result.report.tests)
    assert labels[-1].startswith("race → approved")


def test_assertions_say_why(fitted: BaseEstimator, people: pd.DataFrame, result: caveat.AuditResult) -> None:
    with pytest.raises(AssertionError, match="race must not matter to approved: Race changes the score of approved"):
        assert_passes(result)
    asked: dict[str, Any] = {
        "concept": {"examples": "black", "against": "white"},
        "target": TARGETS["approved"],
        "examples": matched_pairs(people),
        "method": FIT,
        "name": "race",
        "show_progress": False,
    }
    assert assert_concept(fitted, must="matter", **asked).passes
    with pytest.raises(AssertionError, match="race must not matter to target"):
        assert_concept(fitted, must="not_matter", **asked)
    assert assert_concept(fitted, must="not_matter", tolerance=5.0, line={"unit": "logit"}, **asked).passes


@dataclass
class Odd:
    """An object that nobody has heard of."""

    predict: Callable[[Any], Any] | None = None


class Network:
    """What Keras gives."""


Network.__module__ = "keras.src.models.sequential"


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        (Odd(), {}, "Odd, which is not exported here. Give the path of an ONNX file"),
        (Network(), {}, "Export it with model.export('model.onnx', format='onnx'), and give the path"),
        ("none.onnx", {}, "there is no 'none.onnx'"),
        (
            LogisticRegression(),
            {},
            "The LogisticRegression is not fitted, so there is nothing to audit. Call its `fit`",
        ),
        (GridSearchCV(LogisticRegression(), {"C": [1]}), {}, "The GridSearchCV is not fitted"),
        (
            b"",
            {"examples": {"people": np.array([[1, "a"]], object)}},
            "An array holds Python's objects, such as [1], in",
        ),
        (b"no model", {}, "/model"),
        (b"", {"examples": {"people": 3}}, "/examples/people is of type int, which cannot be used as examples"),
        (b"", {"examples": {"people": [1, "two"]}}, "/examples/people is of type list"),
        (b"", {"examples": {"people": {"images": ["a"]}}}, "which cannot be used as 'images'"),
        (b"", {"examples": {"people": "photos"}}, "its suffix does not say what kind of examples it holds"),
        (b"", {"examples": {"people": {"text": ["a"], "tokenizer": 3}}}, "/examples/people/tokenizer is of type int"),
        (b"", {"target": {}}, "'target' is not a field here; did you mean 'targets'"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_cannot_be_audited_is_said(people: pd.DataFrame, model: Any, fields: dict[str, Any], says: str) -> None:
    asked = {"examples": {"people": people}} | fields
    groups = {"lending": {"examples": "people", "sensitive": ["race"], "decision": "approved"}}
    with pytest.raises(caveat.ProblemError) as raised:
        caveat.audit(model, groups=groups, show_progress=False, **asked)
    assert says in str(raised.value)
    assert raised.value.exit_code == 2


def test_the_page_about_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "how-to" / "audit-from-python.md").read_text()
    audited, asserted = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(audited, names)
    assert "male must not matter to granted" in capsys.readouterr().out
    if names["result"].passes:
        exec(asserted, names)
    else:
        with pytest.raises(AssertionError, match="male must not matter to granted"):
            exec(asserted, names)


def test_the_hook_for_pushes_is_one_that_pre_commit_knows() -> None:
    (hook,) = load_manifest(ROOT / ".pre-commit-hooks.yaml")
    assert cli.get_command(None, hook["entry"].split()[1]) is not None  # type: ignore[arg-type]
    assert hook["additional_dependencies"] == [".[local]"]


def test_an_object_that_is_used_twice_is_written_once(tmp_path: Path, people: pd.DataFrame) -> None:
    files = ExampleFiles(tmp_path)
    first, again = files.declared("a", people), files.declared("b", {"table": people, "where": "race == 1"})
    assert first["table"] == again["table"]
    assert again["where"] == "race == 1"
    assert len(list(tmp_path.iterdir())) == 1


def test_arrays_pictures_and_texts_become_the_files_of_their_kind(tmp_path: Path) -> None:
    files = ExampleFiles(tmp_path)
    rows = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(np.load(files.declared("a", rows)["arrays"]), rows)
    several = files.declared("b", {"left": rows, "right": rows + 1})
    assert several["inputs"] == {"left": "left", "right": "right"}
    assert np.array_equal(np.load(several["arrays"])["right"], rows + 1)
    shades = [Image.new(mode, (4, 3), 7) for mode in ("L", "RGB", "P", "RGBA")]
    pictures = files.declared("c", {"images": shades, "preprocess": {"size": 4}})
    assert sorted(one.name for one in Path(pictures["images"]).iterdir()) == [f"{n:06}.png" for n in range(4)]
    texts = files.declared("d", {"text": ["one\ntwo", "žluť"], "tokenizer": "tokenizer.json"})
    lines = Path(texts["text"]).read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one\ntwo", "žluť"]


def test_pictures_of_16_bits_stay_what_they_are(tmp_path: Path) -> None:
    """Pillow makes greys over 255 white when it turns such pictures into colours."""
    deep = np.array([[0, 300, 25_700, 65_535]], np.uint16)
    given = [
        Image.fromarray(deep),
        Image.fromarray(deep.astype(np.int32)),
        Image.fromarray(deep.astype(np.int32) // 257),
    ]
    folder = Path(ExampleFiles(tmp_path).declared("c", {"images": given, "preprocess": {"size": 4}})["images"])
    written = [np.asarray(Image.open(folder / f"{number:06}.png")) for number in range(3)]
    assert np.array_equal(written[0], deep)
    assert np.array_equal(written[1], deep)
    assert written[2].tolist() == [[0, 1, 100, 255]]


def test_pictures_that_would_be_black_are_refused(tmp_path: Path) -> None:
    shares = [Image.fromarray(np.full((2, 2), 0.5, np.float32))]
    with pytest.raises(caveat.ProblemError, match=r"Picture 0 is of floats up to 0\.5; pixels"):
        ExampleFiles(tmp_path).declared("c", {"images": shares, "preprocess": {"size": 4}})
