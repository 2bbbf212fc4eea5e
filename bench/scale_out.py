"""`python -m bench.scale_out [--quick]` measures what each part of an installation costs and writes docs/scaling.md.

The costs are processor seconds, which a busy machine stretches less than seconds on the clock. How 1 to 1,000 workers
do is calculated from them, and the page says so: nothing here runs a thousand workers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

from bench.audits import Question, of_pictures, of_rows
from bench.measure import Case, measured
from bench.page import table
from bench.service import Service, service
from caveat_spec.jobs import MOST_SHARDS
from caveat_storage.blobs import Blobs

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
DAY = 86_400
BUSY = 0.7
"""Share of a core up to which a part is not called full."""
FEATURES = 1024
"""Of the layer whose tests are measured and modelled."""
FLEET = (1, 2, 4, 10, 40, 100, 400, 1000)
LARGE = 1_000_000
ASKED = 100_000
"""Examples of the large audit, and audits a day."""
PARTS = {
    "API": ("caveat_service", "gunicorn"),
    "database": ("postgres",),
    "broker": ("valkey",),
    "worker": ("celery", "caveat_worker", "caveat-job"),
}
"""What is in the command line of each part's processes."""


@dataclass(frozen=True)
class Costs:
    """Processor seconds, unless it says otherwise."""

    api: float
    """Of the API for an audit: its POST, and a client that asks once a second until it has ended."""
    database: float
    """Of PostgreSQL for an audit, from its POST to its end."""
    broker: float
    """Of Valkey for an audit."""
    worker: float
    """Of a worker for an audit beyond its engine: claiming, progress, the child, storing the report."""
    fixed: float
    """Of the engine for an audit of pictures, before the first example: model, gradients, their check, statistics."""
    example: float
    """Of the engine for one more picture."""
    statistics: float
    """Of the engine for a row of a layer of 1,024 features in the tests."""
    fetched: float
    """For a MiB of a source that a worker fetches and verifies."""
    picture: float
    """MiB of a picture in its archive."""


def measure(folder: Path, quick: bool) -> Costs:
    """All costs, on this machine."""
    count = 8 if quick else 60
    with service() as at, at.workers(1, CAVEAT_CACHE_BYTES="0"):
        tiny = of_rows(folder / "tiny")
        engine = _cpu(tiny, threads=1)
        parts = _parts(at, at.upload(tiny), count)
    few, many = (20, 60) if quick else (40, 240)
    small, large = (
        of_pictures(folder / f"pictures{size}", concept=20, reference=size, targets=20, layers=("pool",))
        for size in (few, many)
    )
    spent = [_cpu(one, threads=1) for one in (small, large)]
    example = (spent[1] - spent[0]) / (many - few)
    sizes = (2_000, 4_000) if quick else (20_000, 40_000)
    rows = [_cpu(of_rows(folder / f"rows{size}", reference=size, hidden=FEATURES), threads=1) for size in sizes]
    archive = folder / f"pictures{many}" / "reference.zip"
    return Costs(
        api=parts["API"],
        database=parts["database"],
        broker=parts["broker"],
        worker=max(0.0, parts["worker"] - engine),
        fixed=spent[0] - example * sum(small.counts().values()),
        example=example,
        statistics=(rows[1] - rows[0]) / (sizes[1] - sizes[0]),
        fetched=_fetched(folder / "blobs", 16 if quick else 256),
        picture=archive.stat().st_size / many / 2**20,
    )


def _cpu(question: Question, **options: Any) -> float:
    """Processor seconds of an audit in a process of its own, imports left out."""
    given = {"folder": str(question.folder), "document": question.document, **options}
    return measured(Case("bench.cases:audit", given)).cpu


def _parts(at: Service, audit: Mapping[str, Any], count: int) -> dict[str, float]:
    """What an audit costs each part of an installation."""

    def ask(seeds: Sequence[int]) -> None:
        method = dict(audit["method"])
        jobs = [at.submit({**audit, "method": method | {"seed": seed}}) for seed in seeds]
        at.ended(jobs, every=1.0)

    ask(range(2))  # whatever is done once
    database = at.environment["CAVEAT_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(database) as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    roots = (os.getpid(), _numbers(backend)[0])  # PostgreSQL is a daemon, whose processes are not ours
    before = _spent(roots)
    ask(range(2, 2 + count))
    after = _spent(roots)
    return {part: (after[part] - before[part]) / count for part in PARTS}


def _spent(roots: Sequence[int]) -> dict[str, float]:
    """Processor seconds of each part so far: of these processes and what they started, by their command lines."""
    parents, lines, seconds = dict[int, int](), dict[int, str](), dict[int, float]()
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):  # it has ended meanwhile, or is no process
            number = int(process.name)
            parents[number], seconds[number] = _numbers(number)
            lines[number] = (process / "cmdline").read_text(errors="replace")
    found = dict.fromkeys(PARTS, 0.0)
    for number, line in lines.items():
        above = [number]
        while above[-1] in parents and above[-1] not in roots:
            above.append(parents[above[-1]])
        part = next((part for part, names in PARTS.items() if any(name in line for name in names)), None)
        if above[-1] in roots and part is not None:
            found[part] += seconds[number]
    return found


def _numbers(process: int) -> tuple[int, float]:
    """A process's parent, and its processor seconds with those of its children that have ended."""
    numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(numbers[1]), sum(map(int, numbers[11:15])) / os.sysconf("SC_CLK_TCK")


def _fetched(folder: Path, size: int) -> float:
    """Processor seconds for a MiB that is copied out of the blobs, as a worker does for each job, and verified."""
    data = os.urandom(size << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    store = Blobs.at(str(folder))
    store.put(io.BytesIO(data), digest)
    with (folder / "copy").open("wb") as file:
        began = time.process_time()
        store.copy(digest, file)
        return (time.process_time() - began) / size


@dataclass(frozen=True)
class Fleet:
    """A day of so many workers with a core each, all busy."""

    workers: int
    audits: float
    """A day."""
    busy: dict[str, float]
    """Part → cores that it needs."""


def fleet(costs: Costs, workers: int, pictures: int) -> Fleet:
    """What workers of one core each do in a day with audits of so many pictures, and what the other parts need."""
    each = costs.fixed + pictures * (costs.example + costs.picture * costs.fetched) + costs.worker
    audits = workers * DAY / each
    parts = {"API": costs.api, "database": costs.database, "broker": costs.broker}
    return Fleet(workers, audits, {part: audits / DAY * cost for part, cost in parts.items()})


def one_audit(costs: Costs, workers: int, examples: int = LARGE) -> dict[str, float]:
    """Seconds of one large audit in shards, by what they are spent on.

    Each shard fetches every source whole; one worker computes the statistics of all rows.
    """
    shards = 1 if workers == 1 else min(MOST_SHARDS, 4 * workers)
    rounds = math.ceil(shards / workers)
    return {
        "examples": examples * costs.example * rounds / shards,
        "fetching": rounds * examples * costs.picture * costs.fetched,
        "starting shards": rounds * (costs.fixed + costs.worker),
        "statistics": examples * costs.statistics,
    }


def first_full(costs: Costs, pictures: int) -> Iterator[tuple[str, float, float]]:
    """Each part with the audits a day, and the workers, at which one core of it is 70 % busy; the first one first."""
    each = fleet(costs, 1, pictures)
    found = [(part, BUSY / cores * each.audits, BUSY / cores) for part, cores in each.busy.items()]
    yield from sorted(found, key=lambda one: one[1])


def page(costs: Costs, ran: str) -> str:
    """docs/scaling.md."""
    pictures = 240
    fleets = [fleet(costs, workers, pictures) for workers in FLEET]
    large = {workers: one_audit(costs, workers) for workers in FLEET}
    alone = sum(large[1].values())
    rows = [
        [
            f"{workers:,}",
            *(f"{seconds / 3600:.2f}" for seconds in parts.values()),
            f"{sum(parts.values()) / 3600:.2f}",
            f"{alone / sum(parts.values()):.1f} x",
        ]
        for workers, parts in large.items()
    ]
    return f"""# Scaling

Made by `python -m bench.scale_out`; do not edit. **Costs are measured; everything about more than one worker on this
page is calculated from them.** [Benchmarks](benchmarks.md#one-audit-on-two-workers) has one and two real workers. A
calculation leaves out what happens only at size: connections by the thousand, a network, locks that are waited for.

## What was measured

{ran}

{
        table(
            ["cost, processor seconds", "measured"],
            [
                ["API, an audit: its POST and a client that asks once a second", f"{costs.api:.4f}"],
                [
                    "PostgreSQL, an audit: every statement from POST to report, heartbeats included",
                    f"{costs.database:.4f}",
                ],
                ["Valkey, an audit: the queue's messages", f"{costs.broker:.5f}"],
                ["worker, an audit: claiming, progress, the confined child, storing the report", f"{costs.worker:.2f}"],
                ["engine, an audit of pictures before its first picture (GoogLeNet)", f"{costs.fixed:.2f}"],
                ["engine, a picture", f"{costs.example:.4f}"],
                [
                    f"engine, 1,000 rows of a layer of {FEATURES:,} features in the tests",
                    f"{1000 * costs.statistics:.2f}",
                ],
                ["a worker, a GiB of a source: fetched and verified", f"{1024 * costs.fetched:.2f}"],
                ["a picture in its archive, KiB", f"{1024 * costs.picture:.1f}"],
            ],
        )
    }
## A day of audits

Audits of {pictures} pictures by workers of one core each that are never idle, without a cache.

{
        table(
            ["workers", "audits a day", "cores: API", "database", "broker"],
            [
                [f"{one.workers:,}", f"{one.audits:,.0f}", *(f"{cores:.2f}" for cores in one.busy.values())]
                for one in fleets
            ],
        )
    }
{ASKED:,} audits a day are {ASKED / DAY:.2f} a second: {ASKED / fleets[0].audits:.0f} such workers, and
{ASKED / DAY * costs.database:.2f} cores of the database.

## One audit of {LARGE:,} pictures

At a pooled layer of {FEATURES:,} features, in hours: four shards a worker, at most {
        MOST_SHARDS
    }. One worker computes the
statistics of all rows.

{table(["workers", *large[1], "together", "one : these"], rows)}
{limits(costs, large, pictures)}"""


def limits(costs: Costs, large: Mapping[int, dict[str, float]], pictures: int) -> str:
    """The first three limits, and what would move them."""
    half = next(
        (f"{workers:,} workers" for workers, parts in large.items() if 2 * parts["statistics"] > sum(parts.values())),
        "no number of workers here",
    )
    held = LARGE * FEATURES * 8 / 2**30
    source = LARGE * costs.picture / 1024  # GiB
    fetched = source * MOST_SHARDS / 1024
    (part, audits, workers), (second, later, _), *_ = first_full(costs, pictures)
    broker = next(audits for name, audits, _ in first_full(costs, pictures) if name == "broker")
    return f"""## The first three limits

1. **One worker computes a large audit's statistics.** They are more than half of its time from {half} on; and it
   holds all features in memory, {held:.0f} GiB here, so that an audit of this size would end as out of memory unless
   `CAVEAT_MEMORY_BYTES` is raised. *What would move it:* the test of each layer and concept as a part of a divided
   audit, as panels of explanations are already; features in files, as Gram matrices are.
2. **Every shard fetches every source whole**: {source:.0f} GiB up to {MOST_SHARDS} times, {fetched:.1f} TiB out of
   the blobs, and more than {MOST_SHARDS} workers find no shard. The processor time of that is in the table; that of a
   network is not, as none was measured. *What would move it:* an archive for each shard, or a worker that keeps for
   the next shard what it verified for this one.
3. **The {part} is the first shared part to fill 70 % of a core**: with {workers:,.0f} workers that do {audits:,.0f}
   audits of {pictures} pictures a day; the {second} does at {later:,.0f}. Both can be given more cores. The broker is
   one thread, and fills its core at {broker:,.0f}. *What would move it:* more API pods; a database that is told less
   often how far a job is.
"""


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, and no page")
    options = parser.parse_args(arguments)
    begun, started = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="caveat-bench-") as folder:
        costs = measure(Path(folder), options.quick)
    minutes = round((time.perf_counter() - started) / 60)
    ran = (
        f"On one machine of {os.cpu_count()} cores with everything on it, PostgreSQL and Valkey included, in "
        f"{minutes} minute{'s' * (minutes != 1)}.\nThe load was {begun:.1f} when it began and "
        f"{os.getloadavg()[0]:.1f} when it ended; a busy machine makes processor seconds longer too."
    )
    print(asdict(costs), page(costs, ran), sep="\n")
    if not options.quick:
        PAGE.write_text(page(costs, ran))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
