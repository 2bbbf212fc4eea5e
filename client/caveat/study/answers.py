"""The file of served answers: one line each, on the disk before anybody is told that it is kept."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

from caveat.problems import problem
from caveat.study.folder import StudyFolder
from caveat.study.ratings import Ratings, read_ratings
from caveat_reports.study.table import rating_row, rows
from caveat_spec.study import COLUMNS, RATINGS, Answer

Kept = Literal["new", "same", "other"]
"""What came of an answer: it is kept now, it was kept before, or another one was."""


class Answers:
    """The answers of a study's raters, of whom each has one for a task; safe to use from many threads."""

    def __init__(self, folder: StudyFolder) -> None:
        """Opens the file for this process alone; raises a `ProblemError` where another one has it."""
        self._folder, self._lock = folder, threading.Lock()
        with _faults(folder.answers):
            self._file = os.open(folder.answers, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock_file(self._file, folder.answers)
            with _faults(folder.answers):
                self._mend()
            self._known = Ratings()
            read_ratings(folder.answers, folder.study, self._known)
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process have the file."""
        with self._lock:
            os.close(self._file)

    def of(self, rater: int) -> dict[int, Answer]:
        """Number of a task → a rater's answer to it."""
        with self._lock:
            return {number: answer for (of, number), answer in self._known.answers.items() if of == rater}

    def keep(self, rater: int, number: int, answer: Answer) -> Kept:
        """Keeps an answer, once for each task; raises an `OSError` where the disk does not take it.

        When this returns, the line is on the disk. A line that was written in part is taken back.
        """
        with self._lock:
            before = self._known.answers.get((rater, number))
            if before is not None:
                return "same" if before == answer else "other"
            ratings = [getattr(answer, name) for name in RATINGS]
            self._append(rows([rating_row(self._folder.study, rater, number, ratings)]).encode())
            self._known.answers[rater, number] = answer
            return "new"

    def _append(self, line: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            left = line
            while left:
                left = left[os.write(self._file, left) :]
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, end)
            raise

    def _mend(self) -> None:
        """Begins a new file with its head, and takes back a line that a process was killed in: nobody knows of it."""
        size = os.fstat(self._file).st_size
        content = self._folder.answers.read_bytes()
        if size and not content.endswith(b"\n"):
            os.ftruncate(self._file, content.rfind(b"\n") + 1)
        if b"\n" not in content:
            self._append(rows([COLUMNS]).encode())
            _sync_folder(self._folder.path)


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Raises what the system says about a file as a `ProblemError`."""
    try:
        yield
    except OSError as fault:
        raise problem(
            "unwritable-answers",
            422,
            f"{path} cannot be written: {fault.strerror}.",
            "Serve the study from a folder that you may write to, on a disk with room.",
        ) from None


def _lock_file(file: int, path: Path) -> None:
    """Takes the file for this process, until it ends in any way; not on Windows, which has no such lock."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise problem(
            "study-is-served",
            422,
            f"Another process serves this study: it has {path}.",
            "Stop it first; two of them would not know of each other's answers.",
        ) from None


def _sync_folder(path: Path) -> None:
    """Makes a new file's name last; where a system cannot open folders, it does so by itself."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
