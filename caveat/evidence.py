"""Evidence: keys made, reports signed here, and envelopes held against the files that they speak of."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from api_spec.attestation import Run, Statement
from caveat.pack import as_file, digest
from caveat.problems import ProblemError, problem
from vault import attest, keyring
from vault.attest import EXAMPLES, REPORT, EvidenceError
from vault.keyring import UnusableKeyError

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

SIGN_KEY = "--sign-key (or $CAVEAT_SIGNING_KEY)"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `holds` is None where there was nothing to compare with."""

    holds: bool | None
    sentence: str


@dataclass(frozen=True)
class Checked:
    """What came of an envelope; without a statement, its signature did not hold."""

    statement: Statement | None
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return all(check.holds is not False for check in self.checks)


def make_keys(name: Path) -> str:
    """Writes a new pair of keys, `NAME.key` and `NAME.pub`; returns their id."""
    private, public = (name.with_name(f"{name.name}.{kind}") for kind in ("key", "pub"))
    for file in (private, public):
        if file.exists():
            raise problem(
                "file-exists",
                422,
                f"{file} is there already; what it signed could not be checked any more.",
                "Give another name: caveat keygen NAME.",
            )
    with _usable("A key cannot be made"):
        pair = keyring.make()
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file_:
            file_.write(pair.private)
        public.write_text(pair.public)
    except OSError as error:
        raise problem(
            "unwritable-output", 422, f"{name}.key cannot be written: {error.strerror}.", "Name a folder of yours."
        ) from None
    return pair.keyid


def signers(key: str) -> list[Signer]:
    """The keys that a PEM text, a file or a folder holds."""
    with _usable(f"The key of {SIGN_KEY} cannot be used"):
        return keyring.signers(keyring.pem_at(key))


def here() -> str:
    """Where this runs: the address of a CI job, else the name of the machine."""
    told = os.environ
    if told.get("GITHUB_ACTIONS") == "true" and "GITHUB_RUN_ID" in told:
        return f"{told['GITHUB_SERVER_URL']}/{told['GITHUB_REPOSITORY']}/actions/runs/{told['GITHUB_RUN_ID']}"
    return told.get("CI_JOB_URL") or told.get("BUILD_URL") or socket.gethostname()


def sign(report: bytes, run: Run, baseline: str | None, keys: Sequence[Signer]) -> bytes:
    """The envelope around what can be stated of a report."""
    return attest.sign(attest.state(report, run, baseline), keys)


def report_of(envelope: bytes) -> str | None:
    """The digest of the report that an envelope is about, whoever signed it."""
    try:
        statement = attest.unverified(envelope)
    except EvidenceError as fault:
        raise problem(
            "not-caveat",
            502,
            f"The service's attestation cannot be read. {fault}.",
            "Check that the service has the version of this client.",
        ) from None
    return next((f"sha256:{one.digest.sha256}" for one in statement.subject if one.name == REPORT), None)


def check(envelope: Path, keys: Sequence[Path], files: dict[str, Path]) -> Checked:
    """Holds an envelope against public keys and against the files of its subjects, named as the statement does."""
    try:
        opened = attest.open_envelope(_bytes(envelope), usable_keys(keys))
    except EvidenceError as fault:
        return Checked(None, [Check(False, f"{envelope} proves nothing. {fault}.")])
    checks = [Check(True, f"The signature of the key {keyid[:12]} holds.") for keyid in opened.signed_by]
    checks += [
        Check(None, f"The key {keyid[:12]} signed too; it is not known here, so this says nothing.")
        for keyid in opened.unknown
    ]
    subjects = {one.name: f"sha256:{one.digest.sha256}" for one in opened.statement.subject}
    for name in files.keys() - subjects.keys():
        sets = [one.removeprefix(EXAMPLES) for one in subjects if one.startswith(EXAMPLES)]
        raise problem(
            "no-such-examples",
            422,
            f"The statement has no example set '{name.removeprefix(EXAMPLES)}'.",
            f"It has: {', '.join(sets) or 'none'}.",
        )
    compared = {name: _compared(name, wanted, files.get(name)) for name, wanted in subjects.items()}
    checks += compared.values()
    if REPORT in compared and compared[REPORT].holds:
        checks.append(_restated(opened.statement, files[REPORT]))
    return Checked(opened.statement, checks)


def usable_keys(keys: Sequence[Path]) -> list[Key]:
    """The public keys in these files and folders."""
    known: list[Key] = []
    for key in keys:
        with _usable(f"The public key {key} cannot be used"):
            known += keyring.public_keys(keyring.pem_at(str(key)))
    return known


def _compared(name: str, wanted: str, path: Path | None) -> Check:
    """Whether the file or folder at `path` has the digest that is wanted of a subject."""
    member = name.removeprefix(EXAMPLES)
    words = f"example set {member}" if name.startswith(EXAMPLES) else name
    if path is None:
        option = f"--examples {member}=PATH" if name.startswith(EXAMPLES) else f"--{name} PATH"
        return Check(None, f"The {words} was not compared; {option} does that.")
    with tempfile.TemporaryDirectory(prefix="caveat-") as scratch:
        try:
            found = digest(as_file(path, Path(scratch) / "packed.tar"))
        except OSError as error:
            raise _unreadable(path, error) from None
    meant = f"the {words} that was {'signed' if name == REPORT else 'audited'}"
    if found == wanted:
        return Check(True, f"{path} is {meant}.")
    return Check(False, f"{path} is not {meant}: it is {found}, not {wanted}.")


def _restated(statement: Statement, report: Path) -> Check:
    """Whether the statement says of its report what the report says of itself."""
    run, baseline = statement.predicate.run, statement.predicate.baseline
    try:
        same = attest.state(_bytes(report), run, baseline) == statement
    except ValidationError:
        return Check(None, f"{report} is of another version of Caveat, so its content was not compared.")
    if same:
        return Check(True, "Verdict, versions and digests are those of the report.")
    return Check(False, "Verdict, versions or digests are not those of the report: whoever signed it made them up.")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ProblemError:
    return problem(
        "unreadable-file", 422, f"{path} cannot be read: {error.strerror}.", "Name a file that you may read."
    )


@contextmanager
def _usable(what: str) -> Iterator[None]:
    """Turns a key that cannot be used into a problem."""
    try:
        yield
    except UnusableKeyError as fault:
        raise problem("unusable-key", 422, f"{what}. {fault}.", fault.remedy) from None
