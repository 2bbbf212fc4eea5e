"""For which workers a job is."""

from __future__ import annotations

from typing import Any

import pytest

from caveat_spec.artifacts import NewModel, Queue
from caveat_spec.audit import Audit
from caveat_spec.jobs import LISTS, QUEUES, Request, in_flight, queue_of
from tests.worker.live import MODEL, TABLE, audit, digest

SIZES = {digest(MODEL): 1000, digest(TABLE): 1_000_000, digest(b"gradient"): 500}


def asked(provider: str, **also: Any) -> Audit:
    return Audit.model_validate(audit(provider=provider) | also)


@pytest.mark.parametrize(
    ("request_", "large", "queue"),
    [
        (asked("auto"), 0, "default"),
        (asked("cpu"), 0, "default"),
        (asked("cuda"), 0, "gpu"),
        (asked("auto"), 1000, "default"),  # examples are read a few at a time, so they do not count
        (asked("auto"), 999, "large"),
        (asked("cuda"), 999, "gpu"),  # which is what it asks for
        (NewModel(blob=digest(MODEL)), 0, "default"),
        (NewModel(blob=digest(MODEL)), 999, "large"),
    ],
)
def test_the_request_decides(request_: Request, large: int, queue: Queue) -> None:
    assert queue_of(request_, SIZES, large=large) == queue


def test_every_queue_has_a_list_of_its_own() -> None:
    assert LISTS.keys() == set(QUEUES)
    assert len(set(LISTS.values())) == len(QUEUES)


def test_what_is_in_flight_is_counted_by_the_queues_that_a_worker_serves() -> None:
    assert in_flight(QUEUES) == "unacked", "kombu's own name, which workers that serve everything have always used"
    assert in_flight(["large", "default"]) == in_flight(["default", "large"]) == "unacked.default.large"
    assert in_flight({"gpu"}) == "unacked.gpu"
