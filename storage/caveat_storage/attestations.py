"""Attestations: signs an in-toto statement about a report or made pictures in a DSSE envelope, and verifies envelopes.

Pure functions of bytes and keys. Statements and envelopes are accepted only as canonical JSON (RFC 8785), so each has
exactly one spelling and any changed byte is detected. Verifying needs only securesystemslib, which is pure Python;
signing also needs cryptography.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import rfc8785
from pydantic import BaseModel, ValidationError
from securesystemslib.dsse import Envelope as Sealed
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer
from securesystemslib.signer import Signature as Sealing

from caveat_spec.artifacts import VisualisationFile
from caveat_spec.attestation import (
    PICTURES_TYPE,
    AuditPredicate,
    DigestSet,
    Envelope,
    PicturesPredicate,
    PicturesStatement,
    Run,
    Signature,
    Signed,
    Statement,
    Subject,
)
from caveat_spec.base import digest_of_bytes
from caveat_spec.report import Report

T = TypeVar("T", bound=BaseModel)
S = TypeVar("S", Statement, PicturesStatement)
Kind = type[Signed]
"""Class of an envelope; it defines the payload type, which is signed as well."""

REPORT, MODEL, EXAMPLES = "report", "model", "examples/"
"""Names of a statement's subjects; `examples/` is followed by the name of the set."""
MADE, PAGE = "visualised.json", "index.html"
"""Files beside made pictures, which are subjects by their names."""


class AttestationError(Exception):
    """The bytes are not a valid attestation or log; the message says why in one sentence."""


@dataclass(frozen=True)
class Unsealed:
    """The payload of an envelope whose signature is valid."""

    payload: bytes
    signed_by: list[str]
    """Ids of the known keys with a valid signature; at least one."""
    unknown: list[str]
    """Ids of signing keys that are not known; their signatures are not checked."""


@dataclass(frozen=True)
class Opened(Generic[S]):
    """A statement whose signature is valid."""

    statement: S
    signed_by: list[str]
    """Ids of the known keys with a valid signature; at least one."""
    unknown: list[str]
    """Ids of signing keys that are not known; their signatures are not checked."""

    def digest(self, subject: str) -> str | None:
        """The digest of the subject with this name; None if there is none."""
        return next((f"sha256:{one.digest.sha256}" for one in self.statement.subject if one.name == subject), None)


def state(report: bytes, run: Run, baseline: str | None = None) -> Statement:
    """The statement about a report (its canonical bytes); `baseline` is the digest of an earlier report."""
    found = Report.model_validate_json(report)
    named = subjects(found) | {REPORT: digest_of_bytes(report)}
    return Statement(
        subject=_named(named),
        predicate=AuditPredicate(run=run, engine=found.engine, verdict=found.verdict, baseline=baseline),
    )


def state_pictures(made: bytes, page: str, run: Run) -> PicturesStatement:
    """The statement about made pictures: the bytes of `visualised.json`, and the digest of the page beside it."""
    found = VisualisationFile.model_validate_json(made)
    sets = {
        f"{EXAMPLES}{name}": next(iter(one.sources().values())) for name, one in found.audit.examples.items()
    }  # as a report names a set
    files = {one.file: one.digest for one in found.pictures if one.file is not None and one.digest is not None}
    named = {MODEL: found.audit.model, **sets, MADE: digest_of_bytes(made), PAGE: page, **files}
    return PicturesStatement(
        subject=_named(named),
        predicate=PicturesPredicate(
            run=run,
            engine=found.engine,
            layer=found.layer,
            set=found.set,
            atoms=[one.atom for one in found.pictures],
            centre=found.centre,
            steps=found.steps,
            side=found.side,
            seed=found.seed,
        ),
    )


def _named(digests: dict[str, str]) -> list[Subject]:
    return [
        Subject(name=name, digest=DigestSet(sha256=digest.removeprefix("sha256:"))) for name, digest in digests.items()
    ]


def subjects(report: Report) -> dict[str, str]:
    """The digests of what a report is about, by the name of the subject."""
    return {MODEL: report.audit.model} | {f"{EXAMPLES}{one.name}": one.source for one in report.plan.examples}


def sign(statement: Statement | PicturesStatement, signers: Sequence[Signer]) -> bytes:
    """The canonical envelope of a statement, signed by each of `signers`."""
    return seal(statement, Envelope, signers)


def open_envelope(envelope: bytes, keys: Sequence[Key]) -> Opened[Statement]:
    """Returns the statement about an audit in an envelope that one of `keys` signed.

    Raises:
        AttestationError: the envelope is malformed, none of the keys signed it, it was changed after signing, or it is
            about something else.
    """
    return _opened(envelope, keys, Statement)


def open_pictures(envelope: bytes, keys: Sequence[Key]) -> Opened[PicturesStatement]:
    """Returns the statement about made pictures in an envelope; raises `AttestationError` as `open_envelope` does."""
    return _opened(envelope, keys, PicturesStatement)


def _opened(envelope: bytes, keys: Sequence[Key], kind: type[S]) -> Opened[S]:
    unsealed = unseal(envelope, Envelope, keys)
    return Opened(read(kind, unsealed.payload, "the statement"), unsealed.signed_by, unsealed.unknown)


def is_about_pictures(envelope: bytes) -> bool:
    """Whether an envelope says that it is about made pictures, and not about an audit; nothing is checked."""
    try:
        payload = json.loads(sealed_in(envelope, Envelope).payload)
    except (AttestationError, ValueError):
        return False
    return isinstance(payload, dict) and payload.get("predicateType") == PICTURES_TYPE


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
    """Returns the payload of an envelope that one of `keys` signed.

    Raises:
        AttestationError: the envelope is malformed, none of the keys signed it, or it was changed after signing.
    """
    sealed = sealed_in(envelope, kind)
    known = {key.keyid: key for key in keys}
    unknown = [keyid for keyid in sealed.signatures if keyid not in known]
    if len(unknown) == len(sealed.signatures):
        listed = " and ".join(keyid[:12] for keyid in unknown)
        raise AttestationError(f"It is signed with the key {listed}, which is none of those that were given")
    signed_by = [keyid for keyid in sealed.signatures if keyid in known]
    for keyid in signed_by:
        _check(sealed, known[keyid])
    return Unsealed(sealed.payload, signed_by, unknown)


def unverified(envelope: bytes) -> Statement:
    """Returns the statement in an envelope without checking signatures: for display only, never as proof.

    Raises:
        AttestationError: the envelope is malformed.
    """
    return read(Statement, sealed_in(envelope, Envelope).payload, "the statement")


def sealed_in(envelope: bytes, kind: Kind) -> Sealed:
    """Returns the payload and the signatures of an envelope without checking them.

    Raises:
        AttestationError: the envelope is malformed.
    """
    found = read(kind, envelope, "the envelope")
    signatures = {one.keyid: Sealing(one.keyid, _decoded(one.sig).hex()) for one in found.signatures}
    if len(signatures) < len(found.signatures):
        raise AttestationError("It has two signatures of the same key")
    return Sealed(_decoded(found.payload), _payload_type(kind), signatures)


def _payload_type(kind: Kind) -> str:
    return str(kind.model_fields["payload_type"].default)


def _check(sealed: Sealed, key: Key) -> None:
    try:
        sealed.verify([key], 1)
    except VerificationError as fault:
        raise AttestationError(
            f"The signature of the key {key.keyid[:12]} does not hold: the document was changed after signing, "
            "or another key made the signature"
        ) from fault


def read(kind: type[T], data: bytes, what: str) -> T:
    """Parses canonical JSON as a document of class `kind`; `what` names it in errors.

    Raises:
        AttestationError: it is not such a document, or not in canonical form.
    """
    try:
        found = kind.model_validate_json(data, strict=True)
    except ValidationError as fault:
        first = fault.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise AttestationError(f"It does not match its schema: {what} at '{pointer}': {first['msg']}") from fault
    try:
        same = canonical(found) == data
    except rfc8785.CanonicalizationError:  # such as a number that JSON cannot carry
        same = False
    if not same:
        raise AttestationError(f"It was changed, or not written by Caveat: {what} is not in canonical form (RFC 8785)")
    return found


def _decoded(text: str) -> bytes:
    """Decodes base64 in its canonical spelling: no white space, correct padding, no leftover bits."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        data = b""
    if b64encode(data).decode() != text:
        raise AttestationError("It was changed, or not written by Caveat: its base64 is not canonical")
    return data


def canonical(document: BaseModel) -> bytes:
    """The canonical bytes of a document (RFC 8785)."""
    return rfc8785.dumps(document.model_dump(mode="json"))
