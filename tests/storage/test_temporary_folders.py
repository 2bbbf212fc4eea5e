"""Temporary folders of processes that were killed are deleted; those of living ones, and other people's, are not."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from caveat_storage import temporary_folders
from caveat_storage.temporary_folders import LOCK, UNLOCKED, delete_orphaned, temporary_folder
from tests.worker.disks import can_mount, disk, full, read_only

ROOT = Path(__file__).parents[2]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
DISKS = pytest.mark.skipif(not can_mount(), reason="only root can make disks")
NOBODY = 65534
HOLDER = (
    "import os, subprocess, sys, time\n"
    "from pathlib import Path\n"
    "from caveat_storage.temporary_folders import temporary_folder\n"
    "{become}\n"
    "with temporary_folder(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'people.csv').write_text('income')\n"
    "    {also}\n"
    "    print(folder, flush=True)\n"
    "    time.sleep(60)\n"
)


def become(user: int | None) -> str:
    """What a program says behind its imports to be another user, who may have no way to this interpreter."""
    return "pass" if user is None else f"os.setgroups([]); os.setgid({user}); os.setuid({user})"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just begun."""
    monkeypatch.setattr(temporary_folders, "_searched", set())
    monkeypatch.setattr(temporary_folders, "_told", set())


@contextmanager
def holder(place: Path, also: str = "pass", user: int | None = None) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A real process that holds a folder, and the folder."""
    command = [sys.executable, "-c", HOLDER.format(also=also, become=become(user)), str(place)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def killed(place: Path) -> Path:
    """A folder whose process was killed."""
    with holder(place) as (_, folder):
        pass
    assert folder.joinpath("people.csv").exists()
    return folder


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_goes_at_its_end_and_with_an_exception(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "a").mkdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_living_ones_hold_stays(tmp_path: Path) -> None:
    with holder(tmp_path) as (first, its), holder(tmp_path) as (_, other), temporary_folder(tmp_path) as ours:
        assert delete_orphaned(tmp_path) == 0
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert delete_orphaned(tmp_path) == 1
        assert sorted(tmp_path.iterdir()) == sorted([other, ours])
        assert not its.exists()
        assert (other / "people.csv").read_text() == "income"
    assert delete_orphaned(tmp_path) == 1


def test_the_first_folder_of_a_process_makes_room(tmp_path: Path) -> None:
    left = killed(tmp_path)
    with temporary_folder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not left.exists()


@pytest.mark.parametrize(
    "also",
    ["subprocess.Popen(['sleep', '60'], close_fds=False)", "os.fork() or time.sleep(60)"],
    ids=["started", "forked"],
)
def test_a_process_that_its_holder_started_does_not_hold_it(tmp_path: Path, also: str) -> None:
    with holder(tmp_path, also) as (process, folder):
        assert delete_orphaned(tmp_path) == 0
        process.send_signal(signal.SIGKILL)  # the other one lives on
        process.wait()
        deadline = time.monotonic() + 10
        while not delete_orphaned(tmp_path):  # it may have been forked a moment ago
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not folder.exists()
        os.killpg(process.pid, 0)


def test_a_forked_process_that_ends_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    also = "if os.fork() == 0: sys.exit()\n    os.wait()"
    with holder(tmp_path, also) as (_, folder):
        assert (folder / "people.csv").exists()
        assert delete_orphaned(tmp_path) == 0


@AS_ROOT
def test_other_users_folders_are_left_alone() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o1777)
        with holder(place, user=NOBODY) as (_, theirs):
            pass
        assert delete_orphaned(place) == 0
        assert (theirs / "people.csv").exists()
        ours = killed(place)
        program = (
            "import os, sys; from pathlib import Path\n"
            "from caveat_storage.temporary_folders import delete_orphaned\n"
            f"{become(NOBODY)}\n"
            "print(delete_orphaned(Path(sys.argv[1])))\n"
        )
        command = [sys.executable, "-c", program, name]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert (ran.stdout, ran.stderr) == ("1\n", "")
        assert list(place.iterdir()) == [ours]


def test_other_things_of_such_names_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"caveat-tmp-{number:012x}" for number in range(4)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).touch()
    (tmp_path / names[0]).symlink_to(elsewhere)
    (tmp_path / names[1]).write_text("a file")
    (tmp_path / names[2]).mkdir()
    (tmp_path / names[2] / "somebody's").touch()
    (tmp_path / names[3]).mkdir()
    os.mkfifo(tmp_path / names[3] / LOCK)
    (tmp_path / "caveat-tmp-notes").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        assert delete_orphaned(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert len(told(caplog)) == 2
    assert "Delete it by hand" in told(caplog)[0]


def nested(folder: Path) -> None:
    """What a hostile job could leave: folders deeper than descriptors and the stack, without rights, and links out."""
    here = os.open(folder, os.O_RDONLY)
    for level in range(1100):
        if level % 500 == 0:
            os.symlink(folder.parent / "outside", "folder", dir_fd=here)
            os.symlink("/etc/passwd", "file", dir_fd=here)
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    for number in range(3):
        (folder / f"closed-{number}" / "inner" / "inmost").mkdir(parents=True)
        (folder / f"closed-{number}" / "inner" / "file").touch(0)
        (folder / f"closed-{number}" / "inner" / "inmost").chmod(0)
        (folder / f"closed-{number}" / "inner").chmod(0)
        (folder / f"closed-{number}").chmod(0o500)
    os.mkfifo(folder / "pipe")
    os.link(folder.parent / "outside" / "linked", folder / "linked")


@pytest.mark.parametrize("user", [None, pytest.param(NOBODY, marks=AS_ROOT)])
def test_what_a_hostile_job_left_goes_and_nothing_beyond_it(user: int | None) -> None:
    """Both at the end and of a process that was killed, also without the rights of root."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o777)
        program = (
            "import os, sys; from pathlib import Path\n"
            "from tests.storage.test_temporary_folders import nested\n"
            "from caveat_storage.temporary_folders import delete_orphaned, temporary_folder\n"
            f"{become(user)}\n"
            "place = Path(sys.argv[1])\n"
            "(place / 'outside').mkdir()\n"
            "(place / 'outside' / 'linked').write_text('here')\n"
            "with temporary_folder(place) as folder:\n"
            "    nested(folder)\n"
            "print(os.listdir(place))\n"
            "if os.fork() == 0:\n"
            "    with temporary_folder(place) as folder:\n"
            "        nested(folder)\n"
            "        os._exit(0)\n"
            "os.wait()\n"
            "print(len(os.listdir(place)), delete_orphaned(place), os.listdir(place))\n"
        )
        command = [sys.executable, "-c", program, name]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ran.stdout.splitlines() == ["['outside']", "2 1 ['outside']"], ran.stderr
        assert (place / "outside" / "linked").read_text() == "here"
        assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("late", ["in the folder", "deeper"])
def test_a_job_that_still_writes_for_a_moment_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, late: str
) -> None:
    """The process of a job is killed a moment after its supervisor."""
    left, list_names = killed(tmp_path), os.listdir
    (left / "outputs").mkdir()
    place = left if late == "in the folder" else left / "outputs"

    def listed(folder: int) -> list[str]:
        names = list_names(folder)
        if os.path.samestat(os.fstat(folder), place.stat()):
            (place / "late").mkdir()
        return names

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "listdir", listed)
        assert delete_orphaned(tmp_path) == 0
    assert (place / "late").exists()
    assert told(caplog) == []
    assert delete_orphaned(tmp_path) == 1


def test_a_folder_in_the_moment_before_its_lock_is_made_again(tmp_path: Path) -> None:
    """Another process takes the empty folder for an orphan, deletes it with its fresh lock, or has that lock."""
    flock, open_file = fcntl.flock, os.open
    waiting = ["no lock yet", "not locked yet", "locked by another"]

    def opened(path: str, flags: int, *arguments: int, **also: int) -> int:
        if flags & os.O_CREAT and waiting[:1] == ["no lock yet"]:
            waiting.pop(0)
            assert delete_orphaned(tmp_path) == 1
        return open_file(path, flags, *arguments, **also)

    def locked(descriptor: int, how: int) -> None:
        now = waiting.pop(0) if waiting else None
        if now == "not locked yet":
            patched.setattr(fcntl, "flock", flock)
            assert delete_orphaned(tmp_path) == 1
            patched.setattr(fcntl, "flock", locked)
        if now == "locked by another":
            raise BlockingIOError
        flock(descriptor, how)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(temporary_folders, "_searched", {tmp_path})
        patched.setattr(os, "open", opened)
        patched.setattr(fcntl, "flock", locked)
        with temporary_folder(tmp_path) as folder:
            assert waiting == []
            assert delete_orphaned(tmp_path) == 0
            assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_lost_to_others_that_look_all_the_time(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from caveat_storage.temporary_folders import delete_orphaned\n"
        "while not Path(sys.argv[1], 'enough').exists():\n"
        "    delete_orphaned(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    lost: list[Path] = []

    def make() -> None:
        for _ in range(400):
            with temporary_folder(tmp_path) as folder:
                (folder / "file").touch()
                if not (folder / "file").exists():
                    lost.append(folder)

    lookers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    makers = [threading.Thread(target=make) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    (tmp_path / "enough").touch()
    assert [looker.communicate()[1] for looker in lookers] == ["", ""]
    assert lost == []
    assert [path.name for path in tmp_path.iterdir()] == ["enough"]


@AS_ROOT
def test_what_cannot_be_deleted_is_told_once_and_the_rest_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with holder(tmp_path) as (_, stuck), holder(tmp_path) as (_, left):
        pass
    if subprocess.run(["chattr", "+i", str(stuck / "people.csv")], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable files")
    (stuck / "model").write_bytes(b"model")
    try:
        assert [delete_orphaned(tmp_path) for _ in range(3)] == [1, 0, 0]
        assert not left.exists()
        assert sorted(path.name for path in stuck.iterdir()) == [LOCK, "people.csv"]
        (sentence,) = told(caplog)
        assert sentence == (
            f"{stuck} holds what a job left and cannot be deleted (Operation not permitted). Delete it by hand once no "
            "process uses it."
        )
    finally:
        subprocess.run(["chattr", "-i", str(stuck / "people.csv")], check=True)
    assert delete_orphaned(tmp_path) == 1


@AS_ROOT
def test_a_job_whose_folder_cannot_be_deleted_has_its_result_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "file").touch()
        if subprocess.run(["chattr", "+i", str(folder / "file")], capture_output=True, check=False).returncode:
            pytest.skip("this file system has no immutable files")
    subprocess.run(["chattr", "-i", str(folder / "file")], check=True)
    assert len(told(caplog)) == 1
    assert delete_orphaned(tmp_path) == 1, "the lock was not released"


@DISKS
def test_another_file_system_in_a_folder_is_left_alone(tmp_path: Path) -> None:
    left = killed(tmp_path)
    with disk(left / "mounted") as mounted:
        (mounted / "file").touch()
        assert delete_orphaned(tmp_path) == 0
        assert (mounted / "file").exists()
    assert delete_orphaned(tmp_path) == 1


@DISKS
def test_a_read_only_disk_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    left = killed(place)
    with read_only(place):
        assert [delete_orphaned(place) for _ in range(2)] == [0, 0]
        with pytest.raises(OSError, match="Read-only"), temporary_folder(place):
            pass
    assert told(caplog) == [f"{left} holds what a job left and cannot be deleted (Read-only file system). Delete it by "
                            "hand once no process uses it."]  # fmt: skip
    assert delete_orphaned(place) == 1


@DISKS
def test_a_full_disk_is_emptied_and_takes_no_half_folder(tmp_path: Path) -> None:
    with disk(tmp_path / "scratch", size="1m") as place:
        killed(place)
        with full(place):
            assert delete_orphaned(place) == 1
        with full(place):
            with pytest.raises(OSError, match="No space") as raised, temporary_folder(place):
                pass
            assert raised.value.errno == errno.ENOSPC
            assert [path.name for path in place.iterdir()] == ["ballast"]


def test_a_place_that_is_gone_is_no_fault_of_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert delete_orphaned(tmp_path / "gone") == 0
    assert told(caplog) == [f"{tmp_path / 'gone'} cannot be searched for what killed processes left (No such file or "
                            "directory)."]  # fmt: skip
    with pytest.raises(FileNotFoundError), temporary_folder(tmp_path / "gone"):
        pass


def test_without_locks_nothing_is_taken_for_an_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refuses)
        with temporary_folder(tmp_path), temporary_folder(tmp_path) as folder:
            patched.undo()  # as after the server of locks came back
            assert (folder / UNLOCKED).exists()
            assert delete_orphaned(tmp_path) == 0
            assert (folder / UNLOCKED).exists()
    assert list(tmp_path.iterdir()) == []
    assert [sentence for sentence in told(caplog) if "has no locks" in sentence] == told(caplog)
    assert len(told(caplog)) == 1


def test_a_folder_that_somebody_else_deletes_is_no_error(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        shutil.rmtree(folder)
    assert list(tmp_path.iterdir()) == []


def test_every_temporary_folder_is_made_here() -> None:
    """The other place is in a job's own folder."""
    packages = ("api_spec", "storage", "telemetry", "reports", "service", "worker", "client")
    making = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"mkdtemp|TemporaryDirectory\(|mkstemp|NamedTemporaryFile", path.read_text())
    }
    assert making == {"storage/caveat_storage/temporary_folders.py", "worker/caveat_worker/array_stores.py"}
