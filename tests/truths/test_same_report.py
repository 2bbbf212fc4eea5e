"""One audit, one report: again, and on another number of threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.validation.ground_truth import audited
from bench.validation.scenarios import placed
from caveat_reports.canonical import canonical
from examples.watermark import build as watermark

pytestmark = pytest.mark.slow


def test_the_efficientnet_audit_gives_the_same_bytes_again_and_on_two_threads(tmp_path: Path) -> None:
    watermark.build(tmp_path)
    audit = placed("watermark/efficientnet.yaml", watermark.FOLDER, tmp_path)
    first = canonical(audited(audit, threads=1))
    assert canonical(audited(audit, threads=1)) == first
    assert canonical(audited(audit, threads=2)) == first
