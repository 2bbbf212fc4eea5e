"""What a newcomer finds: licence, notice, citation and templates, complete and true to the packages they name."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCHEMAS = {
    "CITATION.cff": "vendor.citation-file-format",
    ".github/ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    ".github/ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/method.yml": "vendor.github-issue-forms",
    ".github/ISSUE_TEMPLATE/operator.yml": "vendor.github-issue-forms",
}


@pytest.mark.parametrize("file", SCHEMAS)
def test_it_fits_its_schema(file: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[file], str(ROOT / file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_template_is_checked() -> None:
    templates = {path.relative_to(ROOT).as_posix() for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()}
    assert templates == {file for file in SCHEMAS if file.startswith(".github/")}


def test_the_licence_is_the_whole_apache_licence() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_bytes()
    assert sha256(text).hexdigest() == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_citation_is_of_this_version() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_notice_names_every_package_that_the_examples_read() -> None:
    """And the version that is installed, where a version decides what is in it."""
    notice = (ROOT / "NOTICE").read_text()
    code = "".join(path.read_text() for path in (ROOT / "examples").rglob("*.py"))
    packages = set(re.findall(r'PackagedFile\(\s*(?:package=)?"([\w-]+)"', code))
    assert len(packages) >= 6
    for package in packages:
        named = re.search(rf"^  {re.escape(package)}(?: ([\d.]+))?[ (]", notice, re.MULTILINE)
        assert named is not None, package
        assert named[1] in (None, version(package)), package


def test_the_security_policy_names_commands_and_places_that_exist() -> None:
    policy = (ROOT / "SECURITY.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", policy)) <= targets
    operations = (ROOT / "docs" / "operations.md").read_text()
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", operations, re.MULTILINE)}
    named = set(re.findall(r"\(docs/operations\.md#([\w-]+)\)", policy))
    assert len(named) >= 4
    assert named <= anchors
