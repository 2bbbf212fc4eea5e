"""Included by a worker whose clock is wrong: by the seconds in the file that `SKEW_FILE` names, read anew each time."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from caveat_storage import blob_registry, job_records, scrub, webhooks


def now() -> datetime:
    """The wrong time."""
    return datetime.now(UTC) + timedelta(seconds=float(Path(os.environ["SKEW_FILE"]).read_text()))


for module in (job_records, blob_registry, scrub, webhooks):
    module.now = now  # type: ignore[attr-defined]
