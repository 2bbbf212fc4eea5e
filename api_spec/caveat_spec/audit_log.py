"""The audit log: a hash chain of entries for each tenant, and a signed head that states where the chain ends.

A log is exported as lines of canonical JSON (RFC 8785): one `Entry` per line and, if the service has a signing key, a
`SignedHead` as the last line. The chain covers the digest of each payload instead of the payload itself, so a payload
can be erased without breaking the chain. A salt in each payload prevents guessing it from its digest.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from caveat_spec.attestation import Signed
from caveat_spec.base import Digest, Document, Integer

HEAD_TYPE: Literal["application/vnd.caveat.log-head+json"] = "application/vnd.caveat.log-head+json"
NOTHING = f"sha256:{'0' * 64}"
"""The `previous` digest of the first entry."""

Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
"""A point in time in UTC, in its only accepted spelling."""


class Entry(Document):
    """One recorded action."""

    tenant: str
    seq: Annotated[Integer, Field(ge=1)]
    """Position in the tenant's log, from 1 without gaps."""
    at: Moment
    what: str
    """The action: a step of a job (`submit`, `succeed`, ...), or a change of keys, webhooks or stored data."""
    job: str | None
    payload: dict[str, JsonValue] | None
    """Who acted (`by`), the details of the action, and a salt; null once erased."""
    payload_digest: Digest
    """SHA-256 of the payload's canonical form."""
    previous: Digest
    """Digest of the previous entry."""
    digest: Digest
    """SHA-256 of the canonical form of all fields above except the payload."""


class Head(Document):
    """The end of a log."""

    tenant: str
    length: Annotated[Integer, Field(ge=0)]
    digest: Digest
    """Digest of the last entry."""
    at: Moment
    """Time of signing."""


class SignedHead(Signed):
    """A DSSE envelope that contains a `Head`."""

    payload_type: Annotated[Literal["application/vnd.caveat.log-head+json"], Field(alias="payloadType")] = HEAD_TYPE
