"""`.githooks/commit-msg` on good and bad messages, through git itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / ".githooks"

GOOD = [
    "Refuse unnamed nodes of unknown domains",
    "Add DeepLIFT's rescale rule",
    "Seed the reference sets by name\n\nTwo audits of one set shared their random numbers.",
    "Bring the docs up to date",
    "Process uploads in order",
    "x".capitalize() * 72,
    "Überprüfe nothing: count letters, not bytes " + "é" * 28,
    "Merge branch 'engine' into main, which has grown to be quite a long name for a branch",
    'Revert "Added something."',
    "fixup! whatever it was.",
    "Split rules by family\n# Please enter the commit message for your changes.",
    "Split rules\n# ------------------------ >8 ------------------------\ndiff --git a/rules.py b/rules.py",
]
BAD = {
    "": "no subject",
    "# only a comment": "no subject",
    "A" + "d" * 72: "73 characters",
    "Refuse unnamed nodes.": "full stop",
    "refuse unnamed nodes": "capital letter",
    "Added a rule": "not in the imperative",
    "Adding a rule": "not in the imperative",
    "Adds a rule": "not in the imperative",
    "Made the client smaller": "not in the imperative",
    "A node that nobody knows is refused": "not with a verb",
    "The client is smaller": "not with a verb",
    "Refuse unnamed nodes\nbecause nobody knows them": "empty line",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the hook is enabled as CONTRIBUTING.md says."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / ".githooks").symlink_to(HOOKS)
    for command in (("init", "--quiet"), ("config", "core.hooksPath", ".githooks")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    assert "git config core.hooksPath .githooks" in (ROOT / "CONTRIBUTING.md").read_text()
    return folder


def commit(repository: Path, message: str) -> subprocess.CompletedProcess[str]:
    person = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", "commit", "--quiet", "--allow-empty", "--allow-empty-message", "--file", "-"],
        cwd=repository,
        env={"PATH": os.environ["PATH"], "HOME": str(repository), **person},
        input=message,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("message", GOOD)
def test_a_good_message_is_accepted(repository: Path, message: str) -> None:
    done = commit(repository, message)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("message", BAD)
def test_a_bad_message_is_rejected_with_the_reason(repository: Path, message: str) -> None:
    done = commit(repository, message)
    assert done.returncode != 0
    assert BAD[message] in done.stderr
