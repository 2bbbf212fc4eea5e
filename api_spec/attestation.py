"""Evidence: what is stated of an audit (an in-toto Statement v1), and the envelope that signs it (DSSE 1.0).

The report itself holds no clock and no host; when and where it was made is stated here, and signed with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from api_spec.base import Digest, Document
from api_spec.report import Engine, Verdict

PAYLOAD_TYPE: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"
STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["urn:caveat:predicate:audit:v1"] = "urn:caveat:predicate:audit:v1"

Hexadecimal = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class Foreign(Document):
    """A document whose fields have the names that somebody else's standard gives them."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class DigestSet(Document):
    """Digests of the same bytes, by algorithm; here there is one."""

    sha256: Hexadecimal


class Subject(Document):
    """Bytes that a statement is about: `model`, `report`, or `examples/` and the name of a set."""

    name: str
    digest: DigestSet


class Run(Document):
    """When and where an audit ran."""

    audit: str | None
    """Its id on the service; null for one that ran without a service."""
    where: Annotated[str, Field(min_length=1)]
    """The worker, the CI job's address, or the host."""
    started_at: AwareDatetime
    finished_at: AwareDatetime


class AuditPredicate(Document):
    """What the statement says of its subjects."""

    run: Run
    engine: Engine
    verdict: Verdict
    baseline: Digest | None
    """The earlier report that the verdict compared with, where it did."""


class Statement(Foreign):
    """An in-toto Statement v1 about the model, each example set, and the report of one audit."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT_TYPE
    subject: Annotated[list[Subject], Field(min_length=1)]
    predicate_type: Annotated[Literal["urn:caveat:predicate:audit:v1"], Field(alias="predicateType")] = PREDICATE_TYPE
    predicate: AuditPredicate


class Signature(Document):
    """One key's signature."""

    keyid: Hexadecimal
    """The SHA-256 of the public key (DER, SubjectPublicKeyInfo)."""
    sig: Base64
    """Ed25519, over the pre-authentication encoding of the payload."""


class Signed(Foreign):
    """A DSSE envelope: a document and its signatures, one for each key in use."""

    payload: Base64
    """The document's canonical bytes (RFC 8785)."""
    signatures: Annotated[list[Signature], Field(min_length=1)]


class Envelope(Signed):
    """A DSSE envelope around a Statement."""

    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")] = PAYLOAD_TYPE
