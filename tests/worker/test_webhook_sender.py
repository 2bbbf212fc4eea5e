"""Delivery of messages: signed verifiably, retried, and continued after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import WebhookVerificationError

from caveat_spec.webhooks import OCCASIONS, Message
from caveat_storage import webhooks
from caveat_storage.job_records import Database, migrate
from caveat_worker.jobs import webhook_sender
from caveat_worker.jobs.settings import Settings
from tests.worker.live import Live, end, live, unused_port, valkey
from tests.worker.receiver import Receiver, receiver, until

ALLOWED = {"CAVEAT_WEBHOOK_NETWORKS": "127.0.0.0/8", "CAVEAT_WEBHOOK_BACKOFF_SECONDS": "0.2"}
SETTINGS = Settings(webhook_networks="127.0.0.0/8", webhook_backoff_seconds=0, webhook_attempts=2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    migrate(url)
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as there:
        yield there


def send(database: Database, settings: Settings = SETTINGS) -> None:
    delivery = webhooks.take(database, lasts=timedelta(minutes=1))
    assert delivery is not None
    webhook_sender.deliver(database, delivery, settings)


def registered(database: Database, url: str) -> tuple[str, str]:
    """The id and secret of a webhook with a pending message."""
    record, secret = webhooks.register(database, "acme", url, list(OCCASIONS))
    webhooks.test(database, "acme", record.id)
    return record.id, secret


def test_a_message_is_what_standard_webhooks_verifies(database: Database, there: Receiver) -> None:
    webhook, secret = registered(database, there.url)
    send(database)
    (letter,) = there.letters
    assert letter.opened(secret)["type"] == "webhook.test"
    assert Message.model_validate_json(letter.body).data is None
    assert letter.headers["content-type"] == "application/json"
    assert letter.headers["user-agent"].startswith("caveat/")
    (shown,) = webhooks.written(database, "acme", webhook, limit=9)
    assert (shown.id, shown.state, shown.answer) == (letter.id, "delivered", "HTTP 200")
    for changed in (
        replace(letter, body=letter.body + b" "),
        replace(letter, headers=letter.headers | {"webhook-id": "x"}),
    ):
        with pytest.raises(WebhookVerificationError):
            changed.opened(secret)


def test_after_a_rotation_both_secrets_verify(database: Database, there: Receiver) -> None:
    webhook, first = registered(database, there.url)
    second = webhooks.rotate(database, "acme", webhook)
    assert second is not None
    send(database)
    assert there.letters[0].opened(first) == there.letters[0].opened(second)


@pytest.mark.parametrize(("status", "attempts"), [(500, 2), (302, 2), (404, 2), (410, 1)])
def test_what_is_not_taken_in_is_sent_again_and_then_no_more(
    database: Database, there: Receiver, status: int, attempts: int
) -> None:
    webhook, _ = registered(database, there.url)
    there.answers = [status] * 9
    for _ in range(attempts):
        assert webhooks.registered(database, "acme")[0].disabled_at is None
        send(database)
    assert [letter.id for letter in there.letters] == [there.letters[0].id] * attempts
    (record,) = webhooks.registered(database, "acme", webhook)
    assert record.problem is not None
    assert f"HTTP {status}" in record.problem.detail


def test_where_nobody_may_go_nobody_goes_and_it_is_said(database: Database, there: Receiver) -> None:
    webhook, _ = registered(database, there.url)
    send(database, Settings(webhook_attempts=1))
    assert there.letters == []
    (shown,) = webhooks.written(database, "acme", webhook, limit=9)
    assert "127.0.0.1 has no address, or one that is not allowed (CAVEAT_WEBHOOK_NETWORKS)" in (shown.answer or "")


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Live]:
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port, webhook_networks="127.0.0.0/8") as there:
        yield there


def subscribe(there: Live, url: str) -> dict[str, Any]:
    answer = there.client.post("/v1/webhooks", json={"url": url})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json
    return found


@pytest.mark.slow
def test_a_message_survives_a_receiver_that_is_away_and_a_worker_that_is_killed(installation: Live) -> None:
    port = unused_port()
    webhook = subscribe(installation, f"http://127.0.0.1:{port}/hook")
    deliveries = f"/v1/webhooks/{webhook['id']}/deliveries"
    with installation.worker("first", **ALLOWED) as first:
        job_id = installation.submit()
        installation.wait(job_id)
        until(lambda: installation.client.get(deliveries).json["deliveries"][0]["attempts"] >= 1)
        end(first)
    (waiting,) = installation.client.get(deliveries).json["deliveries"]
    assert waiting["state"] == "pending"
    with receiver(port) as there, installation.worker("second", **ALLOWED):
        letter = there.wait()[0]
        until(lambda: installation.client.get(deliveries).json["deliveries"][0]["state"] == "delivered")
    message = letter.opened(webhook["secret"])
    record = installation.get(job_id)
    assert letter.id == waiting["id"]
    assert message["type"] == "audit.succeeded"
    assert message["data"] == {
        "audit": job_id, "state": "succeeded", "outcome": "pass", "report_digest": record["report_digest"],
        "problem": None,
    }  # fmt: skip
    assert len(there.letters) == 1


@pytest.mark.slow
def test_two_workers_send_each_message_once(installation: Live) -> None:
    with receiver() as there:
        subscribe(installation, there.url)
        with installation.worker("one", **ALLOWED), installation.worker("two", **ALLOWED):
            audits = {installation.submit() for _ in range(6)}
            for job_id in audits:
                installation.wait(job_id)
            letters = there.wait(len(audits))
    assert len(letters) == len({letter.id for letter in letters}) == len(audits)


@pytest.mark.slow
def test_a_silent_receiver_delays_no_message_of_another_tenant(installation: Live) -> None:
    database: Database = installation.client.application.extensions["caveat"].database
    with receiver() as silent, receiver() as there:
        silent.delay = 60
        for _ in range(4):
            webhook, _ = webhooks.register(database, "flood", silent.url, list(OCCASIONS))
            for _ in range(40):
                webhooks.test(database, "flood", webhook.id)
        subscribe(installation, there.url)
        with installation.worker(**ALLOWED):
            silent.wait()
            installation.wait(installation.submit())
            there.wait()
            assert len(silent.letters) <= webhooks.TENANT_AT_ONCE
