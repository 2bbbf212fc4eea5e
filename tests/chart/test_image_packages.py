"""Each image contains the packages of Caveat that its process imports, and no others.

What a build copies is tried here without a container; `make images` builds the images.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from deploy.images import ABSENT, OWN
from tests.chart.conftest import ROOT


def _package(folder: str) -> str:
    """The one package that a top-level folder holds."""
    (found,) = (path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))
    return found


STAGES = {
    name: {_package(folder) for folder in re.findall(r"^COPY (\w+) \1$", body, re.MULTILINE)}
    for name, body in re.findall(
        r"^FROM tools AS build-([\w-]+)\n(.*?)^RUN install.sh caveat$", (ROOT / "Dockerfile").read_text(), re.M | re.S
    )
}
TAKEN_OUT = {
    name
    for names in re.findall(r"install.sh without (.+)", (ROOT / "Dockerfile").read_text())
    for name in names.split()
}
STARTS = {
    "api": "caveat_service.__main__, caveat.cli",
    "worker": "caveat_worker.jobs.tasks, caveat_worker.jobs.child, caveat_worker.pipeline",
    "cli": "caveat.cli, caveat.gate, caveat.remote, caveat.outputs, caveat.attestation, caveat.scaffold, caveat.local",
}
SCRIPT = """\
import sys
class NotThere:
    def find_spec(self, name, *_):
        if name.partition('.')[0] in {absent!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, NotThere())
import {start}
print(*sorted({{name.partition('.')[0] for name in sys.modules}}))
"""


def test_the_dockerfile_copies_what_the_images_are_checked_for() -> None:
    assert STAGES == OWN


def test_what_the_dockerfile_copies_is_let_through() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for sources in copied for source in sources.split()} == let_through


def reaches_the_builder(path: PurePosixPath) -> bool:
    """Whether `.dockerignore` lets a path through: the last pattern that fits it or a folder above it decides."""
    there = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not pattern.startswith("#") and any(fits(pattern, one) for one in (path, *path.parents)):
            there = line.startswith("!")
    return there


def fits(pattern: str, path: PurePosixPath) -> bool:
    """Docker's patterns: `*` within a name, `**` for any number of folders."""
    words = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
    return re.fullmatch(words, str(path)) is not None


def copied(stage: str, into: Path) -> None:
    """Copies to a folder what a stage copies to its own, as far as it reaches the builder."""
    body = re.search(rf"^FROM \S+ AS {stage}\n(.*?)(?=^FROM |\Z)", (ROOT / "Dockerfile").read_text(), re.M | re.S)
    assert body is not None
    for words in re.findall(r"^COPY (?!--)(.+)$", body[1], re.MULTILINE):
        *sources, target = words.split()
        if target.startswith("/"):  # beside the sources of the wheel
            continue
        for source in sources:
            files = [path for path in (ROOT / source, *(ROOT / source).rglob("*")) if path.is_file()]
            through = [path for path in files if reaches_the_builder(PurePosixPath(path.relative_to(ROOT)))]
            assert through, f"COPY {source} finds nothing"
            for path in through:
                place = into / target / (path.relative_to(ROOT / source) if path != ROOT / source else path.name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def built(folder: Path) -> list[str]:
    """The names in the wheel that `install.sh` has pip build in a folder."""
    script = "import hatchling.build; print(hatchling.build.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ZipFile(folder / done.stdout.splitlines()[-1]) as wheel:
        return wheel.namelist()


def packages_in(names: list[str]) -> set[str]:
    return {name.partition("/")[0] for name in names} & set().union(*OWN.values())


@pytest.mark.parametrize("image", OWN)
def test_a_stage_copies_what_its_wheel_is_built_from(image: str, tmp_path: Path) -> None:
    copied("tools", tmp_path)
    assert packages_in(built(tmp_path)) == set(), "the dependencies are installed from a wheel without packages"
    copied(f"build-{image}", tmp_path)
    names = built(tmp_path)
    assert packages_in(names) == OWN[image]
    assert [name for name in names if name.endswith("share/man/man1/caveat.1")]
    assert {"LICENSE", "NOTICE"} <= {name.rpartition("/")[2] for name in names}
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("docs/man/caveat.1", True),
        ("docs/index.md", False),
        ("client/caveat/cli.py", True),
        ("client/caveat/__pycache__/cli.cpython-311.pyc", False),
        ("deploy/install.sh", True),
        ("deploy/images.py", False),
        (".env", False),
    ],
)
def test_what_is_ignored_does_not_reach_the_builder(path: str, there: bool) -> None:
    assert reaches_the_builder(PurePosixPath(path)) is there


@pytest.mark.parametrize("image", STARTS)
def test_an_image_has_what_its_process_imports_and_no_more(image: str) -> None:
    everything = set().union(*OWN.values())
    left_out = TAKEN_OUT if image == "worker" else set()
    absent = (everything - OWN[image]) | {name.replace("-", "_") for name in ABSENT[image]} - {"pip", "setuptools"}
    absent |= {name.partition(".")[0] for name in left_out}
    script = SCRIPT.format(absent=absent, start=STARTS[image])
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert everything & set(done.stdout.split()) == OWN[image]
