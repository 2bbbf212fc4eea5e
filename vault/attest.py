"""Evidence: a report becomes an in-toto statement, and that a signed DSSE envelope; and the way back.

Pure functions of bytes and keys. Statement and envelope are canonical JSON (RFC 8785) and are accepted in no other
form, so an envelope has one spelling, and no byte of it can be changed unseen. Reading needs securesystemslib alone,
which is pure Python; signing needs cryptography too.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

import rfc8785
from pydantic import BaseModel, ValidationError
from securesystemslib.dsse import Envelope as Sealed
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer
from securesystemslib.signer import Signature as Sealing

from api_spec.attestation import (
    AuditPredicate,
    DigestSet,
    Envelope,
    Run,
    Signature,
    Signed,
    Statement,
    Subject,
)
from api_spec.report import Report

T = TypeVar("T", bound=BaseModel)
Kind = type[Signed]
"""What an envelope is about: its class has the payload's type, which is signed as well."""

REPORT, MODEL, EXAMPLES = "report", "model", "examples/"
"""How a statement names its subjects; a set's own name follows `examples/`."""


class EvidenceError(Exception):
    """Bytes that are not the evidence they are said to be, and why, in one sentence."""


@dataclass(frozen=True)
class Unsealed:
    """A document whose signature held."""

    payload: bytes
    signed_by: list[str]
    """Ids of the known keys whose signature holds; at least one."""
    unknown: list[str]
    """Ids of keys that signed as well and are not known here: their signatures say nothing."""


@dataclass(frozen=True)
class Opened:
    """A statement whose signature held."""

    statement: Statement
    signed_by: list[str]
    """Ids of the known keys whose signature holds; at least one."""
    unknown: list[str]
    """Ids of keys that signed as well and are not known here: their signatures say nothing."""

    def digest(self, subject: str) -> str | None:
        """The digest of the subject of this name."""
        return next((f"sha256:{one.digest.sha256}" for one in self.statement.subject if one.name == subject), None)


def state(report: bytes, run: Run, baseline: str | None = None) -> Statement:
    """What can be stated of a report, given as its canonical bytes; `baseline` is the digest of an earlier report."""
    found = Report.model_validate_json(report)
    subjects = {MODEL: found.audit.model}
    subjects |= {f"{EXAMPLES}{one.name}": one.source for one in found.plan.examples}
    subjects |= {REPORT: f"sha256:{sha256(report).hexdigest()}"}
    return Statement(
        subject=[
            Subject(name=name, digest=DigestSet(sha256=digest.removeprefix("sha256:")))
            for name, digest in subjects.items()
        ],
        predicate=AuditPredicate(run=run, engine=found.engine, verdict=found.verdict, baseline=baseline),
    )


def sign(statement: Statement, signers: Sequence[Signer]) -> bytes:
    """The canonical envelope of a statement, signed by each of `signers`."""
    return seal(statement, Envelope, signers)


def open_envelope(envelope: bytes, keys: Sequence[Key]) -> Opened:
    """The statement in an envelope that one of `keys` signed.

    Raises:
        EvidenceError: it is no such envelope, none of the keys signed it, or it was changed since.
    """
    unsealed = unseal(envelope, Envelope, keys)
    return Opened(read(Statement, unsealed.payload, "the statement"), unsealed.signed_by, unsealed.unknown)


def seal(document: BaseModel, kind: Kind, signers: Sequence[Signer]) -> bytes:
    """The canonical envelope of a document, signed by each of `signers`."""
    sealed = Sealed(canonical(document), _payload_type(kind), {})
    for signer in signers:
        sealed.sign(signer)
    return canonical(
        kind(
            payload=b64encode(sealed.payload).decode(),
            signatures=[
                Signature(keyid=keyid, sig=b64encode(bytes.fromhex(one.signature)).decode())
                for keyid, one in sealed.signatures.items()
            ],
        )
    )


def unseal(envelope: bytes, kind: Kind, keys: Sequence[Key]) -> Unsealed:
    """The document in an envelope that one of `keys` signed.

    Raises:
        EvidenceError: it is no such envelope, none of the keys signed it, or it was changed since.
    """
    sealed = sealed_in(envelope, kind)
    known = {key.keyid: key for key in keys}
    unknown = [keyid for keyid in sealed.signatures if keyid not in known]
    if len(unknown) == len(sealed.signatures):
        listed = " and ".join(keyid[:12] for keyid in unknown)
        raise EvidenceError(f"It is signed with the key {listed}, which is none of those that were given")
    signed_by = [keyid for keyid in sealed.signatures if keyid in known]
    for keyid in signed_by:
        _check(sealed, known[keyid])
    return Unsealed(sealed.payload, signed_by, unknown)


def unverified(envelope: bytes) -> Statement:
    """The statement in an envelope, whoever signed it: to see what it is about, never to believe it.

    Raises:
        EvidenceError: it is no such envelope.
    """
    return read(Statement, sealed_in(envelope, Envelope).payload, "the statement")


def sealed_in(envelope: bytes, kind: Kind) -> Sealed:
    """What an envelope holds, whoever signed it.

    Raises:
        EvidenceError: it is no such envelope.
    """
    found = read(kind, envelope, "the envelope")
    signatures = {one.keyid: Sealing(one.keyid, _decoded(one.sig).hex()) for one in found.signatures}
    if len(signatures) < len(found.signatures):
        raise EvidenceError("One key has signed it twice")
    return Sealed(_decoded(found.payload), _payload_type(kind), signatures)


def _payload_type(kind: Kind) -> str:
    return str(kind.model_fields["payload_type"].default)


def _check(sealed: Sealed, key: Key) -> None:
    try:
        sealed.verify([key], 1)
    except VerificationError as fault:
        raise EvidenceError(
            f"The signature of the key {key.keyid[:12]} does not hold: what was signed has been changed since, "
            "or another key made the signature"
        ) from fault


def read(kind: type[T], data: bytes, what: str) -> T:
    """`data` as a `kind`, if it is that and canonical.

    Raises:
        EvidenceError: it is something else, or spelt otherwise.
    """
    try:
        found = kind.model_validate_json(data, strict=True)
    except ValidationError as fault:
        first = fault.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise EvidenceError(f"It is not what Caveat writes: {what} at '{pointer}': {first['msg']}") from fault
    try:
        same = canonical(found) == data
    except rfc8785.CanonicalizationError:  # such as a number that JSON cannot carry
        same = False
    if not same:
        raise EvidenceError(f"It is not as Caveat wrote it: {what} is not in canonical form (RFC 8785)")
    return found


def _decoded(text: str) -> bytes:
    """Base64 in its one spelling: no white space, the right padding, no bits left over."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        data = b""
    if b64encode(data).decode() != text:
        raise EvidenceError("It is not as Caveat wrote it: its base64 is not canonical")
    return data


def canonical(document: BaseModel) -> bytes:
    """The one spelling of a document (RFC 8785)."""
    return rfc8785.dumps(document.model_dump(mode="json"))
