"""What a supervisor takes in from a child that may be hostile, and what it throws out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from caveat_worker.jobs.cache import Cache, Namespace

NAMES = [f"{number:064x}.npy" for number in range(20)]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    (tmp_path / "outputs" / "cache").mkdir(parents=True)
    return tmp_path / "outputs"


@pytest.fixture
def namespace(tmp_path: Path) -> Namespace:
    return Cache(tmp_path / "kept", 4_000).namespace("tenant", "sha256:model")


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def take_in(namespace: Namespace, outputs: Path) -> None:
    with opened(outputs) as descriptor:
        namespace.take_in(descriptor)


def there(namespace: Namespace) -> set[str]:
    return {path.name for path in namespace.folder.iterdir()}


def test_entries_are_moved_in_and_can_only_be_read(namespace: Namespace, outputs: Path) -> None:
    (outputs / "cache" / NAMES[0]).write_bytes(b"numbers")
    take_in(namespace, outputs)
    entry = namespace.folder / NAMES[0]
    assert entry.read_bytes() == b"numbers"
    assert entry.stat().st_mode & 0o777 == 0o400


def test_a_child_that_left_nothing_leaves_nothing(namespace: Namespace, outputs: Path) -> None:
    (outputs / "cache").rmdir()
    take_in(namespace, outputs)
    assert there(namespace) == set()


def test_what_is_no_entry_of_its_own_is_left_behind(namespace: Namespace, outputs: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    left = outputs / "cache"
    (left / NAMES[0]).symlink_to(secret)
    os.link(secret, left / NAMES[1])
    (left / NAMES[2]).mkdir()
    os.mkfifo(left / NAMES[3])
    (left / NAMES[4]).write_bytes(bytes(1_001))  # over a fourth of the cache
    (left / "other.npy").write_bytes(b"")
    (left / "used").symlink_to(secret)
    take_in(namespace, outputs)
    assert there(namespace) == set()


def test_a_link_in_place_of_the_folder_is_not_followed(namespace: Namespace, outputs: Path, tmp_path: Path) -> None:
    (outputs / "cache").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / NAMES[0]).write_bytes(b"")
    (outputs / "cache").symlink_to(tmp_path / "elsewhere")
    take_in(namespace, outputs)
    assert there(namespace) == set()


def test_the_least_recently_used_go_first(namespace: Namespace, outputs: Path) -> None:
    for age, name in enumerate(NAMES[:4]):
        (namespace.folder / name).write_bytes(bytes(1_000))
        os.utime(namespace.folder / name, (age, age))
    (outputs / "cache" / "used").write_text(f"{NAMES[0]}\n../../etc/passwd\n{NAMES[9]}\n")
    (outputs / "cache" / NAMES[5]).write_bytes(bytes(1_000))
    take_in(namespace, outputs)
    assert there(namespace) == {NAMES[0], NAMES[2], NAMES[3], NAMES[5]}


def test_tenants_and_models_have_corners_of_their_own(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1)
    places = {cache.namespace(tenant, model).folder for tenant in ("a", "../b") for model in ("sha256:1", "sha256:2")}
    assert len(places) == 4
    assert all(place.parent.parent == tmp_path for place in places)


def test_many_workers_take_in_and_evict_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "kept", 8_000)

    def worker(number: int) -> None:
        outputs = tmp_path / f"outputs{number}"
        for round_ in range(5):
            (outputs / "cache").mkdir(parents=True, exist_ok=True)
            for name in NAMES:
                (outputs / "cache" / name).write_bytes(bytes([round_]) * 1_000)
            take_in(cache.namespace("tenant", f"model{number % 2}"), outputs)

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(worker, range(4)))
    cache.evict()
    sizes = [path.stat().st_size for path in tmp_path.glob("kept/*/*/*")]
    assert sizes
    assert set(sizes) == {1_000}
    assert sum(sizes) <= 8_000


def test_another_file_system_is_copied_from(
    namespace: Namespace, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("cross-device")

    (outputs / "cache" / NAMES[0]).write_bytes(b"numbers")
    monkeypatch.setattr(os, "rename", refuse)
    take_in(namespace, outputs)
    assert (namespace.folder / NAMES[0]).read_bytes() == b"numbers"
    assert there(namespace) == {NAMES[0]}
