"""The whole service on a real PostgreSQL, where each part has a role of its own: from an upload to an erasure."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text

from caveat_storage import keyring, upgrade
from caveat_storage.job_records import Database, migrate
from tests.storage.test_roles import as_role
from tests.worker.live import ROOT, Live, environment, postgresql, serving, valkey
from tests.worker.receiver import receiver

AUDIT = ROOT / "helm" / "caveat" / "files" / "audit" / "audit.yaml"


def caveat(*arguments: str, **settings: str) -> str:
    """Runs the command, which has to succeed; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "caveat", *arguments], env=os.environ | settings, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_audit_is_submitted_run_signed_announced_and_erased(tmp_path: Path) -> None:
    with ExitStack() as stack:
        owner, port = stack.enter_context(postgresql()), stack.enter_context(valkey(tmp_path))
        there = stack.enter_context(receiver())
        migrate(owner)
        api, worker = as_role(owner, "an_api"), as_role(owner, "a_worker")
        upgrade.admit(owner, {upgrade.API: api, upgrade.WORKER: worker})
        pair = keyring.make()
        (tmp_path / "caveat.pub").write_text(pair.public)
        local = {"CAVEAT_WEBHOOK_NETWORKS": "127.0.0.0/8"}
        apis = environment(tmp_path, port, api) | local | {"CAVEAT_AUTH": "keys", "CAVEAT_SIGNING_KEY": pair.private}
        url, _ = stack.enter_context(serving(tmp_path, **apis))
        installation = Live(tmp_path, port, None, worker)  # type: ignore[arg-type] - the API is asked by HTTP
        stack.enter_context(installation.worker(including="caveat_worker.jobs.tasks", **local))
        admin = caveat("keys", "create", "--tenant", "acme", "--scope", "admin", CAVEAT_DATABASE_URL=api).strip()
        client = {"CAVEAT_URL": url, "CAVEAT_KEY": admin}
        headers = {"Authorization": f"Bearer {admin}"}
        asked = stack.enter_context(httpx2.Client(base_url=url, headers=headers, timeout=60))
        hook = asked.post("/v1/webhooks", json={"url": there.url}).json()

        caveat("gate", str(AUDIT), "--attestation", str(tmp_path / "signed.json"), **client)
        caveat("verify", str(tmp_path / "signed.json"), "--key", str(tmp_path / "caveat.pub"))
        (message,) = there.wait(seconds=120)
        assert message.opened(hook["secret"])["type"] == "audit.succeeded"
        (audit,) = asked.get("/v1/audits").json()["audits"]
        assert message.opened(hook["secret"])["data"]["audit"] == audit["id"]

        stored = {"CAVEAT_BLOBS_URL": str(tmp_path / "blobs")}
        for role in (api, worker):
            assert "Verified 6 blobs" in caveat("scrub", CAVEAT_DATABASE_URL=role, **stored)  # and none is damaged
        assert "Erased 1 jobs, 0 studies and 1 webhooks" in caveat("erase", "--tenant", "acme", CAVEAT_DATABASE_URL=api)
        database = Database(owner)
        with database.writing() as connection:
            connection.execute(text("UPDATE stored SET touched_at = now() - interval '1 week'"))
        database.close()
        assert "Deleted 6 blobs" in caveat("collect", CAVEAT_DATABASE_URL=worker, **stored)
        (tmp_path / "log").write_bytes(asked.get("/v1/audit-log").content)
        caveat("verify", "--audit-log", str(tmp_path / "log"), "--key", str(tmp_path / "caveat.pub"))
        assert "permission denied" not in (tmp_path / "one.log").read_text() + (tmp_path / "api.log").read_text()
