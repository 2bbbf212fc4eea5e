"""What a killed worker leaves on its scratch disk goes with the next one, and hostile jobs cannot prevent it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from caveat_storage.job_records import Database
from caveat_storage.temporary_folders import LOCK, delete_orphaned
from caveat_worker.jobs import reaper, shared_models, tasks
from caveat_worker.jobs.processes import children
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.shared_models import SharedModels, opened
from caveat_worker.jobs.supervisor import supervise
from tests.worker import hostile_to_folders
from tests.worker import stub_pipeline as stub
from tests.worker.hostile_to_folders import KINDS
from tests.worker.live import MODEL, digest, live, valkey
from tests.worker.test_supervisor import LIMITS, PROTECTED, ROOT, audit, fetch, warnings_of

SUPERVISOR = (
    "import sys\n"
    "from pathlib import Path\n"
    "from caveat_worker.jobs import shared_models\n"
    "from tests.worker import stub_pipeline as stub\n"
    "from tests.worker.test_supervisor import run\n"
    "shared_models.LEAST_BYTES = 1\n"
    "models = shared_models.opened(Path(sys.argv[1]), 'acme', 1 << 20)\n"
    "run(stub.SLEEP, models=models, on_progress=lambda *_: print('runs', flush=True))\n"
)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def folders(scratch: Path) -> list[Path]:
    return sorted(scratch.glob("caveat-tmp-*"))


@contextmanager
def supervisor(scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose job has its inputs and runs."""
    command = [sys.executable, "-c", SUPERVISOR, str(scratch)]
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        try:
            yield process
        finally:
            process.kill()


def until(reached: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@PROTECTED
def test_a_killed_supervisor_keeps_neither_people_nor_an_evicted_model(scratch: Path) -> None:
    with supervisor(scratch) as process:
        (folder,) = folders(scratch)
        (place,) = (folder / "inputs").glob(digest(MODEL).partition(":")[2])
        models = opened(scratch, "acme", 1 << 20)
        assert isinstance(models, SharedModels)
        assert place.stat().st_nlink == 2
        assert delete_orphaned(scratch) == 0
        process.kill()
        process.wait()
        models.evict(0)
        assert place.stat().st_nlink == 1, "the job's folder keeps the model's bytes"
        until(lambda: delete_orphaned(scratch) == 1 or not folders(scratch))
    assert folders(scratch) == []


@PROTECTED
@pytest.mark.parametrize("attack", KINDS, ids=lambda kind: kind.__name__)
def test_a_hostile_child_cannot_keep_its_folder(scratch: Path, attack: Callable[[Path], None]) -> None:
    assert hostile_to_folders.LOCK == LOCK
    (scratch / "outside").mkdir()
    (scratch / "outside" / "file").touch()
    ended = supervise(
        "audit", audit(list(KINDS).index(attack)), fetch, limits=LIMITS, pipeline="tests.worker.hostile_to_folders",
        on_progress=lambda *_: None, should_stop=lambda: False,
    )  # fmt: skip
    assert warnings_of(ended) == [KINDS[attack]]
    assert [path.name for path in scratch.iterdir()] == ["outside"]
    assert (scratch / "outside" / "file").exists()


@pytest.mark.parametrize("whole", [True, False], ids=["the worker", "the process of a job"])
def test_the_next_worker_deletes_what_a_killed_one_left(tmp_path: Path, whole: bool) -> None:
    scratch, log = tmp_path / "scratch", tmp_path / ("two.log" if whole else "one.log")
    scratch.mkdir()

    def is_logged() -> bool:
        return "deleted 1 temporary folders of processes that were killed" in log.read_text()

    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as there:
        with there.worker(TMPDIR=str(scratch)) as worker:
            job = there.submit(stub.SLEEP)
            there.wait(job, "running", stage="testing")
            (left,) = folders(scratch)
            if whole:
                os.killpg(worker.pid, signal.SIGKILL)
            else:
                os.kill(_pool_process(worker.pid), signal.SIGKILL)
                until(lambda: there.get(job)["attempts"] == 2 and left not in folders(scratch) and is_logged())
        assert there.client.post(f"/v1/audits/{job}:cancel").status_code in (200, 202)
        with there.worker("two", TMPDIR=str(scratch)):
            assert left not in folders(scratch)
            there.wait(job, "cancelled")
            until(lambda: folders(scratch) == [])
    assert is_logged()


def _pool_process(worker: int) -> int:
    """The process of a worker that runs jobs: the one that has a forkserver."""
    (found,) = [pid for pid in children(worker) if children(pid)]
    return found


def test_orphans_go_from_time_to_time_also_while_the_database_is_away(
    scratch: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()
    monkeypatch.setattr(reaper, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(reaper, "_gone", gone)
    monkeypatch.setattr(
        reaper, "settings", lambda: Settings(blobs_url=str(tmp_path_factory.mktemp("blobs")), gc_interval_hours=1)
    )
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('none') / 'not' / 'there.db'}")
    chores = threading.Thread(target=reaper._collect_until_gone, args=(database,))
    chores.start()
    try:
        for _ in range(2):
            with supervisor(scratch):
                assert len(folders(scratch)) == 1
            until(lambda: folders(scratch) == [])
    finally:
        gone.set()
        chores.join()
        database.close()


def test_a_job_that_finds_the_disk_full_makes_room(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "settings", lambda: Settings(shared_models_bytes=1 << 20))
    with supervisor(scratch):
        tasks.make_room("acme")
        assert len(folders(scratch)) == 1
    until(lambda: tasks.make_room("acme") is None and folders(scratch) == [])


def test_a_key_that_was_half_made_goes_after_a_day(scratch: Path) -> None:
    models = opened(scratch, "acme", 1 << 20)
    assert models is not None
    for name, hours in (("old", 25), ("new", 23)):
        (models.folder / f"{name}.incoming").touch()
        moment = time.time() - hours * 3600
        os.utime(models.folder / f"{name}.incoming", (moment, moment))
    reaper.forget_models(Settings())
    assert {path.name for path in models.folder.iterdir()} == {"new.incoming", "key"}
    assert shared_models.opened(scratch, "acme", 1 << 20) == models
