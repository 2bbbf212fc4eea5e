"""Keyless signatures, end to end: the real library signs and verifies, at a Sigstore that stands in for the public one.

`sigstore_stand_in.py` says what it stands in for. The public instance was never reached from these tests.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from caveat import installation, keyless
from caveat.cli import cli
from caveat.problems import ProblemError
from caveat_reports.canonical import canonical
from tests.api_spec import handmade
from tests.client import sigstore_stand_in
from tests.client.conftest import ROOT
from tests.client.models import write_audit
from tests.client.sigstore_stand_in import Sigstore
from tests.client.test_attestation_page import inputs

PAGE = (ROOT / "docs" / "attestations.md").read_text()
GITHUB = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/our/models/.github/workflows/gate.yml@refs/heads/main"
SOMEONE = "someone@example.org"


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No CI system but the one that a test sets up, and no keys of an earlier use."""
    for name in (
        "GITHUB_ACTIONS",
        "GITLAB_CI",
        "BUILDKITE",
        "CIRCLECI",
        "SIGSTORE_IDENTITY_TOKEN",
        "GITHUB_STEP_SUMMARY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def sigstore() -> Iterator[Sigstore]:
    with sigstore_stand_in.running() as running:
        yield running


@pytest.fixture
def folder(sigstore: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configuration of the stand-in."""
    monkeypatch.chdir(tmp_path)
    Path("trust.json").write_text(sigstore.trust_config())
    return tmp_path


@pytest.fixture
def signed(sigstore: Sigstore, folder: Path) -> Path:
    """A report, and the bundle that somebody's signature of it made."""
    report = folder / "report.json"
    report.write_bytes(canonical(handmade.report(handmade.row())))
    sign = keyless.signer(sigstore.token(SOMEONE), Path("trust.json"))
    keyless.bundle_of(report).write_bytes(sign(report.read_bytes()).bundle)
    return report


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)


def told(result: Result) -> str:
    return " ".join(result.output.split())


def verify(sigstore: Sigstore, *more: str | Path, identity: str = SOMEONE, issuer: str = "") -> Result:
    named = ("--sigstore-identity", identity, "--sigstore-issuer", issuer or sigstore.url)
    return invoke("verify", "report.json", *named, "--trust-config", "trust.json", *more)


def in_a_job_of_github(sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-this-job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/token?job=1")


def test_a_gate_signs_as_its_job_and_says_how_to_verify_it(
    sigstore: Sigstore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the commands of the page, and what it quotes; only the trust in the stand-in is added."""
    section = PAGE.partition("## Without a key: Sigstore")[2].partition("\n## ")[0].replace(GITHUB, sigstore.url)
    to_sign, to_verify = (block.replace("\\\n", " ") for block in re.findall(r"```shell\n(.*?)```", section, re.S))
    (quoted,) = re.findall(r"```text\n(.*?)```", section, re.S)
    inputs(folder)
    in_a_job_of_github(sigstore, monkeypatch)
    trust = ("--trust-config", "trust.json")
    gate = invoke(*shlex.split(to_sign)[1:], "--local", *trust)
    assert gate.exit_code == 1, "this audit fails by its gate, and is signed as well\n" + gate.output
    assert sigstore.asked.count("/token?job=1&audience=sigstore") == 2, "before the audit, and when it signs"
    assert f"Signed as {WORKFLOW}: wrote report.json.sigstore.json" in told(gate)
    (said,) = re.findall(r"  (caveat verify .*)", gate.output)
    whole = shlex.split(to_verify)
    assert shlex.split(said) == [one for one in whole if one not in ("--model", "model.onnx")]
    done = invoke(*whole[1:], *trust, "--examples", "pool=pool.npy")
    assert done.exit_code == 0, done.output
    for line in quoted.splitlines():
        assert re.sub(r"20\d\d-.*", "", line) in done.output
    for sentence in (
        "✓ pool.npy is the example set pool that was audited.",
        "· The example set leaning was not compared; pass --examples leaning=PATH to compare it.",
        "The gate fails. ✗ first must not matter to yes: ",
    ):
        assert sentence in told(done)


def test_the_command_of_sigstore_finds_and_verifies_the_bundle(sigstore: Sigstore, signed: Path) -> None:
    program = Path(sys.executable).with_name("sigstore")
    named = ("--cert-identity", SOMEONE, "--cert-oidc-issuer", sigstore.url)
    command = [program, "--trust-config", "trust.json", "verify", "identity", *named, "report.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "OK: report.json" in done.stderr + done.stdout) == (0, True), done.stderr


def test_nothing_of_sigstore_is_imported_unless_asked() -> None:
    script = "import caveat.cli, caveat.gate, caveat.attestation, caveat.keyless, sys; print('sigstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


def test_verifying_asks_no_server(sigstore: Sigstore, signed: Path) -> None:
    before = list(sigstore.asked)
    assert verify(sigstore).exit_code == 0
    assert sigstore.asked == before


@pytest.mark.parametrize(
    ("identity", "issuer"), [("else@example.org", ""), (SOMEONE, "https://other.example"), (SOMEONE[:-1], "")]
)
def test_another_signer_is_named(sigstore: Sigstore, signed: Path, identity: str, issuer: str) -> None:
    done = verify(sigstore, identity=identity, issuer=issuer)
    assert done.exit_code == 1
    assert f"names {SOMEONE}, for whom {sigstore.url} vouches, and not {identity} of {issuer or sigstore.url}" in told(
        done
    )
    assert "was audited" not in done.output


def test_an_altered_report_is_told_by_its_digest(sigstore: Sigstore, signed: Path) -> None:
    signed.write_bytes(signed.read_bytes().replace(b"carton", b"cortan"))
    done = verify(sigstore)
    assert done.exit_code == 1
    assert "✗ report.json is not the report that was signed: its digest is" in told(done)
    assert "was audited" not in done.output


def test_an_altered_report_with_its_digest_in_the_bundle_is_told_too(sigstore: Sigstore, signed: Path) -> None:
    """The digest in a bundle only names what was signed; the signature and the log are what count."""
    signed.write_bytes(signed.read_bytes().replace(b"carton", b"cortan"))
    document = read(signed)
    document["messageSignature"]["messageDigest"]["digest"] = keyless.base64.b64encode(
        keyless.sha256(signed.read_bytes()).digest()
    ).decode()
    keyless.bundle_of(signed).write_text(json.dumps(document))
    done = verify(sigstore)
    assert done.exit_code == 1
    assert "proves nothing: Signature is invalid for input" in told(done)


def test_a_certificate_that_had_expired_when_it_signed_proves_nothing(sigstore: Sigstore, folder: Path) -> None:
    sigstore.late_by = timedelta(seconds=5)
    report = folder / "report.json"
    report.write_bytes(canonical(handmade.report(handmade.row())))
    with pytest.raises(ProblemError, match="could not be signed"):
        keyless.signer(sigstore.token(SOMEONE), Path("trust.json"))(report.read_bytes())
    keyless.bundle_of(report).write_text(library_signs(sigstore, report.read_bytes()))
    done = verify(sigstore)
    assert done.exit_code == 1
    assert "was not valid when the signature was made" in told(done)


def library_signs(sigstore: Sigstore, content: bytes) -> str:
    """A bundle as the library makes it, which does not verify what it has made."""
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.from_json(sigstore.trust_config()))
    with context.signer(IdentityToken(sigstore.token(SOMEONE))) as signing:
        bundle: str = signing.sign_artifact(content).to_json()
    return bundle


def test_a_sigstore_that_is_not_trusted_proves_nothing(sigstore: Sigstore, signed: Path) -> None:
    with sigstore_stand_in.running() as other:
        Path("trust.json").write_text(other.trust_config())
        done = verify(sigstore)
    assert done.exit_code == 1
    assert "was not issued by a trusted CA" in told(done)


def test_the_public_keys_that_came_with_the_library_do_not_trust_the_stand_in(sigstore: Sigstore, signed: Path) -> None:
    named = ("--sigstore-identity", SOMEONE, "--sigstore-issuer", sigstore.url)
    done = invoke("verify", "report.json", *named, "--offline")
    assert done.exit_code == 1
    assert "was not issued by a trusted CA" in told(done)


# ---- the other kind of log: Rekor's version 2 has no time of its own, so that timestamps date the signature


@pytest.fixture
def second() -> Iterator[Sigstore]:
    with sigstore_stand_in.running(rekor=2) as running:
        yield running


@pytest.fixture
def stamped(second: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report that was signed at a Sigstore of the second kind."""
    monkeypatch.chdir(tmp_path)
    Path("trust.json").write_text(second.trust_config())
    report = Path("report.json")
    report.write_bytes(canonical(handmade.report(handmade.row())))
    signature = keyless.signer(second.token(SOMEONE), Path("trust.json"))(report.read_bytes())
    keyless.bundle_of(report).write_bytes(signature.bundle)
    return report


def test_timestamps_date_a_signature_where_the_log_does_not(second: Sigstore, stamped: Path) -> None:
    assert second.asked == ["/api/v2/signingCert", "/timestamp", "/api/v2/log/entries"]
    done = verify(second)
    assert done.exit_code == 0, done.output
    assert f"✓ report.json was signed by {SOMEONE}" in told(done)
    assert re.search(r"entry 5 of the transparency log, made between 20\d\d-\S+ \S+ and \S+ UTC", told(done))


def test_a_timestamp_of_another_signature_proves_nothing(second: Sigstore, stamped: Path) -> None:
    whole, other = read(stamped), json.loads(library_signs(second, b"another report"))
    stamps = "timestampVerificationData"
    whole["verificationMaterial"][stamps] = other["verificationMaterial"][stamps]
    keyless.bundle_of(stamped).write_text(json.dumps(whole))
    done = verify(second)
    assert done.exit_code == 1
    assert "proves nothing: not enough sources of verified time" in told(done)


def test_a_bundle_that_lost_its_timestamp_is_no_bundle(second: Sigstore, stamped: Path) -> None:
    whole = read(stamped)
    del whole["verificationMaterial"]["timestampVerificationData"]
    keyless.bundle_of(stamped).write_text(json.dumps(whole))
    done = verify(second)
    assert done.exit_code == 1
    assert "is not a bundle of Sigstore, or was damaged" in told(done)


def test_an_authority_of_timestamps_that_is_away_is_told(second: Sigstore, stamped: Path) -> None:
    Path("trust.json").write_text(second.trust_config().replace(f"{second.url}/timestamp", "http://127.0.0.1:9/"))
    with pytest.raises(
        ProblemError, match=r"could not be signed .*must contain an inclusion promise or signed timestamp"
    ):
        keyless.signer(second.token(SOMEONE), Path("trust.json"))(b"{}")


def read(report: Path) -> Any:
    return json.loads(keyless.bundle_of(report).read_bytes())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a bundle of Sigstore, or was damaged"),
        (b"{}", "is not a bundle of Sigstore, or was damaged"),
        (b"[" * 100_000, "is not a bundle of Sigstore, or was damaged"),
        (b"\xff\xfe", "is not a bundle of Sigstore, or was damaged"),
    ],
)
def test_what_is_no_bundle_proves_nothing(sigstore: Sigstore, signed: Path, content: bytes, said: str) -> None:
    keyless.bundle_of(signed).write_bytes(content)
    done = verify(sigstore)
    assert done.exit_code == 1
    assert said in told(done)


@pytest.mark.parametrize(
    "path",
    [
        ("messageSignature", "signature"),
        ("verificationMaterial", "certificate", "rawBytes"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionPromise", "signedEntryTimestamp"),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "hashes", 0),
        ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "rootHash"),
        ("verificationMaterial", "tlogEntries", 0, "canonicalizedBody"),
    ],
)
def test_a_bundle_with_a_part_of_another_proves_nothing(
    sigstore: Sigstore, signed: Path, path: tuple[str | int, ...]
) -> None:
    ours, theirs = read(signed), json.loads(library_signs(sigstore, b"another report"))
    *parents, last = path
    for name in parents:
        ours, theirs = ours[name], theirs[name]
    whole = read(signed)
    place: Any = whole
    for name in parents:
        place = place[name]
    place[last] = theirs[last]
    assert ours[last] != theirs[last]
    keyless.bundle_of(signed).write_text(json.dumps(whole))
    done = verify(sigstore)
    assert done.exit_code == 1
    assert "✓" not in done.output


def test_no_flipped_bit_of_a_bundle_makes_another_statement(sigstore: Sigstore, signed: Path) -> None:
    bundle, chosen = keyless.bundle_of(signed).read_bytes(), random.Random(7)
    before = verify(sigstore).output
    rejected = 0
    for _ in range(150):
        changed = bytearray(bundle)
        changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
        keyless.bundle_of(signed).write_bytes(changed)
        done = verify(sigstore)
        assert done.exit_code == 1 or done.output == before
        rejected += done.exit_code
    assert rejected > 140


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["--bundle", "absent.json"], 2, "absent.json cannot be read: No such file"),
        (["--trust-config", "absent.json"], 2, "absent.json cannot be read: No such file"),
        (["--trust-config", "report.json"], 2, "report.json is no configuration of a Sigstore"),
        (["--model", "absent.onnx"], 2, "absent.onnx cannot be read"),
        (["--examples", "stripes=report.json"], 2, "The report has no example set 'stripes'"),
        (["--model", "trust.json"], 1, "✗ trust.json is not the model that was audited"),
        (["--key", "caveat.pub"], 2, "are of attestations"),
    ],
)
def test_what_cannot_be_looked_at_is_a_sentence(
    sigstore: Sigstore, signed: Path, arguments: list[str], exit_code: int, said: str
) -> None:
    done = verify(sigstore, *arguments)
    assert (done.exit_code, said in told(done)) == (exit_code, True), done.output


def test_a_file_that_is_no_report_of_this_version_is_still_signed(sigstore: Sigstore, signed: Path) -> None:
    signed.write_bytes(b'{"schema": "of tomorrow"}')
    keyless.bundle_of(signed).write_text(library_signs(sigstore, signed.read_bytes()))
    done = verify(sigstore)
    assert done.exit_code == 0
    assert "· report.json is no report of this version of Caveat, so its content is not shown." in told(done)


# ---- signing that is refused before the audit runs, and after it -----------------------------------------------------


def refused(*arguments: str | Path) -> Result:
    """A gate that asks for a signature and does not come to its audit, which is not there."""
    return invoke("gate", "absent.yaml", "--local", "--json", "report.json", "--sigstore", *arguments)


def test_nobody_to_sign_as_is_told_before_the_audit(folder: Path) -> None:
    done = refused("--trust-config", "trust.json")
    assert done.exit_code == 2
    assert "There is nobody to sign as" in told(done)
    assert "`permissions: {id-token: write}`" in told(done)
    assert "`id_tokens: {SIGSTORE_ID_TOKEN: {aud: sigstore}}`" in told(done)


@pytest.mark.parametrize("name", ["GITHUB_ACTIONS", "GITLAB_CI"])
def test_a_job_that_may_not_have_a_token_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "true")
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)
    done = refused("--trust-config", "trust.json")
    assert done.exit_code == 2
    assert "The CI system gives no identity token" in told(done)


def test_a_token_that_cannot_be_used_is_told_why(sigstore: Sigstore, folder: Path) -> None:
    expired = sigstore.token(SOMEONE, lasts=timedelta(seconds=-60))
    for token, why in (
        (expired, "Signature has expired"),
        (sigstore.token(SOMEONE, audience="else"), "Audience doesn't match"),
        ("absent.jwt", "neither a token nor a file that can be read"),
        ("a.b.c", "The identity token cannot be used"),
    ):
        done = refused("--trust-config", "trust.json", "--identity-token", token)
        assert (done.exit_code, why in told(done)) == (2, True), done.output
        assert expired not in done.output


def test_a_token_may_be_in_a_file(sigstore: Sigstore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes and other systems mount them, which replace a token before it expires."""
    Path("token.jwt").write_text(sigstore.token("https://first.example/a") + "\n")
    sign = keyless.signer("token.jwt", Path("trust.json"))
    Path("token.jwt").write_text(sigstore.token("https://second.example/b") + "\n")
    assert sign(b"{}").identity == "https://second.example/b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gate", "a.yaml", "--sigstore"], "needs --json to write it"),
        (["gate", "--report", "r.json", "--json", "o.json", "--sigstore"], "an audit that runs now"),
        (["gate", "a.yaml", "--trust-config", "t.json"], "--trust-config needs --sigstore"),
        (["verify", "r.json", "--sigstore-identity", "x"], "--sigstore-issuer"),
        (["verify", "r.json", "--sigstore-issuer", "x"], "need --sigstore-identity"),
        (["verify", "r.json"], "is verified with --sigstore-identity"),
    ],
)
def test_options_that_do_not_go_together_are_told(arguments: list[str], said: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, said in told(done)) == (2, True), done.output


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = installation.find_spec
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name == "sigstore" else real(name))
    for done in (refused(), invoke("verify", "r.json", "--sigstore-identity", "x", "--sigstore-issuer", "y")):
        assert done.exit_code == 3
        assert "pip install 'caveat[sigstore]'" in told(done)


def test_a_public_instance_that_cannot_be_reached_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sigstore.models.DEFAULT_TUF_URL", "http://127.0.0.1:9")
    done = refused("--identity-token", "a.b.c")
    assert done.exit_code == 3
    assert "The keys of Sigstore's public instance could not be fetched" in told(done)


@pytest.mark.parametrize(
    ("broken", "said"),
    [("refuses", "answers 403: This identity may not sign here"), ("broken_log", "invalid log entry: SET")],
)
def test_a_service_that_fails_when_it_signs_is_told(sigstore: Sigstore, folder: Path, broken: str, said: str) -> None:
    sign = keyless.signer(sigstore.token(SOMEONE), Path("trust.json"))
    setattr(sigstore, broken, True)
    with pytest.raises(ProblemError, match=said) as caught:
        sign(b"{}")
    assert caught.value.exit_code == 3


def test_a_service_that_is_away_is_told(folder: Path, sigstore: Sigstore) -> None:
    away = sigstore.trust_config().replace(sigstore.url, "http://127.0.0.1:9")
    Path("trust.json").write_text(away)
    with pytest.raises(ProblemError, match=r"127.0.0.1:9/api/v2/signingCert cannot be reached"):
        keyless.signer(sigstore.token(SOMEONE), Path("trust.json"))(b"{}")


@pytest.mark.parametrize(("must", "exit_code"), [("matter", 3), ("not_matter", 1)])
def test_a_pass_that_was_not_signed_does_not_pass(sigstore: Sigstore, folder: Path, must: str, exit_code: int) -> None:
    write_audit(folder, must)
    sigstore.refuses = True
    token = ("--identity-token", sigstore.token(SOMEONE), "--trust-config", "trust.json")
    done = invoke("gate", "audit.yaml", "--local", "--json", "report.json", "--sigstore", *token)
    assert done.exit_code == exit_code, done.output
    assert "The verdict stands, but the report could not be signed" in told(done)
    assert Path("report.json").exists()
    assert not Path("report.json.sigstore.json").exists()
