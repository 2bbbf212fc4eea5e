"""The log of what was asked and answered: one chain of entries for each tenant, and the head that signs where it ends.

A log is exported as lines of canonical JSON (RFC 8785): an `Entry` a line, and last, where the service has a key, a
`SignedHead`. Of each entry, its payload's digest is chained and not the payload itself, so that the payload can be
erased and the chain still be checked; a payload has a salt, so that its digest alone gives nothing to guess.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from api_spec.attestation import Signed
from api_spec.base import Digest, Document, Integer

HEAD_TYPE: Literal["application/vnd.caveat.log-head+json"] = "application/vnd.caveat.log-head+json"
NOTHING = f"sha256:{'0' * 64}"
"""What stands before the first entry."""

Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
"""A point in time in its one spelling, in UTC."""


class Entry(Document):
    """One thing that was asked or answered."""

    tenant: str
    seq: Annotated[Integer, Field(ge=1)]
    """Counts the tenant's entries from 1, without a gap."""
    at: Moment
    what: str
    """A step of a job (`submit`, `succeed`, ...), or what was done with keys or kept data."""
    job: str | None
    payload: dict[str, JsonValue] | None
    """Who did it (`by`), what was asked and what came of it, and a salt; null once it was erased."""
    payload_digest: Digest
    """The SHA-256 of the payload's canonical form."""
    previous: Digest
    """The digest of the entry before."""
    digest: Digest
    """The SHA-256 of the canonical form of all of the above but the payload."""


class Head(Document):
    """Where a log ends."""

    tenant: str
    length: Annotated[Integer, Field(ge=0)]
    digest: Digest
    """Of the last entry."""
    at: Moment
    """When it was signed."""


class SignedHead(Signed):
    """A DSSE envelope around a `Head`."""

    payload_type: Annotated[Literal["application/vnd.caveat.log-head+json"], Field(alias="payloadType")] = HEAD_TYPE
