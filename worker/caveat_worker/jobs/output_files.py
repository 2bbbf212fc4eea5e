"""Opens the files that a child process left: never through a link, and only regular files."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO


def open_folder(folder: int, name: str) -> int | None:
    """A descriptor of a folder inside an open one; None if it is missing or not a folder."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return None


def open_file(folder: int, name: str, *, largest: int) -> BinaryIO | None:
    """A file in an open folder; None unless it is a regular file with a single name and at most `largest` bytes."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    file = os.fdopen(descriptor, "rb")
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode) and about.st_nlink == 1 and about.st_size <= largest:
        return file
    file.close()
    return None


def read_file(folder: int, name: str, *, largest: int) -> bytes | None:
    """The contents of such a file; None if it is none."""
    file = open_file(folder, name, largest=largest)
    if file is None:
        return None
    with file:
        return file.read()
