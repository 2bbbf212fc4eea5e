"""The log, as an auditor fetches and checks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat_storage import keyring
from tests.client.conftest import Command
from tests.client.models import write_audit
from tests.storage.test_hash_chain import LOG, SERVICE, STEPS, STRANGER, WHOLE, entries, head, lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "log").write_bytes(b"".join(WHOLE))
    (tmp_path / "service.pub").write_text(SERVICE.public)
    (tmp_path / "stranger.pub").write_text(STRANGER.public)
    return tmp_path


def verify(folder: Path, *more: str | Path, log: str = "log") -> Result:
    return CliRunner().invoke(
        cli, ["verify", "--audit-log", str(folder / log), *map(str, more)], catch_exceptions=False
    )


def test_it_says_in_words_what_was_logged(folder: Path) -> None:
    result = verify(folder, "--key", folder / "service.pub")
    assert result.exit_code == 0, result.output
    assert "✓ None of the 4 entries was changed, removed, inserted or moved." in result.output
    assert f"✓ The key {SERVICE.keyid[:12]} signed the end of the log." in result.output
    assert "The log of acme has 4 entries, from 2026-01-02T03:04:06.000678Z to" in result.output
    assert "Asked by key:1, key:2." in result.output
    assert "Verdicts of 1 audits: 1 fail." in result.output


def test_what_was_not_looked_at_is_said(folder: Path) -> None:
    assert "· The signature at the end of the log was not checked; pass --key to check it." in verify(folder).output
    (folder / "log").write_bytes(b"".join(WHOLE[:-1]))
    assert "· The end of the log is not signed" in verify(folder).output


def test_a_log_that_was_changed_exits_with_1(folder: Path) -> None:
    (folder / "log").write_bytes(b"".join(WHOLE).replace(b'"outcome":"fail"', b'"outcome":"pass"'))
    result = verify(folder)
    assert result.exit_code == 1
    assert "is not an intact audit log. Entry 2 was changed: the digest of its payload does not match" in result.output
    assert "The log of acme" not in result.output
    (folder / "log").write_bytes(b"".join(WHOLE[:-1]))
    assert verify(folder, "--key", folder / "service.pub").exit_code == 1
    (folder / "log").write_bytes(b"".join(WHOLE))
    assert verify(folder, "--key", folder / "stranger.pub").exit_code == 1


def test_an_earlier_copy_shows_that_nothing_was_rewritten(folder: Path) -> None:
    (folder / "earlier").write_bytes(b"".join(WHOLE[:2]))
    result = verify(folder, "--earlier", folder / "earlier")
    assert result.exit_code == 0
    assert "The log begins with the 2 entries of" in result.output
    forged = entries(("submit", {"by": "key:9"}), *STEPS[1:])
    (folder / "log").write_bytes(b"".join([*lines(forged), head(forged)]))
    result = verify(folder, "--key", folder / "service.pub", "--earlier", folder / "earlier")
    assert result.exit_code == 1
    assert "Entry 2 differs from the earlier log" in result.output
    (folder / "earlier").write_bytes(lines(LOG)[1])
    assert "is itself not an intact audit log" in verify(folder, "--earlier", folder / "earlier").output


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.dsse.json"],
        ["--audit-log", "log", "--report", "r.json"],
        ["a.dsse.json", "--key", "k", "--earlier", "log"],
    ],
)
def test_what_goes_with_nothing_exits_with_2(folder: Path, arguments: list[str]) -> None:
    assert CliRunner().invoke(cli, ["verify", *arguments]).exit_code == 2
    assert verify(folder, log="absent").exit_code == 2


@pytest.mark.xdist_group("up")
def test_the_log_of_a_service_has_the_attested_report(
    tmp_path: Path, command: Command, service: str, service_keys: keyring.Pair
) -> None:
    write_audit(tmp_path)
    (tmp_path / "service.pub").write_text(service_keys.public)
    done = command("gate", "audit.yaml", "--attestation", "a.dsse.json", CAVEAT_URL=service)
    assert done.returncode == 1, done.stderr
    fetched = command("audit-log", "--write", "log.jsonl", CAVEAT_URL=service)
    assert fetched.returncode == 0, fetched.stderr
    assert "the end is signed." in fetched.stdout
    checked = command("verify", "a.dsse.json", "--key", "service.pub", "--audit-log", "log.jsonl")
    assert checked.returncode == 0, checked.stdout
    assert "The log has the attested report for the audit" in checked.stdout
    assert "Asked by anonymous." in checked.stdout
