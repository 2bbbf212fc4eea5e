"""A pipeline whose behaviour depends on the seed of the audit; it replaces the real one in tests of the queue."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from caveat_spec.artifacts import ExampleSummary, Inspection, Stage
from caveat_spec.audit import Audit, Examples
from caveat_spec.maps import MapsFile
from caveat_spec.report import Engine, PlanSummary, Report, Verdict
from caveat_worker.engine.base.errors import InvalidInput

FINISH, REFUSE, CRASH, KILLED, SLEEP, EAT_MEMORY, SPIN, SNOOP, CALL_OUT, LIE, FAULT, FILL, CACHE, OTHER_MAPS = range(14)
MAPS = b"PK: a file of maps"


STAGES: tuple[Stage, ...] = ("loading", "reading", "planning", "collecting", "testing", "reporting")
ASLEEP = 60
"""Seconds that an audit sleeps."""
SLEEP_AT = {stage: 20 + position for position, stage in enumerate(STAGES)}
"""Seeds of audits that sleep at a stage."""


def run(
    audit: Audit,
    blob: Callable[[str], Path],
    progress: Callable[[Stage, float], None],
    *,
    threads: int,
    store: object,
    keep_maps: Callable[[bytes], object] | None = None,
) -> Report:
    progress("loading", 0.1)
    model = blob(audit.model).read_bytes()
    seed = audit.method.seed
    warnings = [f"{len(model)} bytes"]
    if seed == REFUSE:
        raise InvalidInput("unknown-layer", "Layer 'x' does not exist.", "Name one of: a, b.", "/layers/0")
    if seed == CRASH:
        raise RuntimeError("a secret path /srv/secret")
    if seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == FAULT:
        os.kill(os.getpid(), signal.SIGSEGV)
    for stage, sleepy in SLEEP_AT.items():
        if seed == sleepy:
            progress(stage, 0.5)
            time.sleep(ASLEEP)
    if seed == SLEEP:
        progress("testing", 0.5)
        time.sleep(ASLEEP)
    if seed == EAT_MEMORY:
        np.ones(1 << 30)
    if seed == SPIN:
        while True:
            pass
    if seed == SNOOP:
        warnings = [
            _tried(lambda: Path("/etc/passwd").read_text()),
            _tried(lambda: (blob(audit.model)).write_text("x")),
        ]
        warnings.append(" ".join(sorted(os.environ)))
    if seed == CALL_OUT:
        warnings = [_tried(lambda: socket.create_connection(("127.0.0.1", 6379), 1))]
    if seed == FILL:
        Path("../outputs/large").write_bytes(bytes(2 << 20))
    if seed == CACHE:
        os.mkdir("../outputs/cache")
        Path(f"../outputs/cache/{'0' * 64}.npy").write_bytes(bytes(1 << 17))
    if seed == LIE:
        os.symlink("/etc/passwd", "../outputs/result.json")
        os._exit(0)
    if seed >= 1000:
        time.sleep(seed / 1000)
    progress("reporting", 0.9)
    if keep_maps is None:
        return report(audit, warnings)
    keep_maps(MAPS[::-1] if seed == OTHER_MAPS else MAPS)
    maps = MapsFile(digest=f"sha256:{hashlib.sha256(MAPS).hexdigest()}", size=len(MAPS), figures=1)
    return report(audit, warnings).model_copy(update={"maps": maps})


def report(audit: Audit, warnings: list[str]) -> Report:
    """A report without results."""
    return Report(
        engine=Engine(caveat="0", versions={}, provider="none"),
        audit=audit,
        plan=PlanSummary(layers=[], targets=[], examples=[], gradient_checks=[]),
        tests=[], comparisons=[], rankings=[], matrices=[], warnings=warnings,
        verdict=Verdict(outcome="pass", lines=[]),
    )  # fmt: skip


def inspect_model(path: Path, output: str | None, index: int | None) -> Inspection:
    if path.read_bytes() != b"model":
        raise InvalidInput("not-onnx", "This is not an ONNX file.", "Export the model to ONNX.", "/blob")
    return Inspection(inputs=[], outputs=[], layers=[], target="", warnings=[])


def inspect_examples(examples: Examples, blob: Callable[[str], Path]) -> ExampleSummary:
    return ExampleSummary(kind="arrays", count=len(blob(examples.arrays).read_bytes()), shape=[1], names=[])


def _tried(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError as fault:
        return type(fault).__name__
    return "it worked"
