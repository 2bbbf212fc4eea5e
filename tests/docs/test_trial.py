"""The first five minutes of somebody who has a wheel, a model and pictures, and reads nothing but `--help`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from examples.graph import save
from examples.loans.build import divided
from examples.loans.decisions import APPROVED, FEATURES, RACE, decisions, write_table
from examples.watermark.build import example_sets
from examples.watermark.efficientnet import efficientnet_lite0
from tests.client.first_audits import RUNS, two_files_of_texts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("trial")]

ROOT = Path(__file__).parents[2]
FIVE_MINUTES = 300
LARGEST_CLIENT = 32_000_000
"""Bytes of the client and everything that it needs, as pip leaves them: bytecode included (decision 0013)."""
NOT_OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
"""What a new environment brings."""


@dataclass(frozen=True)
class Place:
    """An environment with nothing of the checkout in it, and an empty folder to work in."""

    programs: Path
    folder: Path

    def run(self, *command: str | Path, exits: tuple[int, ...] = (0,)) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CAVEAT_", "PYTHON"))}
        done = subprocess.run(
            [self.programs / command[0], *map(str, command[1:])],
            cwd=self.folder,
            env={**environment, "NO_COLOR": "1", "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in exits, f"{command} exited with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def install(self, extras: str) -> None:
        self.run(
            "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", f"{self.folder / WHEEL}{extras}"
        )


WHEEL = "caveat-0.1.0-py3-none-any.whl"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder, environment = tmp_path / "empty", tmp_path / "venv"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    place = Place(environment / "bin", folder)
    place.run("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    return place


def test_the_client_is_small_and_says_what_it_lacks(place: Place) -> None:
    place.install("")
    (packages,) = place.programs.parent.glob("lib/*/site-packages")
    ours = [path for path in packages.iterdir() if not path.name.startswith(NOT_OURS)]
    size = sum(file.stat().st_size for path in ours for file in ([path] if path.is_file() else path.rglob("*")))
    print(f"the client takes {size / 1e6:.1f} MB")
    assert size < LARGEST_CLIENT
    (place.folder / "model.onnx").write_bytes(b"a model")
    assert "pip install 'caveat[local]'" in place.run("caveat", "init", "model.onnx", exits=(3,))
    assert "pip install 'caveat[signing]'" in place.run("caveat", "keygen", exits=(2,))
    assert "pip install 'caveat[all]'" in place.run("caveat", "up", exits=(3,))


def test_a_first_audit_in_five_minutes(place: Place) -> None:
    place.install("[local,signing]")
    _given(place.folder)
    began = time.monotonic()
    help_ = place.run("caveat", "--help")
    assert "Start with `caveat init model.onnx`" in help_

    told = place.run("caveat", "init", "model.onnx")
    assert "is the commonest of 1,000 classes" in told
    next_ = _next(told)
    assert next_ == ["caveat", "gate", "audit.yaml", "--html", "report.html"]
    audit = place.folder / "audit.yaml"
    audit.write_text(re.sub(r"index: \d+", "index: 478", audit.read_text()))

    told = place.run("caveat", "keygen")
    signed = _next(told)
    assert signed[:3] == next_[:3]
    told = place.run(*next_, *signed[3:], exits=(1,))
    assert "watermarked must not matter to answer: " in told
    assert (place.folder / "report.html").read_text().startswith("<!doctype html>")

    assert "--key" in place.run("caveat", "verify", "--help")
    checked = ("--key", "caveat.pub", "--report", "report.json", "--model", "model.onnx")
    told = place.run("caveat", "verify", "report.dsse.json", *checked, "--examples", "photos=photos")
    assert "✓ model.onnx is the model that was audited." in told
    assert "The gate fails." in told
    seconds = time.monotonic() - began
    print(f"from --help to verify: {seconds:.0f} s")
    assert seconds < FIVE_MINUTES

    (place.folder / "photos" / "coffee-00.png").unlink()
    told = place.run("caveat", "verify", "report.dsse.json", *checked, "--examples", "photos=photos", exits=(1,))
    assert "✗ photos" in told


def test_pictures_are_audited_in_half_the_room_and_the_rest_names_its_extra(place: Place) -> None:
    place.install("[images]")
    (packages,) = place.programs.parent.glob("lib/*/site-packages")
    assert not [name for name in ("pandas", "pyarrow", "sklearn", "tokenizers") if (packages / name).exists()]

    pictures = _inside(place, RUNS["a_concept_and_photos"])
    assert _next(pictures.run("caveat", "init", "model.onnx"))[:2] == ["caveat", "gate"]
    pictures.run("caveat", "gate", "audit.yaml", "--html", "report.html", exits=(0, 1, 4))
    audit = (pictures.folder / "audit.yaml").read_text()
    for more, extra in (
        ("method: {estimator: scikit_learn.RidgeClassifier}", "estimators"),
        ("explain: {why: {of: answer, examples: {pick: highest, count: 2}, show: [multi_class]}}", "estimators"),
    ):
        (pictures.folder / "more.yaml").write_text(f"{audit}\n{more}\n")
        assert f"pip install 'caveat[{extra}]'" in pictures.run("caveat", "gate", "more.yaml", exits=(3,))

    for build, extra in ((RUNS["a_table_with_a_protected_column"], "tables"), (two_files_of_texts, "texts")):
        told = _inside(place, build).run("caveat", "init", "model.onnx", exits=(3,))
        assert f"pip install 'caveat[{extra}]'" in told


def _inside(place: Place, build: Callable[[Path], None]) -> Place:
    """The same environment, in a folder of its own with what `build` puts there."""
    folder = place.folder / build.__name__
    folder.mkdir()
    build(folder)
    return replace(place, folder=folder)


@pytest.fixture
def machine(tmp_path: Path, place: Place) -> Callable[[str], Place]:
    """Makes further environments beside the first, from the wheel that lies there."""

    def make(extras: str) -> Place:
        environment = tmp_path / (extras or "client")
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        made = Place(environment / "bin", place.folder)
        made.install(f"[{extras}]" if extras else "")
        return made

    return make


def test_three_kinds_of_models_on_this_machine(place: Place) -> None:
    began = time.monotonic()
    place.install("[local]")
    _try_each(place, time.monotonic() - began)


def test_three_kinds_of_models_by_a_client_and_a_service(
    machine: Callable[[str], Place],
) -> None:
    """The service is what `caveat[all]` and `caveat up` give; the client is an environment that has nothing else."""
    began = time.monotonic()
    service = machine("all")
    with _up(service) as url:
        ready = time.monotonic() - began
        print(f"caveat[all], until the service is up: {ready:.0f} s")
        assert ready < FIVE_MINUTES
        began = time.monotonic()
        client = machine("")
        _try_each(client, time.monotonic() - began, "--url", url)


def test_a_model_of_xgboost_from_python(place: Place) -> None:
    began = time.monotonic()
    place.install("[local,xgboost]")
    write_table(divided(decisions()), place.folder / "loans.csv")
    (place.folder / "trial.py").write_text(FROM_PYTHON)
    told = place.run("python", "trial.py")
    seconds = time.monotonic() - began
    print(f"caveat[local,xgboost], a model in memory: {seconds:.0f} s")
    assert re.search(r"^(Passes|Fails|Inconclusive): ", told, re.MULTILINE)
    assert seconds < FIVE_MINUTES


FROM_PYTHON = """\
import caveat, pandas as pd
from xgboost import XGBClassifier

people = pd.read_csv("loans.csv")
columns = [name for name in people.columns if name not in ("approved", "race", "sex", "part")]
training, unseen = people[people.part == "train"], people[people.part == "test"]
model = XGBClassifier(n_estimators=40, max_depth=3).fit(training[columns], training.approved)
result = caveat.audit(
    model,
    examples={
        "people": unseen,
        "white": {"table": unseen, "set": {"white": 1}},
        "nonwhite": {"table": unseen, "set": {"white": 0}, "pairs_with": "white"},
    },
    concepts={"race": {"examples": "nonwhite", "against": "white"}},
    targets={"approval": {"examples": "people", "index": 1}},
    gate=[{"concept": "race", "target": "approval", "must": "not_matter"}],
)
print(result.explain())
"""


def _try_each(place: Place, installed: float, *where: str) -> None:
    """`caveat init` and `caveat gate` for each kind of model, after an installation that took so many seconds."""
    for name, give in GIVEN.items():
        folder = place.folder / name
        folder.mkdir()
        give(folder)
        there = Place(place.programs, folder)
        began = time.monotonic()
        _next(there.run("caveat", "init", "model.onnx", *where))
        told = there.run("caveat", "gate", "audit.yaml", "--html", "report.html", *where, exits=(0, 1, 4))
        seconds = time.monotonic() - began
        print(f"{place.programs.parent.name}, {name}: {installed:.0f} s to install, {seconds:.0f} s to the verdict")
        assert re.search(r"^(Passes|Fails|Inconclusive): ", told, re.MULTILINE)
        assert (folder / "report.html").read_text().startswith("<!doctype html>")
        assert installed + seconds < FIVE_MINUTES


@contextmanager
def _up(place: Place) -> Iterator[str]:
    """The service of an environment, and its URL."""
    command = [place.programs / "caveat", "up", "--port", "0"]
    with subprocess.Popen(command, cwd=place.folder, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield next(found[0] for line in running.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            running.terminate()
            running.wait(60)


def _loans(folder: Path) -> None:
    """Recorded mortgage decisions, and a model of them by XGBoost as its exporter writes it."""
    from onnxmltools import convert_xgboost  # not among the packages of the quick tests
    from onnxmltools.convert.common.data_types import FloatTensorType
    from xgboost import XGBClassifier

    rows = divided(decisions())
    write_table([row for row in rows if row["part"] == "test"], folder / "people.csv")
    columns = [feature.name for feature in (*FEATURES, RACE)]
    training = np.array([[row[name] for name in (*columns, APPROVED)] for row in rows if row["part"] == "train"])
    model = XGBClassifier(n_estimators=40, max_depth=3).fit(
        training[:, :-1].astype(float), training[:, -1].astype(float)
    )
    taken = [("features", FloatTensorType([None, len(columns)]))]
    (folder / "model.onnx").write_bytes(convert_xgboost(model, initial_types=taken).SerializeToString())


def _given(folder: Path) -> None:
    """What a person has: a model, photographs, and some of them with a watermark."""
    save(efficientnet_lite0(), folder / "model.onnx")
    sets = example_sets()
    for name in ("photos", "watermarked"):
        (folder / name).mkdir()
        for file, picture in sets[name].items():
            picture.save(folder / name / f"{file}.png", compress_level=1)


GIVEN: dict[str, Callable[[Path], None]] = {"pictures": _given, "loans": _loans, "texts": two_files_of_texts}


def _next(told: str) -> list[str]:
    """The command that is proposed."""
    (command,) = [line.partition(": ")[2] for line in told.splitlines() if line.startswith("Next: ")]
    return command.split()
