"""Every command of `docs/evidence.md` runs, in its order, and every sentence that it quotes is said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.caveat.conftest import ROOT
from tests.caveat.models import write_audit
from tests.examples.test_ci import run

PAGE = (ROOT / "docs" / "evidence.md").read_text()


@pytest.mark.slow
def test_the_commands_run(tmp_path: Path) -> None:
    audit = write_audit(tmp_path)
    (tmp_path / "mlp.onnx").rename(tmp_path / "model.onnx")
    audit.write_text(audit.read_text().replace("mlp.onnx", "model.onnx"))
    script = "\n".join(
        f'{block.rstrip()} || echo "exited with $?"' for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    )
    done = run(["bash", "-uo", "pipefail", "-c", script], tmp_path, BUILD_URL="https://ci.example/jobs/42")
    assert re.findall(r"exited with (\d+)", done.stdout) == ["1"], "the gate fails, and is attested as well"
    (quoted,) = re.findall(r"```text\n(✓.*?)```", PAGE, re.S)
    for line in filter(None, quoted.splitlines()):
        words = re.escape(re.sub(r"\b[0-9a-f]{12}\b|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "…", line)).replace(
            "…", "[0-9a-f :-]+"
        )
        assert re.search(f"^{words}$", done.stdout, re.M), line
    assert '"fail"' in done.stdout
    assert re.search(r"^[0-9a-f]{64}  -$", done.stdout, re.M)
