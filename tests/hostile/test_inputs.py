"""Hostile models and examples: each ends in its own problem or does no harm, and is never an internal error."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from caveat_spec.artifacts import NewExamples, NewModel
from caveat_spec.jobs import REQUESTS
from caveat_worker import inspection
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.jobs import forkserver
from tests.hostile import arrays, models, pictures, tables, texts
from tests.hostile.case import ACCEPTED, Case, Job
from tests.worker.live import Live, live, valkey

CASES = [case for kind in (models, pictures, arrays, tables, texts) for case in kind.CASES]
MEMORY = 1 << 30
PARTS = 12
"""The service gets the cases that need a sandbox, and one in `PARTS` of the others."""


def end_here(job: Job, folder: Path) -> str:
    """Runs a job in this process and returns the code of its problem."""
    blob = job.place(folder)
    request = REQUESTS[job.kind].model_validate(job.payload)
    try:
        if isinstance(request, NewModel):
            inspection.inspect_model(blob(request.blob))
        else:
            assert isinstance(request, NewExamples)
            inspection.inspect_examples(request.examples, blob)
    except InvalidInput as error:
        return error.code if error.sentence.strip() and error.remedy.strip() else "without a sentence"
    return ACCEPTED


@pytest.mark.filterwarnings("ignore")  # in the worker, too, warnings are no errors
@pytest.mark.parametrize("case", [case for case in CASES if not case.heavy], ids=lambda case: case.name)
def test_it_ends_in_its_own_problem(case: Case, tmp_path: Path) -> None:
    assert end_here(case.make(), tmp_path) in case.codes


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_service_survives(tmp_path: Path) -> None:
    """There is no 5xx, no lost worker, no child over its memory limit and no leftover file."""
    cases = [case for number, case in enumerate(CASES) if case.heavy or number % PARTS == 0]
    (tmp_path / "tmp").mkdir()
    settings = {
        "TMPDIR": str(tmp_path / "tmp"),
        "CAVEAT_MEMORY_BYTES": str(MEMORY),
        "CAVEAT_WALL_SECONDS": "20",
        "CAVEAT_CONCURRENCY": "2",
        "CAVEAT_THREADS": "1",
        "CAVEAT_LEASE_SECONDS": "30",
    }
    with (
        valkey(tmp_path / "valkey") as port,
        live(tmp_path, port) as there,
        there.worker(including="caveat_worker.jobs.tasks", **settings) as worker,
        Largest(forkserver.NAME) as largest,
    ):
        jobs = [(case, *_submit(there, case)) for case in cases]
        wrong = [sentence for case, kind, job in jobs if (sentence := _fault(there, case, kind, job))]
        assert worker.poll() is None
        assert there.client.get("/readyz").status_code == 200
    print(f"{len(cases)} cases through the service; the largest child had {largest.bytes >> 20} MiB")
    assert wrong == []
    assert 0 < largest.bytes < MEMORY + (512 << 20)  # code and mapped files count too
    assert [path.name for path in (tmp_path / "tmp").glob("caveat-*")] == [f"caveat-models-{os.geteuid()}"]
    assert not Path("/tmp/caveat-was-here").exists()


def _submit(there: Live, case: Case) -> tuple[str, str]:
    """Submits a case; returns the kind of its job and the job's id."""
    job = case.make()
    for digest, data in job.blobs.items():
        answer = there.client.put(f"/v1/blobs/{digest}", data=data)
        assert answer.status_code in (200, 201), answer.text
    kind = "models" if job.kind == "model" else "examples"
    answer = there.client.post(f"/v1/{kind}", json=job.payload)
    assert answer.status_code == 202, f"{case.name}: {answer.text}"
    return kind, answer.json["id"]


def _fault(there: Live, case: Case, kind: str, job: str) -> str | None:
    """Waits for a job; returns a sentence about its unexpected end, or None."""
    record = there.wait(job, kind=kind, seconds=1200)
    problem = record["problem"] or {"type": ACCEPTED, "status": 200}
    code = problem["type"].removeprefix("urn:caveat:problem:")
    expected = {*case.codes, *(["child-crashed"] if "out-of-memory" in case.codes else [])}  # some libraries abort
    if code not in expected or problem["status"] >= 500 or record["attempts"] != 1:
        return f"{case.name}: {code} ({problem['status']}) after {record['attempts']} attempts, not {expected}"
    return None


class Largest:
    """Measures the peak memory of processes of a name, by the kernel's count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Largest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            for name in os.listdir("/proc"):
                if name.isdigit():
                    self._look(Path("/proc", name))
            time.sleep(0.1)

    def _look(self, process: Path) -> None:
        try:
            if (process / "comm").read_text().strip() == self.name:
                lines = (process / "status").read_text().splitlines()
                peak = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
                self.bytes = max(self.bytes, int(peak.split()[1]) << 10)
        except (OSError, ValueError):
            return
