"""Renders the chart with Helm from sets of values; `make chart` puts the tools into `.cache/chart/`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "caveat"
TOOLS = ROOT / ".cache" / "chart"
VALUES = {
    "default": [],
    "production": [CHART / "values-production.yaml"],
    **{path.stem: [path] for path in sorted((Path(__file__).parent / "values").glob("*.yaml"))},
}
HAS_PODS = {"Deployment", "StatefulSet", "Job", "Pod"}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod of a release: its labels and spec, and the object that owns it."""

    owner: Manifest
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        """Its only container."""
        (only,) = self.spec["containers"]
        return dict(only)

    def __str__(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"


@dataclass(frozen=True)
class Release:
    """All manifests of a set of values."""

    name: str
    text: str
    manifests: list[Manifest] = field(repr=False)

    def of(self, *kinds: str) -> list[Manifest]:
        """The manifests of the given kinds."""
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def one(self, kind: str, suffix: str) -> Manifest:
        """The manifest of a kind whose name ends with a suffix."""
        (found,) = [manifest for manifest in self.of(kind) if manifest["metadata"]["name"].endswith(f"-{suffix}")]
        return found

    def pods(self) -> Iterator[Pod]:
        """All pods."""
        for manifest in self.of(*HAS_PODS):
            template = manifest if manifest["kind"] == "Pod" else manifest["spec"]["template"]
            yield Pod(manifest, template["metadata"]["labels"], template["spec"])


def tool(*parts: str) -> str:
    """The path of a tool; the test fails without it, so that nothing is skipped silently."""
    path = TOOLS.joinpath(*parts)
    if not path.exists():
        pytest.fail(f"{'/'.join(parts)} is missing: `make chart` gets what these tests need.", pytrace=False)
    return str(path)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Helm."""
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, check=False)


@cache
def render(name: str, *changed: str) -> Release:
    """Renders a set of values, some of them `changed`, including hooks and tests."""
    files = [argument for path in VALUES[name] for argument in ("--values", str(path))]
    files += [argument for value in changed for argument in ("--set", value)]
    done = helm("template", "rel", str(CHART), "--namespace", "audits", "--kube-version", "1.34.0", *files)
    assert done.returncode == 0, done.stderr
    return Release(name, done.stdout, [one for one in YAML(typ="safe").load_all(done.stdout) if one])


@pytest.fixture(params=VALUES)
def release(request: pytest.FixtureRequest) -> Release:
    """Each set of values in turn."""
    return render(request.param)
