"""Messages to webhooks: written when an audit ends, claimed by one sender, and retried for a limited time."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from caveat_spec.problem import ProblemDetails
from caveat_spec.webhooks import OCCASIONS, Occasion
from caveat_storage import audit_log, blob_registry, hash_chain, job_state, webhooks
from caveat_storage.job_records import Database, now
from caveat_storage.tables import deliveries
from caveat_storage.webhooks import PendingDelivery

HOUR, NO_TIME = timedelta(hours=1), timedelta(0)
AUDIT: dict[str, Any] = {"model": "sha256:" + "a" * 64}


def register(database: Database, tenant: str = "acme", events: tuple[Occasion, ...] = OCCASIONS) -> str:
    return webhooks.register(database, tenant, "https://example.org/hook", list(events))[0].id


def begun(database: Database, kind: Any = "audit", tenant: str = "acme") -> job_state.Lease:
    job_id = job_state.submit(database, tenant, kind, AUDIT).record.id
    lease = job_state.claim(database, job_id, worker="w", lasts=HOUR)
    assert lease is not None
    return lease


def take(database: Database) -> PendingDelivery:
    delivery = webhooks.take(database, lasts=HOUR)
    assert delivery is not None
    return delivery


def delivered(database: Database) -> PendingDelivery:
    """Takes a message, which arrives."""
    delivery = take(database)
    webhooks.arrived(database, delivery, "HTTP 204")
    return delivery


def end_of_audits(database: Database, tenant: str, many: int) -> None:
    """Ends audits, each of which is told to every webhook of the tenant."""
    for _ in range(many):
        assert job_state.succeed(database, begun(database, tenant=tenant), {"outcome": "pass"})


def test_each_way_to_end_is_told_in_its_words(database: Database) -> None:
    register(database)
    blob_registry.touch(database, report := "sha256:" + "b" * 64)
    job_state.succeed(database, begun(database), {"outcome": "fail"}, report)
    job_state.fail(database, begun(database), ProblemDetails.of("out-of-memory", 422, "It has secrets.", "None."))
    job_state.stop(database, begun(database))
    queued = job_state.submit(database, "acme", "audit", AUDIT).record.id
    job_state.cancel(database, "acme", "audit", queued)
    lost = job_state.claim(
        database, job_state.submit(database, "acme", "audit", AUDIT).record.id, worker="w", lasts=NO_TIME
    )
    assert lost is not None
    job_state.expire(database, attempts=1, backoff=NO_TIME)
    messages = [json.loads(delivered(database).body) for _ in range(5)]
    assert [message["type"] for message in messages] == [
        "audit.succeeded", "audit.failed", "audit.cancelled", "audit.cancelled", "audit.failed",
    ]  # fmt: skip
    first = messages[0]["data"]
    assert (first["outcome"], first["report_digest"], first["problem"]) == ("fail", report, None)
    assert messages[1]["data"]["problem"] == "urn:caveat:problem:out-of-memory"
    assert "secrets" not in str(messages)
    assert messages[3]["data"]["audit"] == queued
    assert messages[4]["data"] | {"problem": ""} == messages[1]["data"] | {"audit": lost.job_id, "problem": ""}


def test_only_who_asked_is_told_of_what_was_asked_for(database: Database) -> None:
    register(database, "other")
    failures = register(database, events=("audit.failed",))
    job_state.succeed(database, begun(database), {"outcome": "pass"}, None)
    job_state.succeed(database, begun(database, "model"), {})
    assert webhooks.take(database, lasts=HOUR) is None
    job_state.fail(database, begun(database), ProblemDetails.of("x", 422, "X.", "Y."))
    assert take(database).webhook_id == failures
    assert webhooks.take(database, lasts=HOUR) is None


def test_a_message_is_there_if_and_only_if_its_audit_has_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(database)
    lease = begun(database)

    def broken(*_: Any) -> None:
        raise OSError("the power failed")

    with monkeypatch.context() as patch:
        patch.setattr(webhooks, "_write", broken)
        with pytest.raises(OSError, match="power"):
            job_state.succeed(database, lease, {"outcome": "pass"})
    assert webhooks.take(database, lasts=HOUR) is None
    assert job_state.heartbeat(database, lease) == "go_on"
    assert job_state.succeed(database, lease, {"outcome": "pass"})
    assert not job_state.succeed(database, lease, {"outcome": "pass"})
    assert json.loads(take(database).body)["data"]["audit"] == lease.job_id
    assert webhooks.take(database, lasts=HOUR) is None


def test_one_sender_at_a_time_has_a_message_and_a_webhook_one_at_a_time(database: Database) -> None:
    register(database)
    end_of_audits(database, "acme", 20)
    taken: list[PendingDelivery] = []
    on_their_way = threading.Semaphore()

    def send() -> None:
        while len(taken) < 20:
            if delivery := webhooks.take(database, lasts=HOUR):
                assert on_their_way.acquire(blocking=False)
                taken.append(delivery)
                on_their_way.release()
                webhooks.arrived(database, delivery, "HTTP 204")

    with ThreadPoolExecutor(4) as senders:
        for sender in [senders.submit(send) for _ in range(4)]:
            sender.result()
    assert len({delivery.id for delivery in taken}) == len(taken) == 20


def test_a_silent_receiver_occupies_no_sender_but_one(database: Database) -> None:
    """Forty test messages to a receiver that was silent delayed a message of another tenant by 151 seconds."""
    silent, other = register(database), register(database, "other")
    for _ in range(40):
        webhooks.test(database, "acme", silent)
    end_of_audits(database, "acme", 10)
    end_of_audits(database, "other", 1)
    assert [take(database).webhook_id for _ in range(2)] == [silent, other]
    assert webhooks.take(database, lasts=HOUR) is None


def test_a_tenant_with_many_silent_receivers_occupies_half_of_the_senders(database: Database) -> None:
    for _ in range(10):
        register(database)
    other = register(database, "other")
    end_of_audits(database, "acme", 3)
    end_of_audits(database, "other", 1)
    taken = [take(database) for _ in range(3)]
    assert sum(delivery.webhook_id == other for delivery in taken) == 1
    assert webhooks.take(database, lasts=HOUR) is None
    webhooks.failed(database, taken[0], "no answer", attempts=9, backoff=HOUR)
    take(database)


def test_tenants_take_turns_at_a_single_sender(database: Database) -> None:
    mine, other = register(database), register(database, "other")
    end_of_audits(database, "acme", 5)
    end_of_audits(database, "other", 5)
    assert [delivered(database).webhook_id for _ in range(4)] == [mine, other, mine, other]


def test_a_test_message_that_waits_is_not_written_again_but_sent_at_once(database: Database) -> None:
    webhook = register(database)
    for _ in range(40):
        assert webhooks.test(database, "acme", webhook)
    assert len(webhooks.written(database, "acme", webhook, limit=99)) == 1
    webhooks.failed(database, take(database), "HTTP 500", attempts=9, backoff=HOUR)
    assert webhooks.take(database, lasts=HOUR) is None
    assert webhooks.test(database, "acme", webhook)
    delivered(database)
    assert webhooks.test(database, "acme", webhook)
    assert len(webhooks.written(database, "acme", webhook, limit=99)) == 2


def test_what_a_silent_sender_took_is_due_again_and_its_word_counts_no_more(database: Database) -> None:
    webhook = register(database)
    webhooks.test(database, "acme", webhook)
    silent = webhooks.take(database, lasts=NO_TIME)
    again = take(database)
    assert silent is not None
    assert (again.id, again.body, again.attempt) == (silent.id, silent.body, 2)
    webhooks.failed(database, silent, "late", attempts=1, backoff=NO_TIME)
    webhooks.arrived(database, again, "HTTP 200")
    (shown,) = webhooks.written(database, "acme", webhook, limit=9)
    assert (shown.state, shown.answer, shown.due_at) == ("delivered", "HTTP 200", None)


def test_pauses_grow_until_the_webhook_is_disabled_and_enabling_sends_what_it_missed(database: Database) -> None:
    webhook = register(database)
    webhooks.test(database, "acme", webhook)
    pauses = []
    for attempt in range(1, 5):
        delivery = take(database)
        assert delivery.attempt == attempt
        disabled = webhooks.failed(database, delivery, "HTTP 500", attempts=4, backoff=HOUR)
        (shown,) = webhooks.written(database, "acme", webhook, limit=9)
        if shown.due_at is not None:
            pauses.append(round((shown.due_at - now()) / HOUR))
        hurry(database)
    assert disabled
    assert (pauses, shown.state) == ([1, 4, 16], "failed")
    (record,) = webhooks.registered(database, "acme")
    assert record.disabled_at is not None
    assert record.problem is not None
    assert "HTTP 500" in record.problem.detail
    assert webhook in record.problem.remedy
    job_state.stop(database, begun(database))
    assert webhooks.take(database, lasts=HOUR) is None
    assert webhooks.count_webhooks(database) == {"disabled": 1}
    assert webhooks.count_deliveries(database) == {"failed": 1, "pending": 1}
    assert webhooks.enable(database, "acme", webhook)
    assert {json.loads(delivered(database).body)["type"] for _ in range(2)} == {"webhook.test", "audit.cancelled"}
    assert webhooks.registered(database, "acme")[0].problem is None


def test_a_receiver_that_takes_other_messages_in_stays_enabled(database: Database) -> None:
    webhook = register(database)
    webhooks.test(database, "acme", webhook)
    webhooks.failed(database, take(database), "HTTP 400", attempts=2, backoff=HOUR)
    end_of_audits(database, "acme", 1)
    delivered(database)
    hurry(database)
    refused = take(database)
    assert not webhooks.failed(database, refused, "HTTP 400", attempts=2, backoff=NO_TIME)
    assert [one.state for one in webhooks.written(database, "acme", webhook, limit=9)] == ["delivered", "failed"]
    webhooks.test(database, "acme", webhook)
    assert webhooks.failed(database, take(database), "HTTP 410", attempts=9, backoff=NO_TIME, unwanted=True)


def test_the_secret_before_signs_too_for_a_while(database: Database) -> None:
    record, first = webhooks.register(database, "acme", "https://example.org", list(OCCASIONS))
    second = webhooks.rotate(database, "acme", record.id)
    webhooks.test(database, "acme", record.id)
    assert_signed(database, second, first)
    third = webhooks.rotate(database, "acme", record.id)
    webhooks.test(database, "acme", record.id)
    assert_signed(database, third, second)


def assert_signed(database: Database, *secrets: str | None) -> None:
    """The next message is signed with these secrets, as long as it is claimed."""
    message, moment = take(database), now()
    address = webhooks.address(database, message, moment)
    assert address is not None
    assert address.signatures.split() == [
        Webhook(str(secret)).sign(message.id, moment, message.body) for secret in secrets
    ]
    webhooks.arrived(database, message, "HTTP 200")
    assert webhooks.address(database, message, moment) is None


def test_nothing_is_done_to_another_tenants(database: Database) -> None:
    webhook = register(database)
    assert webhooks.registered(database, "other", webhook) == []
    assert not webhooks.remove(database, "other", webhook)
    assert not webhooks.enable(database, "other", webhook)
    assert not webhooks.test(database, "other", webhook)
    assert webhooks.rotate(database, "other", webhook) is None
    webhooks.test(database, "acme", webhook)
    assert webhooks.written(database, "other", webhook, limit=9) == []
    assert webhooks.remove(database, "acme", webhook)
    assert webhooks.take(database, lasts=HOUR) is None


def test_there_are_so_many_and_no_more(database: Database) -> None:
    for _ in range(webhooks.MOST):
        register(database)
    with pytest.raises(webhooks.TooManyError):
        register(database)
    register(database, "other")


def test_no_more_slip_through_at_the_same_time(database: Database) -> None:
    def one(_: int) -> bool:
        try:
            register(database)
        except webhooks.TooManyError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(webhooks.MOST + 8)))
    assert made.count(True) == len(webhooks.registered(database, "acme")) == webhooks.MOST


def test_what_is_changed_is_in_the_log_with_whom_and_without_secrets(database: Database) -> None:
    url = "https://hooks.example:8443/services/T0/hush?key=hush"
    record, first = webhooks.register(database, "acme", url, ["audit.failed"], by="key:1")
    second = webhooks.rotate(database, "acme", record.id, by="key:2")
    webhooks.test(database, "acme", record.id)
    delivery = take(database)
    assert webhooks.failed(database, delivery, "HTTP 500", attempts=1, backoff=NO_TIME)
    assert not webhooks.failed(database, delivery, "HTTP 500", attempts=1, backoff=NO_TIME)
    webhooks.enable(database, "acme", record.id, by="key:3")
    webhooks.remove(database, "acme", record.id, by="key:4")
    for change in (webhooks.rotate, webhooks.enable, webhooks.remove):
        assert not change(database, "acme", record.id, by="key:5")
    lines = list(audit_log.export(database, "acme"))
    assert hash_chain.account(lines).length == 5
    said = [(entry["what"], entry["payload"]) for entry in map(json.loads, lines)]
    assert {payload.pop("webhook") for _, payload in said} == {record.id}
    assert all(payload.pop("salt") for _, payload in said)
    assert said == [
        ("create_webhook", {"by": "key:1", "to": "https://hooks.example:8443", "events": ["audit.failed"]}),
        ("rotate_webhook", {"by": "key:2"}),
        ("disable_webhook", {"by": "webhook-sender", "message": delivery.id, "attempt": 1, "answer": "HTTP 500"}),
        ("enable_webhook", {"by": "key:3"}),
        ("delete_webhook", {"by": "key:4"}),
    ]
    assert second is not None
    for secret in (first, second, "hush"):
        assert secret not in b"".join(lines).decode()


def test_a_change_that_cannot_be_logged_does_not_happen(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = register(database)

    def broken(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(audit_log, "append", broken)
    before = webhooks.registered(database, "acme")
    for change in (webhooks.rotate, webhooks.enable, webhooks.remove):
        with pytest.raises(OSError, match="full"):
            change(database, "acme", webhook)
    with pytest.raises(OSError, match="full"):
        register(database)
    assert webhooks.registered(database, "acme") == before


def test_audits_end_while_webhooks_come_and_go(database: Database) -> None:
    """Deleting a webhook after it was selected and before its message is written must not fail the end of the audit."""
    over = threading.Event()
    faults: list[BaseException] = []

    def come_and_go() -> None:
        try:
            while not over.is_set():
                webhooks.remove(database, "acme", register(database))
        except BaseException as fault:
            faults.append(fault)

    changing = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in changing:
        thread.start()
    try:
        for _ in range(60):
            job_state.cancel(database, "acme", "audit", job_state.submit(database, "acme", "audit", AUDIT).record.id)
    finally:
        over.set()
        for thread in changing:
            thread.join()
    assert faults == []


def test_old_messages_are_forgotten(database: Database) -> None:
    webhook = register(database)
    end_of_audits(database, "acme", 2)
    with database.writing() as connection:
        oldest = select(deliveries.c.id).order_by(deliveries.c.id).limit(1).scalar_subquery()
        old = deliveries.update().where(deliveries.c.id == oldest)
        connection.execute(old.values(created_at=now() - timedelta(days=31)))
    assert webhooks.forget_old(database) == 1
    assert len(webhooks.written(database, "acme", webhook, limit=9)) == 1


def hurry(database: Database) -> None:
    """Makes all messages due now."""
    with database.writing() as connection:
        connection.execute(deliveries.update().values(due_at=now()))
