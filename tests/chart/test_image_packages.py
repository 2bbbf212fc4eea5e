"""Each image contains the packages of Caveat that its process imports, and no others."""

from __future__ import annotations

import re
import subprocess
import sys

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
