"""What the images install is named with digests, for every extra of theirs: `make hashes`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
HASHES = sorted((ROOT / "deploy" / "hashes").glob("*.txt"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def pinned(path: Path) -> dict[str, Requirement]:
    """The requirements of a file by name; markers may name one twice."""
    lines = [line.split(" --hash")[0].rstrip("\\ ") for line in path.read_text().splitlines() if line[:1].strip()]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines) if one.name}


def test_every_extra_of_an_image_has_its_hashes() -> None:
    named = set(re.findall(r"install\.sh dependencies ([\w-]+)", (ROOT / "Dockerfile").read_text()))
    assert named == {path.stem for path in HASHES}
    assert f"HASHED := {' '.join(['service', 'worker', 'worker-gpu', 'signing'])}" in (ROOT / "chart.mk").read_text()


@pytest.mark.parametrize("path", HASHES, ids=lambda path: path.stem)
def test_every_file_is_named_by_version_and_digest_and_no_index_by_its_host(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("path", HASHES, ids=lambda path: path.stem)
def test_versions_are_those_of_the_constraints(path: Path) -> None:
    allowed: dict[str, set[str]] = {}
    for source in (ROOT / "constraints.txt", ROOT / "deploy" / "constraints.txt"):
        for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)$", source.read_text()):
            allowed.setdefault(canonicalize_name(name), set()).add(version)
    found = {name: next(iter(one.specifier)).version for name, one in pinned(path).items()}
    assert {name: version for name, version in found.items() if version not in allowed.get(name, {version})} == {}


@pytest.mark.parametrize("path", HASHES, ids=lambda path: path.stem)
def test_what_an_extra_asks_for_is_in_its_file(path: Path) -> None:
    asked = required(path.stem)
    assert len(asked) > 1 or path.stem == "signing"
    assert asked - set(pinned(path)) == set()


def required(extra: str) -> set[str]:
    """The names that an extra asks for, and the extras in it."""
    names: set[str] = set()
    for asked in map(Requirement, EXTRAS[extra]):
        own = set().union(*map(required, asked.extras)) if asked.name == "caveat" else {canonicalize_name(asked.name)}
        names |= own
    return names
