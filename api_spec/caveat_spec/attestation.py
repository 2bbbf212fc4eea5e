"""Attestations: a statement about an audit or made pictures (in-toto Statement v1) in a signed envelope (DSSE 1.0).

The report contains neither time nor host. The statement adds when and where the audit ran, and is signed with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from caveat_spec.base import Count, Digest, Document, Name
from caveat_spec.report import Engine, Verdict

PAYLOAD_TYPE: Literal["application/vnd.in-toto+json"] = "application/vnd.in-toto+json"
STATEMENT_TYPE: Literal["https://in-toto.io/Statement/v1"] = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Literal["urn:caveat:predicate:audit:v1"] = "urn:caveat:predicate:audit:v1"
PICTURES_TYPE: Literal["urn:caveat:predicate:pictures:v1"] = "urn:caveat:predicate:pictures:v1"

Hexadecimal = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class Foreign(Document):
    """A document whose field names come from an external standard."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)


class DigestSet(Document):
    """Digests of the same bytes by algorithm; only SHA-256 is used."""

    sha256: Hexadecimal


class Subject(Document):
    """A subject of a statement: `model`, `report`, `examples/` followed by the name of a set, or a file's name."""

    name: str
    digest: DigestSet


class Run(Document):
    """When and where an audit ran."""

    audit: str | None
    """Id of the audit on the service; null for an audit that ran without a service."""
    where: Annotated[str, Field(min_length=1)]
    """The worker, the address of the CI job, or the host."""
    started_at: AwareDatetime
    finished_at: AwareDatetime


class AuditPredicate(Document):
    """The claims about the subjects."""

    run: Run
    engine: Engine
    verdict: Verdict
    baseline: Digest | None
    """Digest of the earlier report that the verdict compared with; null if there was none."""


class Statement(Foreign):
    """An in-toto Statement v1 about the model, the example sets and the report of one audit."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT_TYPE
    subject: Annotated[list[Subject], Field(min_length=1)]
    predicate_type: Annotated[Literal["urn:caveat:predicate:audit:v1"], Field(alias="predicateType")] = PREDICATE_TYPE
    predicate: AuditPredicate


class PicturesPredicate(Document):
    """The claims about made pictures: when, where, by what and how they were made."""

    run: Run
    engine: Engine
    layer: str
    set: Name
    """Whose examples stand beside the pictures."""
    atoms: Annotated[list[str], Field(min_length=1)]
    """What was asked for, also where the picture is not shown."""
    centre: bool
    steps: Count
    side: Count
    seed: Count


class PicturesStatement(Foreign):
    """An in-toto Statement v1 about the model, the example sets, and every file of a folder of made pictures."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")] = STATEMENT_TYPE
    subject: Annotated[list[Subject], Field(min_length=1)]
    predicate_type: Annotated[Literal["urn:caveat:predicate:pictures:v1"], Field(alias="predicateType")] = PICTURES_TYPE
    predicate: PicturesPredicate


class Signature(Document):
    """The signature of one key."""

    keyid: Hexadecimal
    """SHA-256 of the public key (DER, SubjectPublicKeyInfo)."""
    sig: Base64
    """Ed25519 signature of the payload's pre-authentication encoding."""


class Signed(Foreign):
    """A DSSE envelope: a payload and one signature for each key in use."""

    payload: Base64
    """The payload's canonical bytes (RFC 8785)."""
    signatures: Annotated[list[Signature], Field(min_length=1)]


class Envelope(Signed):
    """A DSSE envelope that contains a `Statement` or a `PicturesStatement`."""

    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")] = PAYLOAD_TYPE
