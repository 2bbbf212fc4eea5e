"""What makes a log a chain, and whether lines that somebody hands over are one: pure functions of entries and keys.

Each entry has the digest of the one before, so nothing can be changed, left out, put in or moved without the digests
after it. Only the end can be cut off unseen: that is what the signed head is for. Reading needs securesystemslib alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any

import rfc8785
from pydantic import Field, TypeAdapter, ValidationError
from securesystemslib.signer import Key

from api_spec.log import NOTHING, Entry, Head, SignedHead
from vault import attest
from vault.attest import EvidenceError

ERASE = "erase"
"""The entry that says which payloads were erased before it: `entries` has their numbers, as pairs of first and last."""


class BrokenError(Exception):
    """Lines that are not an unbroken log, and why, in one sentence."""


@dataclass
class Account:
    """What an unbroken log tells."""

    tenant: str | None = None
    length: int = 0
    digest: str = NOTHING
    first_at: str | None = None
    last_at: str | None = None
    head: Head | None = None
    """Where the service says that the log ends; None where it says nothing."""
    signed_by: list[str] = field(default_factory=list)
    """Ids of the known keys that signed the head."""
    erased: int = 0
    """Payloads that are gone; each is named by an `erase` entry."""
    steps: Counter[str] = field(default_factory=Counter)
    askers: set[str] = field(default_factory=set)
    """Who submitted jobs."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Verdicts of the audits that succeeded."""
    reports: dict[str, str] = field(default_factory=dict)
    """Job → digest of its report."""


def link(
    tenant: str, seq: int, at: datetime, what: str, job: str | None, payload: dict[str, Any], previous: str
) -> Entry:
    """The entry that comes after the one whose digest is `previous`."""
    said = {
        "tenant": tenant, "seq": seq, "at": spelt(at), "what": what, "job": job,
        "payload_digest": digest(payload), "previous": previous,
    }  # fmt: skip
    return Entry.model_validate({**said, "payload": payload, "digest": digest(said)})


def digest(document: Any) -> str:
    """The SHA-256 of a JSON value's canonical form."""
    return f"sha256:{sha256(rfc8785.dumps(document)).hexdigest()}"


def spelt(at: datetime) -> str:
    """A point in time in its one spelling."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def line(entry: Entry) -> bytes:
    """An entry as a line of an exported log."""
    return attest.canonical(entry) + b"\n"


def account(lines: Iterable[bytes], keys: Sequence[Key] = (), earlier: Account | None = None) -> Account:
    """What a log tells, read line by line.

    With `keys`, one of them must have signed where it ends; with `earlier`, it must be that log, grown since.

    Raises:
        BrokenError: something was changed, is missing, or stands where it does not belong.
    """
    told, gone, named = Account(), set[int](), set[int]()
    for number, text in enumerate(lines, 1):
        if told.head is not None:
            raise BrokenError(f"Line {number} comes after the head, which is the end")
        if not text.endswith(b"\n"):
            raise BrokenError(f"Line {number} is cut off: it has no end")
        data = text[:-1]
        try:
            if data.startswith(b'{"payload":"'):
                _close(told, data, keys)
                continue
            entry = attest.read(Entry, data, "the entry")
        except EvidenceError as fault:
            raise BrokenError(f"Line {number}: {fault}") from fault
        _follow(told, entry)
        if earlier is not None and entry.seq == earlier.length and entry.digest != earlier.digest:
            raise BrokenError(f"The earlier log has another entry {entry.seq}: what was logged before was rewritten")
        if entry.payload is None:
            gone.add(entry.seq)
        elif entry.what == ERASE:
            named |= {seq for first, last in _pairs(entry) for seq in range(first, min(last, entry.seq - 1) + 1)}
    if keys and told.head is None:
        raise BrokenError("It has no signed head, so its end may have been cut off")
    if unexplained := sorted(gone - named):
        raise BrokenError(f"What entry {unexplained[0]} said is gone, and no later entry says that it was erased")
    if earlier is not None and (told.length < earlier.length or earlier.tenant not in (None, told.tenant)):
        raise BrokenError("The earlier log has entries that are not here")
    told.erased = len(gone)
    return told


def _follow(told: Account, entry: Entry) -> None:
    """Adds an entry to the account, if it is the next one and unchanged."""
    expected = told.length + 1
    if told.tenant not in (None, entry.tenant):
        raise BrokenError(f"After entry {told.length} comes one of another tenant, {entry.tenant}")
    if entry.seq > expected:
        missing = f"entry {expected} is" if entry.seq == expected + 1 else f"entries {expected} to {entry.seq - 1} are"
        raise BrokenError(f"Before entry {entry.seq} {missing} missing")
    if entry.seq < expected:
        raise BrokenError(f"Entry {entry.seq} stands where entry {expected} belongs: entries were moved or repeated")
    said = entry.model_dump(mode="json", exclude={"payload", "digest"})
    if digest(said) != entry.digest:
        raise BrokenError(f"Entry {entry.seq} was changed: it does not have the digest that it names")
    if entry.payload is not None and digest(entry.payload) != entry.payload_digest:
        raise BrokenError(f"Entry {entry.seq} was changed: what it says does not have the digest that it names")
    if entry.previous != told.digest:
        raise BrokenError(
            f"Entry {entry.seq} does not follow from the one before it: that one was replaced, or this one is of "
            "another log"
        )
    told.tenant, told.length, told.digest, told.last_at = entry.tenant, entry.seq, entry.digest, entry.at
    told.first_at = told.first_at or entry.at
    told.steps[entry.what] += 1
    said = entry.payload or {}
    if entry.what == "submit" and said:
        told.askers.add(str(said.get("by")))
    if entry.what == "succeed" and entry.job and isinstance(report := said.get("report_digest"), str):
        told.reports[entry.job] = report
        told.outcomes[str(said.get("outcome") or "no gate")] += 1


def _close(told: Account, envelope: bytes, keys: Sequence[Key]) -> None:
    """Holds the head against the entries before it."""
    if keys:
        unsealed = attest.unseal(envelope, SignedHead, keys)
        payload, told.signed_by = unsealed.payload, unsealed.signed_by
    else:
        payload = attest.sealed_in(envelope, SignedHead).payload
    head = attest.read(Head, payload, "the head")
    if told.tenant not in (None, head.tenant):
        raise BrokenError(f"The head is of another tenant, {head.tenant}")
    if head.length > told.length:
        raise BrokenError(f"The end is cut off: the head counts {head.length} entries, and {told.length} are here")
    if (head.length, head.digest) != (told.length, told.digest):
        raise BrokenError(f"The head is of another log: it counts {head.length} entries and ends in another one")
    told.head = head


def _pairs(entry: Entry) -> list[list[int]]:
    """First and last of each run of entries that an `erase` entry names."""
    try:
        return _RUNS.validate_python((entry.payload or {}).get("entries"), strict=True)
    except ValidationError:
        raise BrokenError(f"Entry {entry.seq} does not say which entries were erased") from None


_RUNS = TypeAdapter(list[Annotated[list[int], Field(min_length=2, max_length=2)]])
