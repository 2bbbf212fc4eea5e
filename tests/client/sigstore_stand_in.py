"""A Sigstore on this machine, to test with: an OIDC issuer, a CA (Fulcio), its CT log, and a transparency log (Rekor).

Rekor is there in its version 1, whose entries have a time that the log signs, and in its version 2, whose entries have
none, so that an authority of timestamps (RFC 3161, by OpenSSL) dates the signature.

It is a stand-in. It speaks the protocols of the real services and signs with real keys, so that the library which signs
and verifies is the real one and every byte is checked; but it keeps its log in memory, trusts nobody but itself, and
nothing here has ever reached the public instance.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

DIGEST = ec.ECDSA(hashes.SHA256())
SCT_LIST = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER_V1, ISSUER_V2 = ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
ORIGIN = "rekor.example - 42"
LASTS = timedelta(minutes=10)
STAMPS = """[tsa]
default_tsa = ours
[ours]
serial = {folder}/serial
signer_cert = {folder}/certificate
signer_key = {folder}/key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""
EARLIER_LEAVES = 5
"""Entries of others, so that a proof of inclusion has hashes."""


class Pair(NamedTuple):
    """A key of a service."""

    private: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def id(self) -> bytes:
        """SHA-256 of the public key, which is how logs are named (RFC 6962)."""
        return hashlib.sha256(self.der).digest()

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, DIGEST)


def make() -> Pair:
    return Pair(ec.generate_private_key(ec.SECP256R1()))


class Sigstore:
    """The keys and the log of the stand-in, and what a test can break."""

    def __init__(self, rekor: int = 1) -> None:
        self.rekor = rekor
        self.issuer, self.ca, self.ct, self.log = make(), make(), make(), make()
        self.root = self._root()
        self.stamps = make()
        self.stamp_certificate = self._stamp_certificate()
        self.leaves = [hashlib.sha256(b"\0earlier%d" % index).digest() for index in range(EARLIER_LEAVES)]
        self.url = ""
        self.late_by = timedelta(0)
        """How long after the certificate's end the log says that it took an entry."""
        self.refuses = False
        self.broken_log = False
        self.asked: list[str] = []

    # ---- the issuer of identities --------------------------------------------------------------------------------

    def token(self, subject: str, *, audience: str = "sigstore", lasts: timedelta = LASTS) -> str:
        """An identity token that the issuer signs."""
        now = datetime.now(UTC)
        claims = {"iss": self.url, "sub": subject, "aud": audience, "iat": now - LASTS, "exp": now + lasts}
        return jwt.encode(claims, self.issuer.private, algorithm="ES256")

    # ---- Fulcio: a certificate for whoever has a token, and a key --------------------------------------------------

    def certify(self, request: dict[str, Any], authorization: str) -> tuple[int, Any]:
        """`POST /api/v2/signingCert`."""
        if self.refuses:
            return 403, {"code": 7, "message": "This identity may not sign here."}
        claims = jwt.decode(
            authorization.removeprefix("Bearer "),
            self.issuer.private.public_key(),
            algorithms=["ES256"],
            audience="sigstore",
        )
        asked = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        assert asked.is_signature_valid, "the key is theirs"
        certificate = self._certificate(claims["sub"], asked.public_key())
        chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (certificate, self.root)]
        return 201, {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _certificate(self, subject: str, key: Any) -> x509.Certificate:
        begins = datetime.now(UTC).replace(microsecond=0)
        uri = x509.UniformResourceIdentifier(subject) if "://" in subject else x509.RFC822Name(subject)
        issuer = self.url.encode()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + LASTS)
            .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.private.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_V1, issuer), critical=False)
            .add_extension(x509.UnrecognizedExtension(ISSUER_V2, bytes([0x0C, len(issuer)]) + issuer), critical=False)
        )
        without = builder.sign(self.ca.private, hashes.SHA256())  # a precertificate without its poison
        timestamps = self._signed_timestamps(without.tbs_certificate_bytes)
        return builder.add_extension(
            x509.UnrecognizedExtension(SCT_LIST, timestamps), critical=False
        ).sign(self.ca.private, hashes.SHA256())  # fmt: skip

    def _signed_timestamps(self, tbs: bytes) -> bytes:
        """The promise of the CT log to take a certificate: a list of one (RFC 6962, 3.2 and 3.3)."""
        at = int(datetime.now(UTC).timestamp() * 1000)
        length = struct.pack("!I", len(tbs))[1:]
        signed = struct.pack("!BBQH", 0, 0, at, 1) + self.ca.id + length + tbs + struct.pack("!H", 0)
        signature = self.ct.sign(signed)
        one = struct.pack("!B32sQHBBH", 0, self.ct.id, at, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(one) + 2, len(one)) + one
        return b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else bytes([0x81, len(listed)])) + listed

    def _root(self) -> x509.Certificate:
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.ca.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.ca.private.public_key()), critical=False)
            .sign(self.ca.private, hashes.SHA256())
        )

    # ---- Rekor: an append-only log ---------------------------------------------------------------------------------

    def enter(self, proposed: dict[str, Any]) -> tuple[int, Any]:
        """`POST /api/v1/log/entries`: checks the signature of a `hashedrekord`, and appends it."""
        spec = proposed["spec"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(spec["signature"]["publicKey"]["content"]))
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        digest = bytes.fromhex(spec["data"]["hash"]["value"])
        key.verify(base64.b64decode(spec["signature"]["content"]), digest, ec.ECDSA(_prehashed()))
        body = rfc8785.dumps(proposed)
        index = self._append(body)
        at = int((certificate.not_valid_after_utc + self.late_by if self.late_by else datetime.now(UTC)).timestamp())
        encoded = base64.b64encode(body).decode()
        promised = {"body": encoded, "integratedTime": at, "logID": self.log.id.hex(), "logIndex": index}
        key_of_log = make() if self.broken_log else self.log
        return 201, {
            self.leaves[index].hex(): {
                **promised,
                "verification": {
                    "signedEntryTimestamp": base64.b64encode(key_of_log.sign(rfc8785.dumps(promised))).decode(),
                    "inclusionProof": {
                        "logIndex": index,
                        "treeSize": len(self.leaves),
                        "rootHash": tree_hash(self.leaves).hex(),
                        "hashes": [one.hex() for one in path(index, self.leaves)],
                        "checkpoint": self._checkpoint(),
                    },
                },
            }
        }

    def enter_in_version_2(self, asked: dict[str, Any]) -> tuple[int, Any]:
        """`POST /api/v2/log/entries`: the same, answered without a time once the entry is in the tree."""
        request = asked["hashedRekordRequestV002"]
        signature = request["signature"]
        certificate = x509.load_der_x509_certificate(
            base64.b64decode(signature["verifier"]["x509Certificate"]["rawBytes"])
        )
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(base64.b64decode(signature["content"]), base64.b64decode(request["digest"]), ec.ECDSA(_prehashed()))
        data = {"algorithm": "SHA2_256", "digest": request["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": signature}}
        body = rfc8785.dumps({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec})
        index = self._append(body)
        return 201, {
            "logIndex": str(index),
            "logId": {"keyId": base64.b64encode(self.log.id).decode()},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "inclusionProof": {
                "logIndex": str(index),
                "treeSize": str(len(self.leaves)),
                "rootHash": base64.b64encode(tree_hash(self.leaves)).decode(),
                "hashes": [base64.b64encode(one).decode() for one in path(index, self.leaves)],
                "checkpoint": {"envelope": self._checkpoint()},
            },
            "canonicalizedBody": base64.b64encode(body).decode(),
        }

    def _append(self, body: bytes) -> int:
        self.leaves.append(hashlib.sha256(b"\0" + body).digest())
        return len(self.leaves) - 1

    def _checkpoint(self) -> str:
        """The head of the tree as a signed note."""
        note = f"{ORIGIN}\n{len(self.leaves)}\n{base64.b64encode(tree_hash(self.leaves)).decode()}\n"
        signature = base64.b64encode(self.log.id[:4] + self.log.sign(note.encode())).decode()
        return f"{note}\n\N{EM DASH} rekor.example {signature}\n"

    # ---- timestamps (RFC 3161)

    def stamp(self, query: bytes) -> bytes:
        """`POST /timestamp`: OpenSSL's reply to a query."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "query").write_bytes(query)
            (folder / "serial").write_text("01\n")
            (folder / "certificate").write_bytes(self.stamp_certificate.public_bytes(serialization.Encoding.PEM))
            (folder / "key").write_bytes(
                self.stamps.private.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
            (folder / "config").write_text(STAMPS.format(folder=folder))
            command = ["openssl", "ts", "-reply", "-config", "config", "-queryfile", "query", "-out", "reply"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            return (folder / "reply").read_bytes()

    def _stamp_certificate(self) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in timestamps")]))
            .issuer_name(self.root.subject)
            .public_key(self.stamps.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.private.public_key()), critical=False
            )
            .sign(self.ca.private, hashes.SHA256())
        )

    # ---- whom to trust ---------------------------------------------------------------------------------------------

    def trust_config(self) -> str:
        """What the operator of a Sigstore publishes: a ClientTrustConfig."""
        valid = {"start": (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")}
        service = {"url": self.url, "majorApiVersion": 1, "validFor": valid, "operator": "stand-in"}
        root, stamps = (
            {"rawBytes": base64.b64encode(one.public_bytes(serialization.Encoding.DER)).decode()}
            for one in (self.root, self.stamp_certificate)
        )
        by_stamps = self.rekor == 2

        def log(key: Pair) -> dict[str, Any]:
            public = {"rawBytes": base64.b64encode(key.der).decode(), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {**public, "validFor": valid},
                "logId": {"keyId": base64.b64encode(key.id).decode()},
            }

        authority = {
            "subject": {"organization": "stand-in", "commonName": "stand-in"},
            "uri": self.url,
            "certChain": {"certificates": [root]},
            "validFor": valid,
        }
        config = {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self.ct)],
                "timestampAuthorities": [{**authority, "certChain": {"certificates": [stamps, root]}}] * by_stamps,
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [{**service, "majorApiVersion": self.rekor}],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [{**service, "url": f"{self.url}/timestamp"}] * by_stamps,
                "tsaConfig": {"selector": "ANY"},
            },
        }
        return json.dumps(config)


def _prehashed() -> Any:
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    return Prehashed(hashes.SHA256())


def tree_hash(leaves: list[bytes]) -> bytes:
    """The root of a Merkle tree over leaves that are hashed already (RFC 6962, 2.1)."""
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return hashlib.sha256(b"\1" + tree_hash(leaves[:split]) + tree_hash(leaves[split:])).digest()


def path(index: int, leaves: list[bytes]) -> list[bytes]:
    """The audit path of a leaf, from the leaf to the root (RFC 6962, 2.1.1)."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*path(index, leaves[:split]), tree_hash(leaves[split:])]
    return [*path(index - split, leaves[split:]), tree_hash(leaves[:split])]


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


class _Handler(BaseHTTPRequestHandler):
    """All services at one address."""

    sigstore: Sigstore

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.sigstore.asked.append(self.path)
        if self.path == "/timestamp":
            self._send(200, "application/timestamp-reply", self.sigstore.stamp(content))
            return
        body = json.loads(content)
        if self.path == "/api/v2/signingCert":
            self._answer(*self.sigstore.certify(body, self.headers["Authorization"]))
        elif self.path == "/api/v1/log/entries":
            self._answer(*self.sigstore.enter(body))
        elif self.path == "/api/v2/log/entries":
            self._answer(*self.sigstore.enter_in_version_2(body))
        else:
            self._answer(404, {"code": 404, "message": "There is no such page."})

    def do_GET(self) -> None:
        """GitHub's endpoint for the identity token of a job."""
        self.sigstore.asked.append(self.path)
        known = self.headers["Authorization"] == "bearer of-this-job" and self.path.endswith("audience=sigstore")
        token = self.sigstore.token("https://github.com/our/models/.github/workflows/gate.yml@refs/heads/main")
        self._answer(*((200, {"value": token}) if known else (403, {"message": "Not this job's."})))

    def _answer(self, status: int, document: Any) -> None:
        self._send(status, "application/json", json.dumps(document).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def running(rekor: int = 1) -> Iterator[Sigstore]:
    """The stand-in, at a free port of this machine, with this version of Rekor."""
    sigstore = Sigstore(rekor)
    handler = type("Handler", (_Handler,), {"sigstore": sigstore})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        sigstore.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield sigstore
        finally:
            server.shutdown()
            thread.join()
