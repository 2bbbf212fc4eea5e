"""Large models that jobs of a worker share: one file, verified for each job, that no job can change or lose."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.large import of_halves
from bench.sharing import audited
from caveat_storage.blobs import CorruptBytesError, Writable
from caveat_worker.jobs import reaper, shared_models
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.settings import Settings
from caveat_worker.jobs.shared_models import KEY_BYTES, LEAST_BYTES, SharedModels, opened
from caveat_worker.jobs.supervisor import End, Finished, Stopped, supervise
from tests.worker import old_kernel
from tests.worker import stub_pipeline as stub
from tests.worker.disks import can_mount, disk, in_a_file
from tests.worker.hostile_to_models import KINDS, LOOK
from tests.worker.live import MODEL, TABLE, Live, audit, digest, live, valkey
from tests.worker.test_supervisor import LIMITS, PROTECTED, ROOT, code_of, warnings_of

pytestmark = PROTECTED
MOST = 1 << 20


def shared_files(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob("caveat-models-*/*") if len(path.name) == 64]


@dataclass
class Scratch:
    """A scratch disk of its own, and the digests that jobs fetched."""

    folder: Path
    fetched: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def models(self, tenant: str = "acme", most: int = MOST) -> SharedModels:
        found = opened(self.folder, tenant, most)
        assert found is not None
        return found

    @property
    def kept(self) -> list[Path]:
        """The shared files."""
        return shared_files(self.folder)

    def fetch(self, name: str, file: Writable) -> None:
        with self.lock:
            self.fetched.append(name)
        file.write({digest(MODEL): MODEL, digest(TABLE): TABLE}[name])

    def run(self, seed: int = LOOK, *, models: SharedModels | None = None, **also: Any) -> End:
        settled: dict[str, Any] = {"on_progress": lambda *_: None, "should_stop": lambda: False, "fetch": self.fetch}
        return supervise(
            "audit", audit(seed), limits=LIMITS, models=models or self.models(),
            **{"pipeline": "tests.worker.hostile_to_models", **settled, **also},
        )  # fmt: skip

    def lay_out(self, models: SharedModels, content: bytes, place: Path) -> None:
        """A job's share of a model, without the job."""

        def copy() -> None:
            with place.open("xb") as file:
                file.write(content)
            place.chmod(0o400)

        models.lay_out(digest(content), place, copy, lambda: None)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """A scratch folder on which models of any size are shared."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(shared_models, "LEAST_BYTES", 1)
    return Scratch(tmp_path)


def test_a_later_job_reads_the_same_file_and_fetches_nothing(scratch: Scratch) -> None:
    (first,) = warnings_of(scratch.run())
    (kept,) = scratch.kept
    assert first == f"{kept.stat().st_ino} {len(MODEL)}"
    assert warnings_of(scratch.run()) == [first]
    assert scratch.fetched.count(digest(MODEL)) == 1
    assert scratch.fetched.count(digest(TABLE)) == 2, "examples are copied: people's data stay no longer than a job"
    assert kept.stat().st_nlink == 1, "jobs that ended left names"


def test_jobs_that_begin_at_once_fetch_a_model_once(scratch: Scratch) -> None:
    def slowly(name: str, file: Writable) -> None:
        scratch.fetch(name, file)
        time.sleep(0.5)

    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(scratch.run, fetch=slowly) for _ in range(3)]
        assert len({tuple(warnings_of(end.result())) for end in ends}) == 1
    assert scratch.fetched.count(digest(MODEL)) == 1


@pytest.mark.parametrize("attack", KINDS, ids=lambda kind: kind.__name__)
def test_a_hostile_child_changes_nothing_of_the_file(scratch: Scratch, attack: Callable[[Path], None]) -> None:
    scratch.run()
    (kept,) = scratch.kept
    before = kept.stat()
    assert warnings_of(scratch.run(list(KINDS).index(attack))) == [KINDS[attack]]
    after = kept.stat()
    assert (after.st_ino, after.st_mode, after.st_uid, after.st_nlink) == (
        before.st_ino, before.st_mode, before.st_uid, 1,
    )  # fmt: skip
    assert after.st_mtime > 1
    assert os.listxattr(kept) == []
    began = time.monotonic()
    assert warnings_of(scratch.run()) == [f"{before.st_ino} {len(MODEL)}"]
    assert time.monotonic() - began < 10
    assert scratch.fetched.count(digest(MODEL)) == 1
    assert kept.read_bytes() == MODEL


def test_bytes_that_changed_are_noticed_and_fetched_again(scratch: Scratch, caplog: pytest.LogCaptureFixture) -> None:
    """As a failing disk, or whoever else can write there, changes them."""
    scratch.run()
    (kept,) = scratch.kept
    kept.chmod(0o600)
    kept.write_bytes(MODEL[::-1])
    ended = scratch.run(stub.FINISH, pipeline="tests.worker.stub_pipeline")
    assert warnings_of(ended) == [f"{len(MODEL)} bytes"]
    assert scratch.fetched.count(digest(MODEL)) == 2
    assert "were damaged or changed" in caplog.text
    assert [path.read_bytes() for path in scratch.kept] == [MODEL]


def test_tenants_share_nothing(scratch: Scratch) -> None:
    """How fast a job begins would tell a tenant whether another one has the same model."""
    files = {warnings_of(scratch.run(models=scratch.models(tenant)))[0] for tenant in ("acme", "other")}
    assert len(files) == len(scratch.kept) == 2
    assert scratch.fetched.count(digest(MODEL)) == 2


def test_nobody_can_ask_for_a_file_by_its_name(scratch: Scratch, tmp_path: Path) -> None:
    """A child can learn whether a file of a name exists: Landlock does not hide that. So names need a key."""
    scratch.run()
    other = Scratch(tmp_path / "other")
    other.folder.mkdir()
    other.lay_out(other.models(), MODEL, tmp_path / "job")
    assert {path.name for path in scratch.kept}.isdisjoint(path.name for path in other.kept)
    key = other.models().folder / "key"
    key.write_bytes(b"")  # as after a loss of power
    assert len(other.models().key) == KEY_BYTES
    assert not list(key.parent.glob("*.incoming"))


def test_the_least_recently_used_goes_first_and_what_a_job_reads_last(scratch: Scratch, tmp_path: Path) -> None:
    models = scratch.models(most=250)
    first, second, third, fourth = (bytes([number]) * 100 for number in range(4))
    for number, content in enumerate((first, second, first)):  # the first one is used again
        scratch.lay_out(models, content, tmp_path / f"job-{number}")
        os.unlink(tmp_path / f"job-{number}")
        time.sleep(0.02)
    scratch.lay_out(models, third, tmp_path / "reads-third")
    assert sorted(path.read_bytes() for path in scratch.kept) == [first, third]
    time.sleep(0.02)
    os.utime(next(path for path in scratch.kept if path.read_bytes() == first))  # the third is now the oldest
    scratch.lay_out(models, fourth, tmp_path / "reads-fourth")
    assert sorted(path.read_bytes() for path in scratch.kept) == [third, fourth]
    models.evict(0)
    assert scratch.kept == []
    assert (tmp_path / "reads-third").read_bytes() == third, "a job lost its model"


def test_a_model_that_nobody_uses_is_deleted_after_a_day(scratch: Scratch) -> None:
    """So that an erased model does not stay on an idle worker."""
    scratch.run()
    scratch.run(models=scratch.models("other"))
    old, used = scratch.kept
    for path, hours in ((old, 25), (used, 23)):
        moment = time.time() - hours * 3600
        os.utime(path, (moment, moment))
    reaper.forget_models(Settings())
    assert scratch.kept == [used]


def test_an_eviction_takes_nothing_from_a_running_job(scratch: Scratch) -> None:
    def evicts(*_: object) -> None:
        scratch.models().evict(0)

    ended = scratch.run(1200, on_progress=evicts, pipeline="tests.worker.stub_pipeline")
    assert warnings_of(ended) == [f"{len(MODEL)} bytes"]
    assert scratch.kept == []


def test_small_models_and_those_that_do_not_fit_are_copied(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch.run(models=scratch.models(most=len(MODEL) - 1))
    monkeypatch.setattr(shared_models, "LEAST_BYTES", len(MODEL) + 1)
    scratch.run()
    assert scratch.kept == []
    assert scratch.fetched.count(digest(MODEL)) == 2


def test_damaged_bytes_of_the_store_of_blobs_are_never_kept(scratch: Scratch) -> None:
    def corrupt(name: str, file: Writable) -> None:
        file.write(MODEL[:3])
        raise CorruptBytesError(name, "sha256:other")

    assert code_of(scratch.run(fetch=corrupt)) == "corrupt-bytes"
    assert scratch.kept == []
    assert isinstance(scratch.run(), Finished)


def test_a_worker_that_is_killed_while_it_fetches_leaves_no_half_file_and_no_lock(scratch: Scratch) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from caveat_worker.jobs.shared_models import opened\n"
        "from tests.worker.live import MODEL, digest\n"
        "place = Path(sys.argv[1], 'half')\n"
        "def copy():\n"
        "    place.write_bytes(MODEL[:2])\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
        "opened(place.parent, 'acme', 1 << 20).lay_out(digest(MODEL), place, copy, lambda: None)\n"
    )
    command = [sys.executable, "-c", program, str(scratch.folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"half\n"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(scratch.run)
            time.sleep(0.5)
            assert not waiting.done()
            assert scratch.kept == []
            os.kill(worker.pid, signal.SIGKILL)
            assert isinstance(waiting.result(30), Finished)
    assert [path.read_bytes() for path in scratch.kept] == [MODEL]


def test_a_job_fetches_its_own_copy_where_another_takes_too_long(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_models, "LONGEST_WAIT", 0.2)
    may_end = threading.Event()

    def slowly(name: str, file: Writable) -> None:
        may_end.wait(30)
        scratch.fetch(name, file)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(scratch.run, fetch=slowly)
        time.sleep(0.3)
        assert isinstance(scratch.run(), Finished)
        may_end.set()
        assert isinstance(slow.result(), Finished)
    assert len(scratch.kept) == 1


def test_a_stop_is_heard_while_a_job_waits_for_another_and_while_it_verifies(scratch: Scratch) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slowly(name: str, file: Writable) -> None:
        begun.set()
        may_end.wait(30)
        scratch.fetch(name, file)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(scratch.run, fetch=slowly)
        assert begun.wait(30)
        tables = lambda name, file: file.write(TABLE) and None  # noqa: E731 - the model would be written as one
        assert scratch.run(should_stop=lambda: True, fetch=tables) == Stopped()
        may_end.set()
        assert isinstance(slow.result(), Finished)
    place = scratch.folder / "verified"
    with pytest.raises(KeyboardInterrupt):
        scratch.models().lay_out(digest(MODEL), place, lambda: None, lambda: signal.raise_signal(signal.SIGINT))
    assert len(scratch.kept) == 1


def test_a_folder_that_is_not_this_users_alone_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can make a folder in /tmp before the worker does."""
    place = tmp_path / f"caveat-models-{os.geteuid()}"
    place.mkdir(mode=0o755)
    assert opened(tmp_path, "acme", MOST) is None
    assert "does not belong to this user alone" in caplog.text
    place.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    place.symlink_to("theirs")
    assert opened(tmp_path, "acme", MOST) is None
    place.unlink()
    place.symlink_to("nowhere")
    assert opened(tmp_path, "acme", MOST) is None
    place.unlink()
    assert opened(tmp_path, "acme", MOST) is not None


@pytest.mark.skipif(not can_mount(), reason="only root can make disks")
def test_nothing_is_kept_in_memory(tmp_path: Path) -> None:
    with disk(tmp_path / "memory") as memory:
        assert opened(memory, "acme", MOST) is None
        assert list(memory.iterdir()) == []


@pytest.mark.parametrize("number", [old_kernel.SECCOMP, old_kernel.LANDLOCK])
def test_without_a_protection_each_job_has_a_copy(tmp_path: Path, number: int) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.worker import old_kernel\n"
        "if len(sys.argv) > 2:\n"
        "    old_kernel.forget(int(sys.argv[2]))\n"
        "from caveat_worker.jobs import shared_models\n"
        "from tests.worker.test_shared_models import Scratch, warnings_of\n"
        "shared_models.LEAST_BYTES = 1\n"
        "there = Scratch(Path(sys.argv[1]))\n"
        "inodes = {warnings_of(there.run())[0] for _ in range(2)}\n"
        "print(len(there.fetched), len(there.kept))\n"
    )
    for arguments, expected in (([], "3 1"), ([str(number)], "4 1")):  # the second finds what the first has kept
        command = [sys.executable, "-c", program, str(tmp_path), *arguments]
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout.strip()) == (0, expected), ran.stderr


@pytest.mark.skipif(not can_mount(), reason="only root can make disks")
def test_a_real_worker_shares_models_among_its_jobs_and_lets_them_go_for_room(tmp_path: Path) -> None:
    """Its scratch disk has room for a model that is kept or for another one, and not for both."""
    one, other = (bytes([number]) * (LEAST_BYTES + number) for number in (1, 2))
    with (
        in_a_file(tmp_path / "scratch", size=5 * LEAST_BYTES // 3) as scratch,
        valkey(tmp_path / "valkey") as port,
        live(tmp_path, port) as there,
        there.worker(TMPDIR=str(scratch), CAVEAT_CONCURRENCY="2"),
    ):
        for model in (one, other):
            assert there.client.put(f"/v1/blobs/{digest(model)}", data=model).status_code == 201
        running = [_submit(there, one, stub.SLEEP) for _ in range(2)]
        for job in running:
            there.wait(job, "running", stage="testing")
        (kept,) = shared_files(scratch)
        assert kept.stat().st_nlink == 1 + len(running)
        for job in running:
            assert there.client.post(f"/v1/audits/{job}:cancel").status_code == 202
            there.wait(job, "cancelled")
        assert kept.stat().st_nlink == 1

        ended = there.wait(_submit(there, other, stub.FINISH))
        assert (ended["state"], ended["attempts"]) == ("succeeded", 2), "the full disk was not told, or not mended"
        assert [path.stat().st_size for path in shared_files(scratch)] == [len(other)]


def _submit(there: Live, model: bytes, seed: int) -> str:
    response = there.client.post("/v1/audits", json=audit(seed) | {"model": digest(model)})
    assert response.status_code == 202, response.text
    return str(response.json["id"])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may see the memory of a confined process")
def test_children_of_a_worker_have_the_pages_of_a_large_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    question = of_halves(tmp_path / "decoder", {"concept": 20, "reference": 20, "targets": 20}, 2)
    asked = question.audit()
    size = question.blob(asked.model).stat().st_size

    def fetch(name: str, file: Writable) -> None:
        file.write(question.blob(name).read_bytes())

    found = {how: audited(asked, fetch, tmp_path, shared=how, limits=Limits(threads=1)) for how in (False, True)}
    assert found[False]["files"] > 1.9 * size
    assert size < found[True]["files"] < 1.2 * size
    assert found[False]["scratch"] - found[True]["scratch"] == pytest.approx(size, rel=0.1)
