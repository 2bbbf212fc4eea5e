"""The log of a service: fetched, and held against keys, an earlier copy, and attestations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import Key

from api_spec.attestation import Statement
from caveat.client import Client
from caveat.evidence import Check, usable_keys
from caveat.outputs import write
from caveat.problems import problem
from vault import ledger
from vault.attest import REPORT
from vault.ledger import Account, BrokenError


def fetch(url: str | None, key: str | None, to: Path) -> Account:
    """Writes the log of the key's tenant, as the service has it, to a file; returns what it tells."""
    with Client(url, key) as client:
        lines = client.log()
    write(to, lines, "write")
    try:
        return ledger.account(lines.splitlines(keepends=True))
    except BrokenError as fault:
        raise problem(
            "broken-log",
            502,
            f"The log that the service gave is not as it was written. {fault}.",
            f"Keep {to}, and ask the operator who changed the database.",
        ) from None


def check(
    log: Path, keys: Sequence[Path], earlier: Path | None, statement: Statement | None
) -> tuple[Account | None, list[Check]]:
    """What a log tells, if nothing of it was changed, and everything that was looked at."""
    try:
        before = None if earlier is None else _account(earlier)
    except BrokenError as fault:
        return None, [Check(False, f"{earlier} is no unbroken log itself. {fault}.")]
    try:
        told = _account(log, usable_keys(keys), before)
    except BrokenError as fault:
        return None, [Check(False, f"{log} is not the log as it was written. {fault}.")]
    checks = [Check(True, f"No entry of the {told.length} was changed, left out, put in or moved.")]
    checks += [Check(True, f"The key {keyid[:12]} signed where the log ends.") for keyid in told.signed_by]
    if told.head is None:
        checks.append(Check(None, "No head was signed, so entries may have been cut off at the end."))
    elif not keys:
        checks.append(Check(None, "Who signed where the log ends was not looked at; --key does that."))
    if before is not None:
        checks.append(
            Check(True, f"The {before.length} entries of {earlier} are the first of it: nothing was rewritten.")
        )
    if statement is not None:
        checks.append(_mentioned(told, statement))
    return told, checks


def _mentioned(told: Account, statement: Statement) -> Check:
    """Whether the log has the report of an attestation as that of its audit."""
    audit = statement.predicate.run.audit
    if audit is None:
        return Check(None, "The attested audit ran without a service, so no log has it.")
    digest = next(f"sha256:{one.digest.sha256}" for one in statement.subject if one.name == REPORT)
    if (logged := told.reports.get(audit)) is None:
        return Check(False, f"The log has no report of the audit {audit}.")
    if logged != digest:
        return Check(False, f"The log has another report of the audit {audit}: {logged}.")
    return Check(True, f"The attested report is the one that the log has of the audit {audit}.")


def _account(log: Path, keys: Sequence[Key] = (), earlier: Account | None = None) -> Account:
    try:
        with log.open("rb") as lines:
            return ledger.account(lines, keys, earlier)
    except OSError as error:
        raise problem(
            "unreadable-file", 422, f"{log} cannot be read: {error.strerror}.", "Name a file that you may read."
        ) from None
