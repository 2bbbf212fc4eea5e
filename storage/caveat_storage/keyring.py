"""Ed25519 keys for attestations: created, written as PEM, and read from a text, a file or a folder of files.

Several keys can be in use during a rotation: each of them signs, and knowing one is enough to verify. A key's id is the
SHA-256 of its public half: `openssl pkey -pubin -in caveat.pub -outform DER | sha256sum`.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

T = TypeVar("T")

_PUBLIC = bytes.fromhex("302a300506032b6570032100")
"""The bytes before an ed25519 key in its SubjectPublicKeyInfo (RFC 8410)."""
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----(.+?)-----END \1-----", re.DOTALL)
_LARGEST = 1 << 16  # bytes read from a key file


class UnusableKeyError(Exception):
    """A source of keys has none that can be used; the message says why in one sentence."""

    remedy = "`caveat keygen` makes an ed25519 pair: NAME.key signs, NAME.pub checks."


class NothingSignsError(UnusableKeyError):
    """Signing is not possible because cryptography is not installed."""

    remedy = "pip install 'caveat[signing]'"


@dataclass(frozen=True)
class Pair:
    """A new key pair as PEM, and its id."""

    private: str
    public: str
    keyid: str


def make() -> Pair:
    """Creates an ed25519 key pair."""
    try:
        signer = CryptoSigner.generate_ed25519()
    except UnsupportedLibraryError as fault:
        raise NothingSignsError("This installation can verify signatures but not create them") from fault
    raw = bytes.fromhex(signer.public_key.keyval["public"])
    return Pair(signer.private_bytes.decode(), _public_pem(raw), _key(raw).keyid)


def pem_at(where: str) -> str:
    """Returns the PEM text that `where` is, or the contents of the file, or of all files in the folder, that it names.

    A folder is what Kubernetes mounts for a secret; it adds files of its own whose names begin with a dot. Errors never
    quote `where`, since it may be a key without its first line.
    """
    if "-----BEGIN" in where:
        return where
    place = Path(where)
    try:
        if place.is_dir():
            return "\n".join(map(_text, sorted(file for file in place.glob("[!.]*") if file.is_file())))
        return _text(place)
    except OSError as fault:
        raise UnusableKeyError(f"It is neither PEM nor a file or folder that can be read: {fault.strerror}") from None


def signers(pem: str) -> list[Signer]:
    """A signer for each private key in a text; public keys, as in a folder of key pairs, are skipped."""
    found = [_signer(block[0]) for block in _BLOCK.finditer(pem) if "PRIVATE" in block[1]]
    return _distinct({one.public_key.keyid: one for one in found}, "private key (PKCS#8, PEM)")


def public_keys(pem: str) -> list[SSlibKey]:
    """All public keys in a text."""
    found = [_key(_raw(block[2])) for block in _BLOCK.finditer(pem) if block[1] == "PUBLIC KEY"]
    return _distinct({key.keyid: key for key in found}, "public key (PEM)")


def _distinct(found: dict[str, T], what: str) -> list[T]:
    """The keys found, without repetition."""
    if not found:
        raise UnusableKeyError(f"There is no {what} in it")
    return list(found.values())


def _text(file: Path) -> str:
    with file.open("rb") as content:
        data = content.read(_LARGEST)
    return data.decode("utf-8", errors="replace")


def _signer(pem: str) -> Signer:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as fault:
        raise NothingSignsError("This installation can verify signatures but not create them") from fault
    try:
        private = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError) as fault:
        raise UnusableKeyError("A private key in it cannot be read; it must be PKCS#8 without a password") from fault
    if not isinstance(private, Ed25519PrivateKey):
        raise UnusableKeyError("A private key in it is not an ed25519 key")
    return CryptoSigner(private, _key(private.public_key().public_bytes_raw()))


def _raw(base64: str) -> bytes:
    """The 32 bytes of a public key."""
    try:
        der = b64decode("".join(base64.split()), validate=True)
    except ValueError:
        der = b""
    if not der.startswith(_PUBLIC) or len(der) != len(_PUBLIC) + 32:
        raise UnusableKeyError("A public key in it is not an ed25519 key")
    return der[len(_PUBLIC) :]


def _key(raw: bytes) -> SSlibKey:
    return SSlibKey(sha256(_PUBLIC + raw).hexdigest(), "ed25519", "ed25519", {"public": raw.hex()})


def _public_pem(raw: bytes) -> str:
    lines = "\n".join(wrap(b64encode(_PUBLIC + raw).decode(), 64))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"
