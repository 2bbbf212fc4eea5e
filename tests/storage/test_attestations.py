"""Signed documents can be verified, and every change to them is detected."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from string import ascii_letters, digits

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as Sealed

from caveat_reports.canonical import canonical
from caveat_spec.attestation import Envelope, Run, Statement
from caveat_storage import attestations, keyring
from caveat_storage.attestations import AttestationError
from caveat_storage.keyring import Pair, UnusableKeyError
from tests.api_spec import handmade

REPORT = canonical(handmade.report(handmade.row()))
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = Run(audit=None, where="here", started_at=MOMENT, finished_at=MOMENT)
OLD, NEW = keyring.make(), keyring.make()


def signed(*pairs: Pair, report: bytes = REPORT) -> bytes:
    signers = [one for pair in pairs for one in keyring.signers(pair.private)]
    return attestations.sign(attestations.state(report, RUN), signers)


ENVELOPE, SINGLE = signed(OLD, NEW), signed(OLD)
KEYS = keyring.public_keys(OLD.public + NEW.public)


def test_the_statement_names_what_was_audited() -> None:
    statement = json.loads(b64decode(json.loads(ENVELOPE)["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:caveat:predicate:audit:v1"
    assert statement["subject"] == [
        {"name": "model", "digest": {"sha256": "0" * 64}},
        {"name": "report", "digest": {"sha256": sha256(REPORT).hexdigest()}},
    ]
    assert statement["predicate"]["run"] == {
        "audit": None,
        "where": "here",
        "started_at": "2026-01-02T03:04:05Z",
        "finished_at": "2026-01-02T03:04:05Z",
    }


def test_any_one_of_the_keys_that_signed_is_enough_to_check() -> None:
    for pair, other in ((OLD, NEW), (NEW, OLD)):
        opened = attestations.open_envelope(ENVELOPE, keyring.public_keys(pair.public))
        assert (opened.signed_by, opened.unknown) == ([pair.keyid], [other.keyid])
    opened = attestations.open_envelope(ENVELOPE, KEYS)
    assert opened.signed_by == [OLD.keyid, NEW.keyid]
    assert opened.digest("report") == f"sha256:{sha256(REPORT).hexdigest()}"
    assert opened.digest("examples/none") is None


def test_a_signature_is_the_same_each_time() -> None:
    assert signed(OLD, NEW) == ENVELOPE


def test_a_stranger_is_named() -> None:
    with pytest.raises(AttestationError, match=f"signed with the key {OLD.keyid[:12]}, which is none of those"):
        attestations.open_envelope(signed(OLD), keyring.public_keys(NEW.public))


def test_a_stranger_who_takes_a_known_id_is_found_out() -> None:
    forged = json.loads(signed(NEW))
    forged["signatures"][0]["keyid"] = OLD.keyid
    with pytest.raises(AttestationError, match="does not hold"):
        attestations.open_envelope(rfc8785.dumps(forged), KEYS)


def test_other_implementations_read_the_envelope() -> None:
    """Compared with the library's own parser, and openssl's view of the key and the signature."""
    sealed = Sealed.from_dict(json.loads(ENVELOPE))
    assert set(sealed.verify(KEYS, 2)) == {OLD.keyid, NEW.keyid}


def test_openssl_agrees(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(OLD.public)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", tmp_path / "key.pub", "-outform", "DER"], capture_output=True, check=True
    )
    assert sha256(der.stdout).hexdigest() == OLD.keyid
    (tmp_path / "signed").write_bytes(Sealed.from_dict(json.loads(ENVELOPE)).pae())
    (tmp_path / "signature").write_bytes(b64decode(json.loads(ENVELOPE)["signatures"][0]["sig"]))
    checked = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "key.pub", "-rawin"]
    checked += ["-in", tmp_path / "signed", "-sigfile", tmp_path / "signature"]
    assert subprocess.run(checked, capture_output=True, check=False).returncode == 0


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(ENVELOPE) - 1), other=st.integers(1, 255))
def test_no_byte_can_be_changed(place: int, other: int) -> None:
    changed = bytearray(ENVELOPE)
    changed[place] ^= other
    assert is_seen(bytes(changed))


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, len(ENVELOPE)), more=st.binary(min_size=1, max_size=2))
def test_no_byte_can_be_added_or_removed(place: int, more: bytes) -> None:
    for changed in (ENVELOPE[:place] + more + ENVELOPE[place:], ENVELOPE[:place] + ENVELOPE[place + len(more) :]):
        assert changed == ENVELOPE or is_seen(changed)


def is_seen(changed: bytes) -> bool:
    """Whether a change is rejected or visible: a signature under a changed id counts as an unknown key's.

    A signature of a key that is not known here cannot be checked, no matter who changes it.
    """
    try:
        opened = attestations.open_envelope(changed, KEYS)
    except AttestationError:
        return True
    return opened.unknown != []


@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, len(SINGLE) - 1), other=st.integers(1, 255))
def test_where_one_key_signs_every_change_is_refused(place: int, other: int) -> None:
    changed = bytearray(SINGLE)
    changed[place] ^= other
    with pytest.raises(AttestationError):
        attestations.open_envelope(bytes(changed), KEYS)


def test_every_spare_bit_of_base64_is_looked_at() -> None:
    """64 bytes leave four unused bits in their last letter; flipping them decodes to the same signature."""
    sig = json.loads(ENVELOPE)["signatures"][0]["sig"]
    twin = next(letter for letter in ascii_letters + digits if same_but_for(sig, letter))
    changed = ENVELOPE.replace(sig.encode(), f"{sig[:-3]}{twin}==".encode())
    with pytest.raises(AttestationError, match="base64 is not canonical"):
        attestations.open_envelope(changed, KEYS)


def same_but_for(text: str, letter: str) -> bool:
    return letter != text[-3] and b64decode(f"{text[:-3]}{letter}==") == b64decode(text)


def test_what_was_signed_must_be_a_statement_of_ours() -> None:
    (signer,) = keyring.signers(OLD.private)
    sealed = Sealed(b'{"_type":"https://in-toto.io/Statement/v1"}', "application/vnd.in-toto+json", {})
    sealed.sign(signer)
    with pytest.raises(AttestationError, match="the statement at '/subject': Field required"):
        attestations.open_envelope(rfc8785.dumps(sealed.to_dict()), KEYS)


def test_the_documents_survive_the_journey() -> None:
    envelope = Envelope.model_validate_json(ENVELOPE, strict=True)
    statement = Statement.model_validate_json(b64decode(envelope.payload), strict=True)
    assert statement == attestations.state(REPORT, RUN)


class TestKeyring:
    def test_a_folder_is_what_kubernetes_makes_of_a_secret(self, tmp_path: Path) -> None:
        versions = tmp_path / "..2026_01_02"
        versions.mkdir()
        (tmp_path / "..data").symlink_to(versions)
        for name, pair in (("old.pem", OLD), ("new.pem", NEW)):
            (versions / name).write_text(pair.private)
            (tmp_path / name).symlink_to(Path("..data") / name)
        (tmp_path / "old.pub").write_text(OLD.public)
        found = keyring.signers(keyring.pem_at(str(tmp_path)))
        assert [one.public_key.keyid for one in found] == [NEW.keyid, OLD.keyid]
        assert [key.keyid for key in keyring.public_keys(keyring.pem_at(str(tmp_path)))] == [OLD.keyid]

    def test_a_text_stands_for_itself_and_a_key_is_taken_once(self) -> None:
        assert len(keyring.signers(keyring.pem_at(OLD.private + OLD.private))) == 1

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("nothing", "There is no private key"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "cannot be read"),
            (OLD.public, "There is no private key"),
        ],
        ids=["no key", "a broken key", "a public key"],
    )
    def test_what_is_no_private_key_is_said_to_be_none(self, text: str, sentence: str) -> None:
        with pytest.raises(UnusableKeyError, match=sentence):
            keyring.signers(text)

    def test_other_kinds_of_key_are_refused(self) -> None:
        made = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        with pytest.raises(UnusableKeyError, match="not an ed25519 key"):
            keyring.signers(made.stdout)
        public = b64encode(b"x" * 44).decode()
        for text in (public, "%%%", b64encode(b64decode(OLD.public.splitlines()[1])[:-1]).decode()):
            with pytest.raises(UnusableKeyError, match="not an ed25519 key"):
                keyring.public_keys(f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")

    def test_openssl_makes_keys_as_good(self) -> None:
        made = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, text=True, check=True
        )
        assert len(keyring.signers(made.stdout)) == 1

    @pytest.mark.parametrize(
        "where",
        ["absent.pem", OLD.private.splitlines()[1], OLD.private.splitlines()[1] * 100],
        ids=["an absent file", "a key without its first line", "a long text"],
    )
    def test_what_cannot_be_read_is_not_repeated(self, where: str) -> None:
        with pytest.raises(UnusableKeyError, match="neither PEM nor a file or folder that can be read: ") as caught:
            keyring.pem_at(where)
        assert where[:40] not in str(caught.value)


def test_an_auditor_needs_no_cryptography(tmp_path: Path) -> None:
    """The base installation verifies with securesystemslib's pure Python; signing names the missing package."""
    (tmp_path / "envelope").write_bytes(ENVELOPE)
    (tmp_path / "key.pub").write_text(OLD.public)
    script = (
        "import sys\n"
        "sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from caveat_storage import attestations, keyring\n"
        "here = Path(sys.argv[1])\n"
        "keys = keyring.public_keys(keyring.pem_at(str(here / 'key.pub')))\n"
        "envelope = (here / 'envelope').read_bytes()\n"
        "assert len(attestations.open_envelope(envelope, keys).signed_by) == 1\n"
        "import json, rfc8785\n"
        "changed = json.loads(envelope)\n"
        "changed['signatures'][0]['sig'] = changed['signatures'][1]['sig']\n"
        "try:\n"
        "    attestations.open_envelope(rfc8785.dumps(changed), keys)\n"
        "except attestations.AttestationError as fault:\n"
        "    print(fault)\n"
        "try:\n"
        "    keyring.make()\n"
        "except keyring.UnusableKeyError as fault:\n"
        "    print(fault.remedy)\n"
        "heavy = {'flask', 'celery', 'onnx', 'numpy', 'sqlalchemy', 'fsspec', 'pydantic_settings'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "does not hold" in done.stdout
    assert "caveat[signing]" in done.stdout
