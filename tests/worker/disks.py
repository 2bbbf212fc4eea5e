"""Disks that get full and disks that fail, made by the kernel for root: small file systems in memory and in files."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=False)
        return done.returncode == 0


@contextmanager
def disk(folder: Path, *, size: str = "64m", owner: int = 0) -> Iterator[Path]:
    """A small disk of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},nr_inodes=2000,mode=777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def in_a_file(folder: Path, *, size: int) -> Iterator[Path]:
    """A disk of so many bytes at `folder` that is not in memory, with the file system of most servers."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder.parent) as image:
        image.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", image.name], check=True)
        subprocess.run(["mount", "-o", "loop", image.name, str(folder)], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fills a disk: its blocks, and its inodes."""
    ballast = folder / "ballast"
    ballast.mkdir()
    with suppress(OSError), (ballast / "bytes").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with suppress(OSError):
        for number in itertools.count():
            (ballast / str(number)).touch()
    try:
        yield
    finally:
        for file_ in ballast.iterdir():
            file_.unlink()
        ballast.rmdir()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a disk read-only, as ext4 does after an I/O error; files that are open for writing would prevent it."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def cut_off(folder: Path) -> Iterator[None]:
    """Replaces the disk below `folder` by one with the same files whose blocks are gone: reading them is an EIO."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with tempfile.NamedTemporaryFile() as image:
        image.truncate(4 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", image.name], check=True)
        subprocess.run(["mount", "-o", "loop,sync", image.name, str(folder)], check=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        subprocess.run(["umount", str(folder)], check=True)
        subprocess.run(["mount", "-o", "loop,ro,noload", image.name, str(folder)], check=True)
        os.truncate(image.name, 64 << 10)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
