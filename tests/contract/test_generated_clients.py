"""Clients that four kept generators make of the OpenAPI document run an audit, and read its report, by their types."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from caveat.yaml_source import read_document
from tests.client.conftest import ROOT, service, service_keys  # noqa: F401 - fixtures
from tests.client.models import write_audit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("up")]

HERE = Path(__file__).parent / "clients"
CACHE = ROOT / ".cache" / "clients"
DOCUMENT = ROOT / "api_spec" / "caveat_spec" / "openapi.json"
PYTHON = CACHE / "python" / "bin"
NODE = CACHE / "node" / "node_modules" / ".bin"


def run(*command: str | Path, folder: Path) -> str:
    """What a program prints; it has to end well, and to warn of nothing that it left out."""
    environment = {"PATH": f"{PYTHON}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unable to process schema" not in done.stdout + done.stderr
    return done.stdout


def attrs_client(folder: Path) -> list[str | Path]:
    """openapi-python-client."""
    asked = ["generate", "--path", DOCUMENT, "--meta", "none", "--output-path", folder / "caveat_client"]
    said = run(PYTHON / "openapi-python-client", *asked, folder=folder)
    assert said.count("WARNING") == said.count("Unsupported content_type application/jsonl"), said
    shutil.copy(HERE / "attrs_client.py", folder)
    return [PYTHON / "python", "attrs_client.py"]


def pydantic_client(folder: Path) -> list[str | Path]:
    """datamodel-code-generator."""
    asked = ["--input", DOCUMENT, "--input-file-type", "openapi", "--output", folder / "caveat_models.py"]
    kind = ["--output-model-type", "pydantic_v2.BaseModel", "--formatters", "ruff-format"]
    run(PYTHON / "datamodel-codegen", *asked, *kind, folder=folder)
    shutil.copy(HERE / "pydantic_client.py", folder)
    return [PYTHON / "python", "pydantic_client.py"]


def fetch_client(folder: Path) -> list[str | Path]:
    """openapi-typescript with openapi-fetch."""
    run(NODE / "openapi-typescript", DOCUMENT, "--output", folder / "schema.d.ts", folder=folder)
    return compiled("fetch_client", folder)


def hey_client(folder: Path) -> list[str | Path]:
    """@hey-api/openapi-ts."""
    run(NODE / "openapi-ts", "--input", DOCUMENT, "--output", folder / "hey", "--silent", folder=folder)
    for path in (folder / "hey").rglob("*.ts"):
        path.write_text(re.sub(r"from '(\.{1,2}/[^']+)'", partial(_file, path.parent), path.read_text()))
    return compiled("hey_client", folder)


def _file(folder: Path, imported: re.Match[str]) -> str:
    """An import as Node wants it, where a bundler would find the file by itself."""
    path = imported[1].removesuffix(".js")
    return f"from '{path}{'/index' if (folder / path).is_dir() else ''}.js'"


def compiled(name: str, folder: Path) -> list[str | Path]:
    """A program in TypeScript, with its types checked."""
    shutil.copy(HERE / f"{name}.ts", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").symlink_to(CACHE / "node" / "node_modules")
    how = ["--target", "es2023", "--module", "nodenext", "--strict", "--noUncheckedIndexedAccess", "--skipLibCheck"]
    run(NODE / "tsc", *how, "--lib", "es2023,dom,dom.iterable", f"{name}.ts", folder=folder)
    return [shutil.which("node") or "node", f"{name}.js"]


@pytest.mark.parametrize("generated", [attrs_client, pydantic_client, fetch_client, hey_client])
def test_an_audit_by_a_generated_client(
    generated: Callable[[Path], list[str | Path]],
    tmp_path: Path,
    service: str,  # noqa: F811 - the fixture
) -> None:
    (tmp_path / "question").mkdir()
    audit, _ = read_document(write_audit(tmp_path / "question"))
    (tmp_path / "question" / "audit.json").write_text(json.dumps(audit))
    (tmp_path / "client").mkdir()
    program = generated(tmp_path / "client")
    outcome, effect = run(*program, service, tmp_path / "question", folder=tmp_path / "client").split()
    assert outcome == "fail"
    assert float(effect) == pytest.approx(1.14, abs=0.01)
