"""Keys as an operator makes, lists, ends and replaces them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat_storage import audit_log, hash_chain, job_records, keys
from caveat_storage.job_records import Database, migrate


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    migrate(url)
    return url


def invoke(*arguments: str, url: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments, "--database-url", url], catch_exceptions=False)


def create(url: str, *more: str) -> str:
    return invoke("create", "--tenant", "acme", "--name", "ci", *more, url=url).stdout.strip()


def holds(url: str, key: str) -> frozenset[str] | None:
    database = Database(url)
    held = keys.holder(database, key)
    database.close()
    return None if held is None else held.scopes


def test_a_key_is_made_and_listed_without_its_secret(url: str) -> None:
    key = create(url)
    assert holds(url, key) == {"submit", "read"}
    assert holds(url, create(url, "--scope", "admin")) == {"admin"}
    shown = invoke("list", url=url).stdout
    assert key.split("_")[1] in shown
    assert key.split("_")[2] not in shown
    listed = json.loads(invoke("list", "--tenant", "acme", "--json", url=url).stdout)
    assert [(one["name"], one["scopes"], one["state"]) for one in listed] == [
        ("ci", ["read", "submit"], "valid"),
        ("ci", ["admin"], "valid"),
    ]
    assert json.loads(invoke("list", "--tenant", "other", "--json", url=url).stdout) == []


def test_a_key_ends_at_once_by_its_id_or_by_itself(url: str) -> None:
    for name in (lambda key: key, lambda key: key.split("_")[1]):
        key = create(url)
        assert invoke("revoke", name(key), url=url).exit_code == 0
        assert holds(url, key) is None
        again = invoke("revoke", name(key), url=url)
        assert again.exit_code == 2
        assert key.split("_")[2] not in again.stderr
    assert "revoked" in invoke("list", url=url).stdout


def test_both_keys_work_while_one_takes_over(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = create(url, "--scope", "submit", "--days", "90")
    new = invoke("rotate", old, "--overlap-hours", "2", "--days", "30", url=url).stdout.strip()
    assert holds(url, old) == holds(url, new) == {"submit"}
    moment = job_records.now()
    monkeypatch.setattr(keys, "now", lambda: moment + timedelta(hours=3))
    assert (holds(url, old), holds(url, new)) == (None, {"submit"})
    assert invoke("rotate", old, url=url).exit_code == 2
    monkeypatch.setattr(keys, "now", lambda: moment + timedelta(days=31))
    assert holds(url, new) is None
    assert "expired" in invoke("list", url=url).stdout


def test_a_key_that_ends_sooner_is_not_made_to_last(url: str) -> None:
    old = create(url, "--days", "0.01")
    invoke("rotate", old, "--overlap-hours", "24", url=url)
    first, second = json.loads(invoke("list", "--json", url=url).stdout)
    assert first["expires_at"] is not None
    assert first["expires_at"] < job_records.now().replace(tzinfo=None).isoformat() or second["expires_at"] is None
    database = Database(url)
    assert keys.issued(database)[0].expires_at < job_records.now() + timedelta(hours=1)  # type: ignore[operator]
    database.close()


def test_what_happens_to_keys_is_logged(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    old = create(url)
    new = invoke("rotate", old, url=url).stdout.strip()
    invoke("revoke", new, url=url)
    database = Database(url)
    lines = list(audit_log.export(database, "acme"))
    database.close()
    assert hash_chain.account(lines).steps == {"issue_key": 1, "rotate_key": 1, "revoke_key": 1}
    assert {json.loads(line)["payload"]["by"] for line in lines} == {"operator:ada"}
    assert not any(key.split("_")[2].encode() in b"".join(lines) for key in (old, new))


@pytest.mark.parametrize(
    ("url", "exit_code", "told"),
    [
        ("sqlite:///empty.db", 3, "no such table"),
        ("oracle-ish://x", 2, "The database cannot be opened"),
        ("postgresql+psycopg://127.0.0.1:1/x", 3, "The database reports an error"),
    ],
)
def test_a_database_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, exit_code: int, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("list", url=url)
    assert result.exit_code == exit_code
    assert told in result.stderr


def test_a_tenant_has_a_name_that_is_one(url: str) -> None:
    assert invoke("create", "--tenant", "../x", url=url).exit_code == 2
    assert invoke("create", "--tenant", "a", "--days", "0", url=url).exit_code == 2
