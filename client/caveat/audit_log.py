"""The audit log of a service: fetches it, and verifies it against keys, an earlier copy and an attestation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import Key

from caveat.attestation import Check, usable_keys
from caveat.client import Client
from caveat.outputs import write
from caveat.problems import problem
from caveat_spec.attestation import Statement
from caveat_storage import hash_chain
from caveat_storage.attestations import REPORT
from caveat_storage.hash_chain import Account, BrokenError


def fetch(url: str | None, key: str | None, to: Path) -> Account:
    """Writes the audit log of the key's tenant to a file; returns its summary."""
    with Client(url, key) as client:
        lines = client.audit_log()
    write(to, lines, "write")
    try:
        return hash_chain.account(lines.splitlines(keepends=True))
    except BrokenError as fault:
        raise problem(
            "broken-log",
            502,
            f"The audit log that the service sent has been changed. {fault}.",
            f"Keep {to}, and ask the operator of the service who changed the database.",
        ) from None


def check(
    log: Path, keys: Sequence[Path], earlier: Path | None, statement: Statement | None
) -> tuple[Account | None, list[Check]]:
    """Verifies an audit log; returns its summary (None where it is broken) and every check."""
    try:
        before = None if earlier is None else _account(earlier)
    except BrokenError as fault:
        return None, [Check(False, f"{earlier} is itself not an intact audit log. {fault}.")]
    try:
        account = _account(log, usable_keys(keys), before)
    except BrokenError as fault:
        return None, [Check(False, f"{log} is not an intact audit log. {fault}.")]
    checks = [Check(True, f"None of the {account.length} entries was changed, removed, inserted or moved.")]
    checks += [Check(True, f"The key {keyid[:12]} signed the end of the log.") for keyid in account.signed_by]
    if account.head is None:
        checks.append(Check(None, "The end of the log is not signed, so entries may be missing there."))
    elif not keys:
        checks.append(Check(None, "The signature at the end of the log was not checked; pass --key to check it."))
    if before is not None:
        checks.append(
            Check(True, f"The log begins with the {before.length} entries of {earlier}: nothing was rewritten.")
        )
    if statement is not None:
        checks.append(_mentioned(account, statement))
    return account, checks


def _mentioned(account: Account, statement: Statement) -> Check:
    """Whether the log names the attested report as the report of its audit."""
    audit = statement.predicate.run.audit
    if audit is None:
        return Check(None, "The attested audit did not run on a service, so no audit log has it.")
    digest = next(f"sha256:{one.digest.sha256}" for one in statement.subject if one.name == REPORT)
    if (logged := account.reports.get(audit)) is None:
        return Check(False, f"The log has no report for the audit {audit}.")
    if logged != digest:
        return Check(False, f"The log has a different report for the audit {audit}: {logged}.")
    return Check(True, f"The log has the attested report for the audit {audit}.")


def _account(log: Path, keys: Sequence[Key] = (), earlier: Account | None = None) -> Account:
    try:
        with log.open("rb") as lines:
            return hash_chain.account(lines, keys, earlier)
    except OSError as error:
        raise problem(
            "unreadable-file", 422, f"{log} cannot be read: {error.strerror}.", "Name a file that you may read."
        ) from None
