"""What a build downloads is pinned by `tools/pin.py`, tried on a repository and an image of this machine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DIGEST = f"sha256:{'1' * 64}"
WORKFLOW = """jobs:
  test:
    steps:
      - uses: actions/checkout@v4
      - uses: actions/checkout/folder@v4
        with: {lfs: true}
"""
COMPOSE = "services:\n  broker:\n    image: docker.io/valkey/valkey:8.1\n  api:\n    image: caveat-api\n"
VALUES = 'valkey:\n  image: {repository: docker.io/valkey/valkey, tag: "8.1", digest: ""}\n'


@pytest.fixture
def pin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pin", ROOT / "tools" / "pin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files with references, a repository with an annotated tag, and a skopeo that knows one digest."""
    tree = tmp_path / "tree"
    for name, text in (
        (".github/workflows/test.yml", WORKFLOW),
        ("docker-compose.yaml", COMPOSE),
        ("helm/caveat/values.yaml", VALUES),
        ("Dockerfile", "ARG BASE_IMAGE=python:3.12-slim-bookworm\nFROM ${BASE_IMAGE} AS tools\n"),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    repository = tmp_path / "actions" / "checkout"
    _git("init", "--quiet", str(repository))
    _git("-C", str(repository), "commit", "--quiet", "--allow-empty", "--message", "x")
    _git("-C", str(repository), "tag", "--annotate", "v4", "--message", "x")
    skopeo = tmp_path / "bin" / "skopeo"
    skopeo.parent.mkdir()
    skopeo.write_text(f"#!/bin/sh\necho {DIGEST}\n")
    skopeo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{skopeo.parent}:/usr/bin:/bin")
    return tree


def test_everything_is_pinned_and_then_nothing_is_left(
    pin: ModuleType, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pin.main(["--check"], tree) == 1
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert pin.main([], tree, str(tree.parent)) == 0
    assert pin.main(["--check"], tree) == 0
    commit = _git("-C", str(tree.parent / "actions" / "checkout"), "rev-parse", "HEAD")
    workflow = (tree / ".github/workflows/test.yml").read_text()
    assert workflow == WORKFLOW.replace("@v4", f"@{commit}  # v4")
    assert (tree / "docker-compose.yaml").read_text() == COMPOSE.replace("valkey:8.1", f"valkey:8.1@{DIGEST}")
    assert (tree / "helm/caveat/values.yaml").read_text() == VALUES.replace('""', f'"{DIGEST}"')
    assert f"ARG BASE_IMAGE=python:3.12-slim-bookworm@{DIGEST}\n" in (tree / "Dockerfile").read_text()


def test_a_tag_that_is_not_there_is_a_sentence(pin: ModuleType, tree: Path) -> None:
    (tree / ".github/workflows/test.yml").write_text(WORKFLOW.replace("v4", "v5"))
    with pytest.raises(SystemExit, match="actions/checkout has no tag v5"):
        pin.main([], tree, str(tree.parent))


def test_our_own_workflows_use_no_actions_and_check_the_pins() -> None:
    """Digests need the network; what has no reference needs none."""
    workflows = [path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    assert workflows
    assert not [text for text in workflows if re.search(r"(?m)^\s*(- )?uses:", text)]
    assert "tools/pin.py --check" in "".join(workflows)


def _git(*arguments: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    return subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True).stdout.strip()
