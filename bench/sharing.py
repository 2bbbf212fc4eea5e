"""Two jobs at once over one large model: a copy for each, and one file for both (decision 0106)."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.audits import Question
from bench.large import BLOCKS, of_halves
from bench.measure import Case, Prepared, Spent, in_turns
from bench.page import table
from caveat_spec.audit import Audit
from caveat_storage.blobs import Blobs
from caveat_worker.jobs import forkserver
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.processes import children
from caveat_worker.jobs.shared_models import opened
from caveat_worker.jobs.supervisor import Finished, supervise

MIB, GIB = 1 << 20, 1 << 30
JOBS = 2
KEPT = 8 * GIB
"""Bytes that the worker keeps of models."""
LOOK_SECONDS = 0.1
COUNTS = {"concept": 20, "reference": 40, "targets": 20}


def jobs_of_one_model(folder: Path, rounds: int, quick: bool) -> str:
    """(k) What two jobs at once have in memory and on the disk, and what it costs to lay out one more."""
    question = of_halves(folder, COUNTS, 2 if quick else BLOCKS)
    store = Blobs.at(str(folder / "blobs"))
    for digest in set(question.audit().sources().values()):
        with question.blob(digest).open("rb") as file:
            store.put(file, digest)
    given = {"folder": str(folder), "document": question.document}
    cases = {
        f"{what} {how}": Case(f"bench.sharing:{what}", given | {"shared": how == "shared"})
        for how in ("copied", "shared")
        for what in ("at_once", "one_more")
    }
    spent, model = in_turns(cases, rounds), (folder / "model.onnx").stat().st_size
    columns = ["each job reads", "MiB", "of files", "scratch MiB", "one more job: wall s", "CPU s"]
    rows = [
        _row(name, spent[f"at_once {how}"], spent[f"one_more {how}"])
        for how, name in (("copied", "a copy"), ("shared", "the same file"))
    ]
    return f"""## Two jobs of one large model

The decoder of {model // MIB:,} MiB, audited twice at the same time by two confined children of one worker. Memory is
the most that both children had together, where a page of both counts once (PSS, from `smaps_rollup`); "of files" are
pages of files among it, as the median of all looks while both ran. Scratch is the most that the folders of jobs and
the shared models had on the disk. The last two are what the worker takes until one more job of the model could begin,
with the blobs on the same disk and everything in the page cache: to copy the bytes and hash them on their way, or to
hash the file that is there.

{table(columns, rows)}"""


def _row(name: str, jobs: Spent, more: Spent) -> list[str]:
    memory = [f"{jobs.figures[figure] // MIB:,}" for figure in ("pss", "files", "scratch")]
    return [name, *memory, f"{more.wall:.1f}", f"{more.cpu:.1f}"]


def at_once(folder: str, document: dict[str, Any], shared: bool) -> Prepared:
    """Runs the audit in `JOBS` confined children at once; the figures of their memory in bytes."""
    question, scratch = Question(Path(folder), document), _scratch(Path(folder))
    asked, fetch = question.audit(), Blobs.at(str(question.folder / "blobs")).copy
    threads = max(1, (os.cpu_count() or 1) // JOBS)
    return lambda: audited(asked, fetch, scratch, shared=shared, limits=Limits(threads=threads))


def audited(
    asked: Audit, fetch: Callable[..., None], scratch: Path, *, shared: bool, limits: Limits, jobs: int = JOBS
) -> dict[str, int]:
    """Audits in `jobs` children at once with their folders in `scratch`, which is TMPDIR.

    Returns bytes: the most memory (PSS), the median of its pages of files while all ran, and the most on the scratch.
    """
    models = opened(scratch, "bench", KEPT) if shared else None
    run = partial(
        supervise, "audit", asked.model_dump(mode="json"), fetch, limits=limits, models=models,
        on_progress=lambda *_: None, should_stop=lambda: False,
    )  # fmt: skip
    over = threading.Event()
    memory, files, disk = [0], [0], [0]

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            disk.append(_on_disk(scratch))
            if len(found := _memory()) == jobs:
                memory.append(sum(one["Pss"] for one in found))
                files.append(sum(one["Pss_File"] for one in found))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        with ThreadPoolExecutor(jobs) as pool:
            ends = [one.result() for one in [pool.submit(run) for _ in range(jobs)]]
    finally:
        over.set()
        looking.join()
        forkserver.close()
    if any(not isinstance(end, Finished) for end in ends):
        raise RuntimeError(f"a job did not succeed: {ends}")
    return {"pss": max(memory), "files": int(median(files)), "scratch": max(disk)}


def one_more(folder: str, document: dict[str, Any], shared: bool) -> Prepared:
    """Lays out the model for a job, after another one had it."""
    question, scratch = Question(Path(folder), document), _scratch(Path(folder))
    digest, store = question.audit().model, Blobs.at(str(Path(folder, "blobs")))
    place = scratch / "job"

    def copy() -> None:
        with place.open("xb") as file:
            store.copy(digest, file)

    models = opened(scratch, "bench", KEPT)
    if models is None:
        raise RuntimeError(f"no model can be shared on {scratch}")
    again: Callable[[], None] = partial(models.lay_out, digest, place, copy, lambda: None) if shared else copy
    again()
    place.unlink()

    def measured() -> Mapping[str, Any]:
        again()
        place.unlink()
        return {}

    return measured


def _scratch(folder: Path) -> Path:
    """An empty scratch folder."""
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    os.environ["TMPDIR"] = str(scratch)
    return scratch


def _memory() -> list[dict[str, int]]:
    """What the kernel counts of each job that runs now, in bytes, where a page of several counts once."""
    below = [pid for server in children(os.getpid()) for pid in children(server)]
    return [found for pid in below if _is_job(pid) and (found := dict(_rollup(pid)))]


def _is_job(pid: int) -> bool:
    """Whether a process is that of a job, and not one of another program that this process started."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == forkserver.NAME
    return False


def _rollup(pid: int) -> Iterator[tuple[str, int]]:
    """What the kernel counts of a process, in bytes; nothing once it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, _ = line.split()
            yield name.rstrip(":"), int(size) * 1024


def _on_disk(folder: Path) -> int:
    """The bytes of all files below a folder, each once however many names it has."""
    found = {}
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):
                about = os.lstat(Path(place, name))
                found[about.st_ino] = about.st_blocks * 512
    return sum(found.values())
