"""Builds the audit log's hash chain and verifies exported logs: pure functions of entries and keys.

Each entry contains the digest of the previous one, so changing, removing, inserting or moving an entry invalidates the
digests after it. Only cutting off the end goes undetected; the signed head prevents that. Reading needs only
securesystemslib.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import rfc8785
from pydantic import Field, TypeAdapter, ValidationError
from securesystemslib.signer import Key

from caveat_spec.audit_log import NOTHING, Entry, Head, SignedHead
from caveat_spec.base import digest_of_bytes
from caveat_storage import attestations
from caveat_storage.attestations import AttestationError

ERASE = "erase"
"""Action of entries that list erased payloads: `entries` holds pairs of first and last number."""


class BrokenError(Exception):
    """The lines are not an unbroken log; the message says why in one sentence."""


@dataclass
class Account:
    """The contents of a verified log."""

    tenant: str | None = None
    length: int = 0
    digest: str = NOTHING
    first_at: str | None = None
    last_at: str | None = None
    head: Head | None = None
    """The head that states the end of the log; None if there is none."""
    signed_by: list[str] = field(default_factory=list)
    """Ids of the known keys that signed the head."""
    erased: int = 0
    """Number of erased payloads; each is listed in an `erase` entry."""
    steps: Counter[str] = field(default_factory=Counter)
    principals: set[str] = field(default_factory=set)
    """The principals that submitted jobs."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Number of succeeded audits with each outcome."""
    reports: dict[str, str] = field(default_factory=dict)
    """Job → digest of its report."""


def link(
    tenant: str, seq: int, at: datetime, what: str, job: str | None, payload: dict[str, Any], previous: str
) -> Entry:
    """Creates the entry that follows the one whose digest is `previous`."""
    said = {
        "tenant": tenant, "seq": seq, "at": spelt(at), "what": what, "job": job,
        "payload_digest": digest(payload), "previous": previous,
    }  # fmt: skip
    return Entry.model_validate({**said, "payload": payload, "digest": digest(said)})


def digest(document: Any) -> str:
    """The SHA-256 of a JSON value's canonical form."""
    return digest_of_bytes(rfc8785.dumps(document))


def spelt(at: datetime) -> str:
    """The canonical spelling of a point in time, in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def line(entry: Entry) -> bytes:
    """An entry as a line of an exported log."""
    return attestations.canonical(entry) + b"\n"


def account(lines: Iterable[bytes], keys: Sequence[Key] = (), earlier: Account | None = None) -> Account:
    """Verifies a log line by line and returns its contents.

    With `keys`, one of them must have signed the head. With `earlier`, the log must be a continuation of that one.

    Raises:
        BrokenError: an entry was changed, is missing, or is out of place.
    """
    result, gone, named = Account(), set[int](), set[int]()
    for number, text in enumerate(lines, 1):
        if result.head is not None:
            raise BrokenError(f"Line {number} comes after the head, which must be the last line")
        if not text.endswith(b"\n"):
            raise BrokenError(f"Line {number} is cut off: it has no line break")
        data = text[:-1]
        try:
            if data.startswith(b'{"payload":"'):
                _close(result, data, keys)
                continue
            entry = attestations.read(Entry, data, "the entry")
        except AttestationError as fault:
            raise BrokenError(f"Line {number}: {fault}") from fault
        _follow(result, entry)
        if earlier is not None and entry.seq == earlier.length and entry.digest != earlier.digest:
            raise BrokenError(f"Entry {entry.seq} differs from the earlier log: recorded entries were rewritten")
        if entry.payload is None:
            gone.add(entry.seq)
        elif entry.what == ERASE:
            named |= {seq for first, last in _pairs(entry) for seq in range(first, min(last, entry.seq - 1) + 1)}
    if keys and result.head is None:
        raise BrokenError("It has no signed head, so its end may have been cut off")
    if unexplained := sorted(gone - named):
        raise BrokenError(
            f"The payload of entry {unexplained[0]} is missing, and no later entry says that it was erased"
        )
    if earlier is not None and (result.length < earlier.length or earlier.tenant not in (None, result.tenant)):
        raise BrokenError("The earlier log has entries that are missing here")
    result.erased = len(gone)
    return result


def _follow(result: Account, entry: Entry) -> None:
    """Adds an entry to the account if it is intact and the next in the chain."""
    expected = result.length + 1
    if result.tenant not in (None, entry.tenant):
        raise BrokenError(f"Entry {result.length} is followed by an entry of another tenant, {entry.tenant}")
    if entry.seq > expected:
        missing = f"entry {expected} is" if entry.seq == expected + 1 else f"entries {expected} to {entry.seq - 1} are"
        raise BrokenError(f"Before entry {entry.seq} {missing} missing")
    if entry.seq < expected:
        raise BrokenError(f"Entry {entry.seq} stands where entry {expected} belongs: entries were moved or repeated")
    said = entry.model_dump(mode="json", exclude={"payload", "digest"})
    if digest(said) != entry.digest:
        raise BrokenError(f"Entry {entry.seq} was changed: its digest does not match")
    if entry.payload is not None and digest(entry.payload) != entry.payload_digest:
        raise BrokenError(f"Entry {entry.seq} was changed: the digest of its payload does not match")
    if entry.previous != result.digest:
        raise BrokenError(
            f"Entry {entry.seq} does not follow from the one before it: that one was replaced, or this one belongs "
            "to another log"
        )
    result.tenant, result.length, result.digest, result.last_at = entry.tenant, entry.seq, entry.digest, entry.at
    result.first_at = result.first_at or entry.at
    result.steps[entry.what] += 1
    said = entry.payload or {}
    if entry.what == "submit" and said:
        result.principals.add(str(said.get("by")))
    if entry.what == "succeed" and entry.job and isinstance(report := said.get("report_digest"), str):
        result.reports[entry.job] = report
        result.outcomes[str(said.get("outcome") or "no gate")] += 1


def _close(result: Account, envelope: bytes, keys: Sequence[Key]) -> None:
    """Checks the head against the entries before it."""
    if keys:
        unsealed = attestations.unseal(envelope, SignedHead, keys)
        payload, result.signed_by = unsealed.payload, unsealed.signed_by
    else:
        payload = attestations.sealed_in(envelope, SignedHead).payload
    head = attestations.read(Head, payload, "the head")
    if result.tenant not in (None, head.tenant):
        raise BrokenError(f"The head belongs to another tenant, {head.tenant}")
    if head.length > result.length:
        raise BrokenError(f"The end is cut off: the head counts {head.length} entries, but there are {result.length}")
    if (head.length, head.digest) != (result.length, result.digest):
        raise BrokenError(
            f"The head belongs to another log: it counts {head.length} entries and names another last one"
        )
    result.head = head


def _pairs(entry: Entry) -> list[list[int]]:
    """First and last number of each run of entries that an `erase` entry lists."""
    try:
        return _RUNS.validate_python((entry.payload or {}).get("entries"), strict=True)
    except ValidationError:
        raise BrokenError(f"Entry {entry.seq} does not say which entries were erased") from None


_RUNS = TypeAdapter(list[Annotated[list[int], Field(min_length=2, max_length=2)]])
