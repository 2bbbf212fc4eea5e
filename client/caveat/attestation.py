"""Attestations: makes keys, signs reports, and verifies envelopes against the files that they name."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from caveat.pack import addressed
from caveat.problems import ProblemError, problem
from caveat_spec.attestation import Run, Statement
from caveat_storage import attestations, keyring
from caveat_storage.attestations import EXAMPLES, REPORT, AttestationError
from caveat_storage.keyring import UnusableKeyError

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

SIGN_KEY = "--sign-key (or $CAVEAT_SIGNING_KEY)"


@dataclass(frozen=True)
class Check:
    """The result of one check; `holds` is None where there was nothing to compare with."""

    holds: bool | None
    sentence: str


@dataclass(frozen=True)
class Checked:
    """The result of verifying an envelope; `statement` is None where its signature is not valid."""

    statement: Statement | None
    checks: list[Check]
    signed_by: tuple[str, ...] = ()
    """Ids of the keys whose signature is valid."""

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return all(check.holds is not False for check in self.checks)


def make_keys(name: Path) -> str:
    """Writes a new pair of keys, `NAME.key` and `NAME.pub`; returns the key id."""
    private, public = (name.with_name(f"{name.name}.{kind}") for kind in ("key", "pub"))
    for file in (private, public):
        if file.exists():
            raise problem(
                "file-exists",
                422,
                f"{file} exists already; if it were replaced, what it signed could no longer be verified.",
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
            "unwritable-output",
            422,
            f"{name}.key cannot be written: {error.strerror}.",
            "Name a folder that you may write to.",
        ) from None
    return pair.keyid


def signers(key: str) -> list[Signer]:
    """The private keys in a PEM text, a file or a folder."""
    with _usable(f"The key of {SIGN_KEY} cannot be used"):
        return keyring.signers(keyring.pem_at(key))


def location() -> str:
    """Where this process runs: the URL of a CI job, otherwise the host's name."""
    environment = os.environ
    if environment.get("GITHUB_ACTIONS") == "true" and "GITHUB_RUN_ID" in environment:
        server, repository, run = (environment[f"GITHUB_{name}"] for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
        return f"{server}/{repository}/actions/runs/{run}"
    return environment.get("CI_JOB_URL") or environment.get("BUILD_URL") or socket.gethostname()


def sign(report: bytes, run: Run, baseline: str | None, keys: Sequence[Signer]) -> bytes:
    """Signs the statement about a report; returns the envelope."""
    return attestations.sign(attestations.state(report, run, baseline), keys)


def report_of(envelope: bytes) -> str | None:
    """The digest of the report that an envelope names, without checking its signature."""
    try:
        statement = attestations.unverified(envelope)
    except AttestationError as fault:
        raise problem(
            "not-caveat",
            502,
            f"The service's attestation cannot be read. {fault}.",
            "Check that service and client are of the same version.",
        ) from None
    return next((f"sha256:{one.digest.sha256}" for one in statement.subject if one.name == REPORT), None)


def check(envelope: Path, keys: Sequence[Path], files: dict[str, Path]) -> Checked:
    """Verifies an envelope against public keys, and its subjects against `files` (subject → path)."""
    try:
        opened = attestations.open_envelope(read_bytes(envelope), usable_keys(keys))
    except AttestationError as fault:
        return Checked(None, [Check(False, f"{envelope} proves nothing. {fault}.")])
    checks = [Check(True, f"The signature of the key {keyid[:12]} is valid.") for keyid in opened.signed_by]
    checks += [
        Check(
            None,
            f"The key {keyid[:12]} signed as well; its public key was not given, so that signature was not checked.",
        )
        for keyid in opened.unknown
    ]
    compared = compare(
        {one.name: f"sha256:{one.digest.sha256}" for one in opened.statement.subject}, files, "statement"
    )
    checks += compared.values()
    if REPORT in compared and compared[REPORT].holds:
        checks.append(_restated(opened.statement, files[REPORT]))
    return Checked(opened.statement, checks, tuple(opened.signed_by))


def compare(subjects: dict[str, str], files: dict[str, Path], document: str, done: str = "audited") -> dict[str, Check]:
    """Compares `files` (subject → path) with the digests of the subjects that a document names.

    `done` says in sentences what was done with them.
    """
    for name in files.keys() - subjects.keys():
        sets = [one.removeprefix(EXAMPLES) for one in subjects if one.startswith(EXAMPLES)]
        raise problem(
            "no-such-examples",
            422,
            f"The {document} has no example set '{name.removeprefix(EXAMPLES)}'.",
            f"Its example sets are: {', '.join(sets) or 'none'}.",
        )
    return {name: _compared(name, expected, files.get(name), done) for name, expected in subjects.items()}


def usable_keys(keys: Sequence[Path]) -> list[Key]:
    """The public keys in files and folders; raises a `ProblemError` where one cannot be used."""
    known: list[Key] = []
    for key in keys:
        with _usable(f"The public key {key} cannot be used"):
            known += keyring.public_keys(keyring.pem_at(str(key)))
    return known


def _compared(name: str, expected: str, path: Path | None, done: str) -> Check:
    """Whether the file or folder at `path` has the digest of a subject."""
    member = name.removeprefix(EXAMPLES)
    words = f"example set {member}" if name.startswith(EXAMPLES) else name
    if path is None:
        option = f"--examples {member}=PATH" if name.startswith(EXAMPLES) else f"--{name} PATH"
        return Check(None, f"The {words} was not compared; pass {option} to compare it.")
    try:
        _, found = addressed(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    subject = f"the {words} that was {'signed' if name == REPORT else done}"
    if found == expected:
        return Check(True, f"{path} is {subject}.")
    return Check(False, f"{path} is not {subject}: its digest is {found}, not {expected}.")


def _restated(statement: Statement, report: Path) -> Check:
    """Whether verdict, versions and digests of the statement are those of the report."""
    run, baseline = statement.predicate.run, statement.predicate.baseline
    try:
        same = attestations.state(read_bytes(report), run, baseline) == statement
    except ValidationError:
        return Check(None, f"{report} was written by another version of Caveat, so its content was not compared.")
    if same:
        return Check(True, "Verdict, versions and digests match the report.")
    return Check(False, "Verdict, versions or digests do not match the report: the signer stated something else.")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; raises a `ProblemError` where it cannot be read."""
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
    """Raises an unusable key as a `ProblemError`."""
    try:
        yield
    except UnusableKeyError as fault:
        raise problem("unusable-key", 422, f"{what}. {fault}.", fault.remedy) from None
