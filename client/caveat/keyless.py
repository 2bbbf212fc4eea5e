"""Keyless signatures: a report signed as an identity that an OIDC issuer vouches for, and how that is verified.

The library `sigstore` signs and verifies, and is imported only when a function here is called. A signature is a bundle
(`report.json.sigstore.json`): the certificate that a CA issued to the identity for ten minutes, the signature of the
report's bytes, and the proof that a public log has both. Nothing else is needed to verify it but whom to trust.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from caveat.attestation import Check, compare, read_bytes
from caveat.installation import require
from caveat.problems import ProblemError, problem
from caveat_spec.report import Report
from caveat_storage.attestations import subjects

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import Bundle, ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

BY_OPTION = "--identity-token (or $SIGSTORE_IDENTITY_TOKEN)"
WHO_SIGNS = (
    "On GitHub give the job `permissions: {id-token: write}`; on GitLab set `id_tokens: {SIGSTORE_ID_TOKEN: {aud: "
    "sigstore}}`; anywhere else pass a token with --identity-token (or $SIGSTORE_IDENTITY_TOKEN)."
)
LONGEST_REASON = 300
"""Characters of what a library says about a failure."""
ISSUER_OIDS = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")
"""Extensions of a certificate that name the issuer of the identity: a DER string, and before 2023 the plain text."""


@dataclass(frozen=True)
class Signature:
    """A bundle, and the identity in its certificate."""

    bundle: bytes
    identity: str
    issuer: str


Sign = Callable[[bytes], Signature]


@dataclass(frozen=True)
class CheckedReport:
    """The result of verifying a report's bundle; `report` is None where it proves nothing, or cannot be read."""

    report: Report | None
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return all(check.holds is not False for check in self.checks)


def bundle_of(report: Path) -> Path:
    """Where the bundle of a report is, as other tools of Sigstore look for it too."""
    return report.with_name(f"{report.name}.sigstore.json")


def signer(token: str | None, trust_config: Path | None) -> Sign:
    """What signs a report, once it is known that an identity and a CA are there.

    `token` is an identity token or a file with one, and None asks the CI system. It is asked for again when the report
    is signed, because it lasts for minutes and an audit for longer.
    """
    _require("Keyless signing")
    from sigstore.sign import SigningContext

    config = _trust(trust_config, offline=False)
    try:
        context = SigningContext.from_trust_config(config)
    except Exception as error:  # of the library, and of what it reads the configuration with
        raise _unusable_trust(trust_config, error) from error
    _identity_token(token)
    return partial(_sign, config, context, token)


def _sign(config: ClientTrustConfig, context: SigningContext, token: str | None, report: bytes) -> Signature:
    """Signs the bytes of a report, and verifies the signature as anybody else will."""
    from sigstore.verify import Verifier, policy

    try:
        with context.signer(_identity_token(token)) as signing:
            bundle = signing.sign_artifact(report)
        identity, issuer = _signed_by(bundle.signing_certificate)
        expected = policy.Identity(identity=identity, issuer=issuer)
        Verifier(trusted_root=config.trusted_root).verify_artifact(report, bundle, expected)
    except ProblemError:
        raise
    except Exception as error:  # of four libraries; some of them are private
        raise problem(
            "sigstore-failed",
            503,
            f"The verdict stands, but the report could not be signed ({_reason(error)}).",
            "`sigstore sign report.json` signs the file that --json wrote, without another audit.",
        ) from error
    return Signature(bundle.to_json().encode(), identity, issuer)


def check(
    report: Path,
    bundle: Path | None,
    identity: str,
    issuer: str,
    files: dict[str, Path],
    *,
    trust_config: Path | None = None,
    offline: bool = False,
) -> CheckedReport:
    """Verifies that `identity` signed a report, and compares `files` (subject → path) with the digests in it.

    With `offline` the keys of Sigstore's public instance are those of its last use here, or those that came with the
    library; a `trust_config` never asks the network.
    """
    _require("Verifying a keyless signature")
    from sigstore.errors import VerificationError
    from sigstore.models import Bundle, InvalidBundle
    from sigstore.verify import Verifier, policy

    bundle = bundle or bundle_of(report)
    content, found = read_bytes(report), read_bytes(bundle)
    config = _trust(trust_config, offline=offline)
    try:
        opened = Bundle.from_json(found)
    except (InvalidBundle, ValueError, RecursionError) as error:
        return _proves_nothing(f"{bundle} is not a bundle of Sigstore, or was damaged ({_reason(error)}).")
    try:
        verifier = Verifier(trusted_root=config.trusted_root)
    except Exception as error:  # of the library, and of what it reads certificates with
        raise _unusable_trust(trust_config, error) from error
    if (signed := _digest(found)) not in (None, digest := sha256(content).hexdigest()):
        return _proves_nothing(f"{report} is not the report that was signed: its digest is {digest}, not {signed}.")
    try:
        verifier.verify_artifact(content, opened, policy.Identity(identity=identity, issuer=issuer))
    except VerificationError as error:
        return _proves_nothing(_not_verified(bundle, opened, identity, issuer, error))
    except Exception as error:  # of what reads certificates
        return _proves_nothing(f"{bundle} cannot be verified ({_reason(error)}).")
    checks = [
        Check(True, f"{report} was signed by {identity}, for whom {issuer} vouches."),
        Check(
            True,
            f"The signature is entry {_entry(found)['logIndex']} of the transparency log, made {_made(found, opened)}.",
        ),
    ]
    try:
        read = Report.model_validate_json(content)
    except ValidationError:
        told = f"{report} is no report of this version of Caveat, so its content is not shown."
        return CheckedReport(None, [*checks, Check(None, told)])
    return CheckedReport(read, [*checks, *compare(subjects(read), files, "report").values()])


def _require(subject: str) -> None:
    """Raises a `ProblemError` without the library, and keeps what it logs off the terminal."""
    require(subject, ("sigstore",), "sigstore")
    for name in ("sigstore", "tuf", "urllib3"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def _trust(path: Path | None, *, offline: bool) -> ClientTrustConfig:
    """Whom to trust and where to sign: what a file says, or Sigstore's public instance."""
    from sigstore.models import ClientTrustConfig

    if path is not None:
        try:
            return ClientTrustConfig.from_json(read_bytes(path).decode())
        except ValueError as error:
            raise _unusable_trust(path, error) from error
    try:
        return ClientTrustConfig.production(offline=offline)
    except Exception as error:  # of three libraries
        raise problem(
            "sigstore-away",
            503,
            f"The keys of Sigstore's public instance could not be fetched ({_reason(error)}).",
            "Check the network, or name a Sigstore of your own with --trust-config. `caveat verify --offline` takes "
            "the keys that are here.",
        ) from error


def _unusable_trust(path: Path | None, error: Exception) -> ProblemError:
    return problem(
        "unusable-trust-config",
        422,
        f"{path or 'The public instance of Sigstore'} is no configuration of a Sigstore ({_reason(error)}).",
        "--trust-config needs a ClientTrustConfig: JSON with trustedRoot and signingConfig, as its operator publishes.",
    )


def _identity_token(token: str | None) -> IdentityToken:
    """The identity to sign as, of a token, a file with one, or the CI system."""
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential

    if token is None:
        try:
            raw = detect_credential()
        except (IdentityError, OSError) as error:
            raise problem(
                "no-identity", 422, f"The CI system gives no identity token ({_reason(error)}).", WHO_SIGNS
            ) from error
        if raw is None:
            raise problem(
                "no-identity",
                422,
                "There is nobody to sign as: no CI system that gives identity tokens runs this.",
                WHO_SIGNS,
            )
    else:
        raw = token if re.fullmatch(r"[\w-]+(\.[\w-]+){2}", token) else _token_in(token)
    try:
        return IdentityToken(raw)
    except IdentityError as error:
        raise problem(
            "unusable-identity",
            422,
            f"The identity token cannot be used: {_reason(error.__cause__ or error)}.",
            "It has to be a JSON Web Token with `sub`, `iss` and the audience `sigstore` that has not expired; "
            f"{BY_OPTION} takes one, or a file with one.",
        ) from error


def _token_in(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        raise problem(
            "unusable-identity",
            422,
            f"{BY_OPTION} is neither a token nor a file that can be read.",
            "Give a JSON Web Token, or the path of a file with one.",
        ) from None


def _signed_by(certificate: Certificate) -> tuple[str, str]:
    """Identity and issuer in a certificate; raises a ValueError without either."""
    from cryptography import x509
    from cryptography.hazmat import asn1

    extensions = {one.oid.dotted_string: one.value for one in certificate.extensions}
    names = extensions.get(x509.OID_SUBJECT_ALTERNATIVE_NAME.dotted_string)
    identity = (
        next((str(name.value) for name in names), None) if isinstance(names, x509.SubjectAlternativeName) else None
    )
    issuer = next((extensions[oid] for oid in ISSUER_OIDS if oid in extensions), None)
    if identity is None or not isinstance(issuer, x509.UnrecognizedExtension):
        raise ValueError("the certificate does not say to whom it was issued, or who vouches for them")
    as_der = issuer.oid.dotted_string == ISSUER_OIDS[0]
    return identity, asn1.decode_der(str, issuer.value) if as_der else issuer.value.decode()


def _proves_nothing(sentence: str) -> CheckedReport:
    return CheckedReport(None, [Check(False, sentence)])


def _not_verified(bundle: Path, opened: Bundle, identity: str, issuer: str, error: Exception) -> str:
    """Why a bundle did not verify: somebody else signed, or the sentence of the library."""
    from sigstore.errors import CertValidationError

    try:
        signed_by = _signed_by(opened.signing_certificate)
    except ValueError as fault:
        return f"{bundle} proves nothing: {fault}."
    if isinstance(error, CertValidationError):
        return (
            f"{bundle} proves nothing: its certificate was not issued by a trusted CA, or was not valid when the "
            f"signature was made ({_reason(error)}). A Sigstore of your own is named by --trust-config."
        )
    if signed_by != (identity, issuer):
        return f"{bundle} names {signed_by[0]}, for whom {signed_by[1]} vouches, and not {identity} of {issuer}."
    return f"{bundle} proves nothing: {_reason(error)}."


def _entry(bundle: bytes) -> dict[str, Any]:
    """The log's entry in a bundle that was opened."""
    (entry,) = json.loads(bundle)["verificationMaterial"]["tlogEntries"]
    return dict(entry)


def _digest(bundle: bytes) -> str | None:
    """The SHA-256 that a bundle names of what was signed, None where it names none; the verifier compares it too."""
    try:
        return base64.b64decode(json.loads(bundle)["messageSignature"]["messageDigest"]["digest"]).hex()
    except (KeyError, TypeError, binascii.Error):
        return None


def _made(bundle: bytes, opened: Bundle) -> str:
    """When a signature was made: the log's own time, or the minutes for which the certificate was valid."""
    if integrated := int(_entry(bundle).get("integratedTime") or 0):
        return f"{datetime.fromtimestamp(integrated, UTC):%Y-%m-%d %H:%M:%S} UTC"
    first, last = opened.signing_certificate.not_valid_before_utc, opened.signing_certificate.not_valid_after_utc
    return f"between {first:%Y-%m-%d %H:%M:%S} and {last:%H:%M:%S} UTC"


def _reason(error: BaseException) -> str:
    """What a library says about a failure, in a part of a sentence."""
    import requests

    cause = error if isinstance(error, requests.RequestException) else error.__cause__
    if isinstance(cause, requests.RequestException):
        return _of_the_network(cause)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'/'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}".rstrip(".")
    said = str(error).strip() or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    if cause is not None and str(cause).strip():
        said += f": {str(cause).strip()}"
    return " ".join(said.split())[:LONGEST_REASON].rstrip(".")


def _of_the_network(error: Any) -> str:
    """Which server did not answer, or what it answered."""
    url = error.request.url.partition("?")[0] if error.request is not None else "the server"
    if error.response is None:
        return f"{url} cannot be reached"
    try:
        message = str(json.loads(error.response.text)["message"])
    except (ValueError, KeyError, TypeError):
        message = str(error.response.reason)
    return f"{url} answers {error.response.status_code}: {message}"[:LONGEST_REASON].rstrip(".")
