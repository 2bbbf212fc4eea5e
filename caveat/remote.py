"""An audit on a server: what it lacks is uploaded, the audit started, followed, and cancelled on Ctrl-C."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from stamina.instrumentation import set_on_retry_hooks

from api_spec.artifacts import Inspection, NewModel
from caveat.auditfile import Resolved
from caveat.client import Client
from caveat.problems import ProblemError, problem
from caveat.terminal import Watch


def run_there(url: str, key: str | None, resolved: Resolved, watch: Watch) -> tuple[bytes, str]:
    """The canonical report of an audit that ran on the service at `url`, and the audit's id there."""
    _tell_of_retries(watch)
    with Client(url, key) as client:
        for name, file in resolved.blobs.items():
            client.put(file, name, watch)
        record = client.start(resolved.audit)
        try:
            record = client.wait(record.id, watch)
        except KeyboardInterrupt:
            with suppress(ProblemError), Client(url, key, patience=3.0) as hurried:
                hurried.cancel(record.id)
            raise
        report = client.report_bytes(record.id)
        if record.report_digest not in (None, f"sha256:{sha256(report).hexdigest()}"):
            raise problem(
                "changed-report",
                502,
                f"The report of {record.id} is not the one that the service recorded.",
                "Something between here and the service changes what it sends; reach it directly.",
            )
        return report, record.id


def fetch_attestation(url: str, key: str | None, audit: str) -> bytes:
    """What the service at `url` signs about an audit."""
    with Client(url, key) as client:
        return client.attestation(audit)


def inspect_there(
    url: str, key: str | None, model: Path, output: str | None, index: int | None, watch: Watch
) -> Inspection:
    """What the service at `url` finds in a model."""
    _tell_of_retries(watch)
    with Client(url, key) as client:
        blob = client.put(model, watch=watch)
        inspection = client.register_model(NewModel(blob=blob, output=output, index=index), watch).inspection
        assert inspection is not None, "a model that succeeded has been inspected"
        return inspection


def _tell_of_retries(watch: Watch) -> None:
    """Shows that the service is waited for; for this process, which is the command."""
    set_on_retry_hooks([lambda _: watch("waiting for the service", 0.0)])
