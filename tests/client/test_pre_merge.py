"""`examples/ci/curl/pre-merge.sh` against a running service: the gate without Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import onnx
import pytest

from caveat.yaml_source import read_document
from tests.client.conftest import ROOT
from tests.client.models import write_audit
from tests.examples.test_ci import run

pytestmark = pytest.mark.xdist_group("up")

SCRIPT = str(ROOT / "examples" / "ci" / "curl" / "pre-merge.sh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository as a job finds it."""
    write_audit(tmp_path)
    model = onnx.load(tmp_path / "mlp.onnx")
    model.doc_string = str(uuid4())  # bytes that the service has not seen in another test
    onnx.save(model, tmp_path / "mlp.onnx")
    return tmp_path


def question(folder: Path, **changed: Any) -> Path:
    """The audit file as JSON, with files named as the script wants them."""
    audit, _ = read_document(folder / "audit.yaml")
    for examples in audit["examples"].values():
        examples["arrays"] = f"@{examples['arrays']}"
    path = folder / "audit.json"
    path.write_text(json.dumps(audit | {"model": f"@{audit['model']}"} | changed))
    return path


def test_the_gate_is_closed_without_python(checkout: Path, service: str) -> None:
    path = question(checkout)
    first = run([SCRIPT, path.name], checkout, CAVEAT_URL=service, CAVEAT_KEY="none is asked for")
    assert first.returncode == 1, first.stderr
    assert "uploading mlp.onnx" in first.stderr
    results = {file.name for file in (checkout / "caveat-results").iterdir()}
    assert results == {"report.json", "report.html", "report.md", "junit.xml", "report.dsse.json"}
    again = run([SCRIPT, path.name], checkout, CAVEAT_URL=service)
    assert (again.returncode, again.stderr) == (1, first.stderr.rpartition("uploading ")[2].partition("\n")[2])


@pytest.mark.slow
def test_what_is_wrong_is_told_apart(checkout: Path, service: str) -> None:
    def exits(service: str, **changed: Any) -> int:
        return run([SCRIPT, question(checkout, **changed).name], checkout, CAVEAT_URL=service).returncode

    assert exits(service, gate=[{"concept": "first", "target": "yes", "must": "matter"}]) == 0
    assert exits(service, gate=[]) == 0
    assert exits(service, layers=["nowhere"]) == 2
    assert exits(service, model="@absent.onnx") == 2
    assert exits(service, concepts={"first": {"examples": "nowhere", "against": "pool"}}) == 2
    assert run([SCRIPT], checkout).returncode != 0
