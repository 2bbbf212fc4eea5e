"""Verifies a folder of made pictures against the signed statement beside them: every file, and no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from caveat.attestation import Check, compare, read_bytes, usable_keys
from caveat_spec.attestation import PicturesStatement
from caveat_spec.base import digest_of_bytes
from caveat_storage import attestations
from caveat_storage.attestations import EXAMPLES, MADE, MODEL, PAGE, AttestationError

ENVELOPE = "visualised.dsse.json"
"""The signed statement's file, beside the pictures."""


@dataclass(frozen=True)
class CheckedPictures:
    """The result of verifying made pictures; `statement` is None where its signature is not valid."""

    statement: PicturesStatement | None
    checks: list[Check]

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return all(check.holds is not False for check in self.checks)


def check_pictures(envelope: Path, keys: Sequence[Path], files: dict[str, Path]) -> CheckedPictures:
    """Verifies an envelope against public keys, every file of its folder, and `files` (subject → path) elsewhere."""
    try:
        opened = attestations.open_pictures(read_bytes(envelope), usable_keys(keys))
    except AttestationError as fault:
        return CheckedPictures(None, [Check(False, f"{envelope} proves nothing. {fault}.")])
    checks = [Check(True, f"The signature of the key {keyid[:12]} is valid.") for keyid in opened.signed_by]
    checks += [
        Check(None, f"The key {keyid[:12]} signed as well; its public key was not given, so that was not checked.")
        for keyid in opened.unknown
    ]
    digests = {one.name: f"sha256:{one.digest.sha256}" for one in opened.statement.subject}
    inputs = {name: digest for name, digest in digests.items() if name == MODEL or name.startswith(EXAMPLES)}
    checks += compare(inputs, files, "statement", done="used").values()
    beside = {name: digest for name, digest in digests.items() if name not in inputs}
    checks += _compared(envelope, beside)
    if all(check.holds is not False for check in checks):
        checks.append(_restated(opened.statement, envelope.parent / MADE, digests[PAGE]))
    return CheckedPictures(opened.statement, checks)


def _compared(envelope: Path, signed: Mapping[str, str]) -> list[Check]:
    """Each signed file of the folder by its bytes, and each file that was not signed."""
    folder = envelope.parent
    names = {digest: name for name, digest in signed.items()}
    checks = []
    for name, expected in signed.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            checks.append(Check(False, f"{path} is missing: the statement names it, and it is not in the folder."))
            continue
        found = digest_of_bytes(read_bytes(path))
        if found == expected:
            checks.append(Check(True, f"{path} is as it was signed."))
        elif found in names:
            checks.append(Check(False, f"{path} was swapped: its bytes are those that were signed as {names[found]}."))
        else:
            checks.append(Check(False, f"{path} is not what was signed: its digest is {found}, not {expected}."))
    extra = sorted(path for path in folder.iterdir() if path.name not in signed and path != envelope)
    checks += [
        Check(False, f"{path} was not signed: the statement names every file of its folder, and not this one.")
        for path in extra
    ]
    return checks


def _restated(statement: PicturesStatement, made: Path, page: str) -> Check:
    """Whether the claims of the statement are those of `visualised.json`."""
    try:
        same = attestations.state_pictures(read_bytes(made), page, statement.predicate.run) == statement
    except ValidationError:
        return Check(None, f"{made} was written by another version of Caveat, so its content was not compared.")
    if same:
        return Check(True, f"Model, example sets, options, seed and versions are those of {made}.")
    return Check(False, f"The statement says something else than {made}: options, versions or digests differ.")
