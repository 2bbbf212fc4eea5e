"""A folder's digest depends on the names and bytes of its pictures, and on nothing else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from caveat.pack import Archive, content_of


def packed(folder: Path) -> bytes:
    archive = content_of(folder)
    assert isinstance(archive, Archive)
    return b"".join(archive.chunks())


def fill(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_order_clocks_and_permissions_leave_no_trace(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "deep/c.webp", "Z.jpeg", "é.png", "x" * 150 + ".png"]
    first, second = fill(tmp_path / "one", names), fill(tmp_path / "two", names[::-1])
    os.utime(second / "b.png", (0, 0))
    (second / "a.JPG").chmod(0o600)
    assert packed(first) == packed(second)


def test_names_and_bytes_do(tmp_path: Path) -> None:
    base = packed(fill(tmp_path / "one", ["a.png", "b.png"]))
    other = fill(tmp_path / "two", ["a.png", "b.png"])
    (other / "a.png").write_bytes(b"another")
    assert base != packed(other)
    assert base != packed(fill(tmp_path / "three", ["a.png", "c.png"]))


def test_only_pictures_go_in_and_in_the_order_of_their_names(tmp_path: Path) -> None:
    fill(tmp_path, ["b.png", "a.png", "notes.txt", ".hidden.png", ".git/c.png", "sub/a.png"])
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path))) as tar:
        assert tar.getnames() == ["a.png", "b.png", "sub/a.png"]
        assert all((entry.mtime, entry.uid, entry.uname) == (0, 0, "") for entry in tar)


def test_a_name_is_the_same_however_a_file_system_spells_it(tmp_path: Path) -> None:
    composed, decomposed = fill(tmp_path / "one", ["\u00e9.png"]), tmp_path / "two"
    decomposed.mkdir()
    (decomposed / "e\u0301.png").write_bytes("\u00e9.png".encode())
    assert packed(composed) == packed(decomposed)
