"""Every command of `docs/attestations.md` runs, in its order, and every sentence that it quotes is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caveat_storage import keyring
from tests.client.conftest import ROOT
from tests.client.models import write_audit
from tests.examples.test_ci import run

PAGE = (ROOT / "docs" / "attestations.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.S)


def inputs(folder: Path) -> None:
    """The files that the page speaks of."""
    audit = write_audit(folder)
    (folder / "mlp.onnx").rename(folder / "model.onnx")
    audit.write_text(audit.read_text().replace("mlp.onnx", "model.onnx"))


@pytest.mark.slow
@pytest.mark.xdist_group("up")
def test_the_commands_about_a_log_run(tmp_path: Path, service: str, service_keys: keyring.Pair) -> None:
    inputs(tmp_path)
    (tmp_path / "service.pub").write_text(service_keys.public)
    gate = "caveat gate audit.yaml --attestation report.dsse.json || test $? = 1"
    before = f"caveat audit-log --write last-month.jsonl && {gate}"
    (block,) = [block for block in BLOCKS if "caveat audit-log" in block]
    done = run(["bash", "-euo", "pipefail", "-c", f"{before}\n{block}"], tmp_path, CAVEAT_URL=service)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout.partition("The log of")[2].replace("✗ first", "")


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    inputs(tmp_path)
    script = "\n".join(
        f'{block.rstrip()} || echo "exited with $?"' for block in BLOCKS if "caveat audit-log" not in block
    )
    done = run(["bash", "-uo", "pipefail", "-c", script], tmp_path, BUILD_URL="https://ci.example/jobs/42")
    assert re.findall(r"exited with (\d+)", done.stdout) == ["1"], "the gate fails, and is attested as well"
    (quoted,) = re.findall(r"```text\n(✓.*?)```", PAGE.partition("## Without a key")[0], re.S)
    for line in filter(None, quoted.splitlines()):
        words = re.escape(re.sub(r"\b[0-9a-f]{12}\b|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "…", line)).replace(
            "…", "[0-9a-f :-]+"
        )
        assert re.search(f"^{words}$", done.stdout, re.M), f"{line}\nis not in\n{done.stdout}"
    assert '"fail"' in done.stdout
    assert re.search(r"^[0-9a-f]{64}  -$", done.stdout, re.M)
