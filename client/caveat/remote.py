"""Audits and inspections on a service: upload what it lacks, start, wait, and cancel on Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from stamina.instrumentation import set_on_retry_hooks

from caveat.auditfile import Resolved
from caveat.client import Client
from caveat.problems import ProblemError, problem
from caveat.progress import ProgressCallback
from caveat_spec.artifacts import Inspection, NewModel
from caveat_spec.base import digest_of_bytes


def run_audit(
    url: str,
    key: str | None,
    resolved: Resolved,
    on_progress: ProgressCallback,
    *,
    keep_maps: Callable[[bytes], None] | None = None,
) -> tuple[bytes, str]:
    """Runs an audit on the service at `url`; returns its canonical report and its id there.

    `keep_maps` gets the file of maps that belongs to the report.
    """
    _report_retries(on_progress)
    with Client(url, key) as client:
        for name, file in resolved.blobs.items():
            client.put(file, name, on_progress)
        record = client.start(resolved.audit)
        try:
            record = client.wait(record.id, on_progress)
        except KeyboardInterrupt:
            with suppress(ProblemError), Client(url, key, retry_for=3.0) as impatient:
                impatient.cancel(record.id)
            raise
        report = client.report_bytes(record.id)
        _check_unchanged("report", record.id, report, record.report_digest)
        if keep_maps is not None:
            maps = client.maps(record.id)
            _check_unchanged("maps", record.id, maps, record.maps_digest)
            keep_maps(maps)
        return report, record.id


def _check_unchanged(what: str, audit: str, content: bytes, recorded: str | None) -> None:
    """Raises a `ProblemError` where bytes from a service do not have the digest that it recorded for an audit."""
    if recorded not in (None, digest_of_bytes(content)):
        raise problem(
            "changed-report",
            502,
            f"The {what} of {audit} {'have' if what == 'maps' else 'has'} another digest than the service recorded.",
            "A proxy between here and the service changes its responses; connect to the service directly.",
        )


def fetch_attestation(url: str, key: str | None, audit: str) -> bytes:
    """The attestation of an audit, signed by the service at `url`."""
    with Client(url, key) as client:
        return client.attestation(audit)


def inspect_model(
    url: str,
    key: str | None,
    model: Path,
    output: str | None,
    index: int | None,
    constants: Mapping[str, float],
    on_progress: ProgressCallback,
) -> Inspection:
    """Inspects a model on the service at `url`."""
    _report_retries(on_progress)
    with Client(url, key) as client:
        blob = client.put(model, on_progress=on_progress)
        new = NewModel(blob=blob, output=output, index=index, constants=dict(constants))
        inspection = client.register_model(new, on_progress).inspection
        assert inspection is not None, "a model whose registration succeeded has an inspection"
        return inspection


def _report_retries(on_progress: ProgressCallback) -> None:
    """Shows each retry as progress; the hook is global, and this process is the command's own."""
    set_on_retry_hooks([lambda _: on_progress("waiting for the service", 0.0)])
