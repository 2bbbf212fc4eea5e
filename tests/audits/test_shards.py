"""A divided audit gives the report of one worker, byte for byte, whatever is lost on the way."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from caveat_reports.canonical import canonical
from caveat_spec.jobs import Division, Shard
from caveat_worker import sharding
from caveat_worker.array_stores import Joined, cached, joined, scratch
from caveat_worker.engine.activations import batches, collect
from caveat_worker.engine.activations import division as dividing
from caveat_worker.engine.autodiff import load
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.store import ArrayStore
from tests.audits.conftest import Bench


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of sixteen examples, so that this audit has fifteen of them."""
    monkeypatch.setattr(batches, "LARGEST_BATCH", 16)


def divided(bench: Bench, batches: int) -> Division:
    audit, places = bench.settled()
    division = sharding.run_or_divide(
        audit, places.__getitem__, lambda *_: None, threads=1, store=scratch, batches=batches
    )
    assert isinstance(division, Division)
    return division


def run_parts(bench: Bench, division: Division, folder: Path) -> Path:
    """Every shard's pieces in one folder, as workers leave them for the last."""
    audit, places = bench.settled()
    pieces = folder / "pieces"
    pieces.mkdir()
    for number, asked in enumerate(reversed(division.shards)):
        left = folder / f"left{number}"
        sharding.run_shard(
            Shard.model_validate({"audit": audit, **asked, "interacts": division.interacts}),
            places.__getitem__,
            lambda *_: None,
            threads=1,
            store=partial(cached, folder / "nothing", left),
        )
        for piece in left.glob("*.*.npy"):
            piece.rename(pieces / piece.name)
    return pieces


def together(pieces: Path) -> AbstractContextManager[Joined]:
    return joined(pieces, scratch())


@pytest.mark.parametrize(("batches", "shards"), [(1, 13), (5, 4), (7, 2)])  # three of five would leave a worker idle
def test_the_report_is_that_of_one_worker(
    bench: Bench, batches: int, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.document["groups"] = {}
    plain = canonical(bench.run())
    division = divided(bench, batches)
    whole = sum(-(-len(range(part.start, part.stop)) // 16) for shard in division.rows for part in shard)
    assert (whole, len(division.shards)) == (13, shards)
    back = 1 + dividing.BACKWARD_WORK * 3 / 5  # three of five nodes are behind `hidden1`
    work = [
        sum((part.stop - part.start) * (back if part.examples == "targets" else 1) for part in shard)
        for shard in division.rows
    ]
    assert max(work) <= sum(work) / shards + 16 * back, "a shard is more than a batch longer than others"
    monkeypatch.setattr(load, "_as_written", _must_not_be_opened)  # which the model is compared with, once
    pieces = run_parts(bench, division, bench.folder)
    monkeypatch.setattr(collect, "open_session", _must_not_be_opened)
    assert canonical(bench.run(store=partial(together, pieces))) == plain


def test_a_piece_that_is_lost_or_broken_is_computed_again(bench: Bench) -> None:
    plain = canonical(bench.run())
    pieces = run_parts(bench, divided(bench, 4), bench.folder)
    largest = sorted(pieces.iterdir(), key=lambda piece: piece.stat().st_size)
    largest[-2].write_bytes(largest[-2].read_bytes()[:-1] + b"?")
    for piece in pieces.glob("*.48.npy"):  # the last that the first of the sets has
        piece.unlink()
    assert canonical(bench.run(store=partial(together, pieces))) == plain


def test_an_audit_that_is_small_enough_is_run_at_once(bench: Bench) -> None:
    audit, places = bench.settled()
    report = sharding.run_or_divide(audit, places.__getitem__, lambda *_: None, threads=1, store=scratch, batches=13)
    assert canonical(report) == canonical(bench.run())


def test_what_is_in_the_cache_is_in_no_shard(bench: Bench, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    bench.run(store=partial(cached, tmp_path / "nothing", kept))
    audit, places = bench.settled()

    def store() -> AbstractContextManager[ArrayStore]:
        return cached(kept, tmp_path / "fresh")

    report = sharding.run_or_divide(audit, places.__getitem__, lambda *_: None, threads=1, store=store, batches=1)
    assert not isinstance(report, Division)


def test_a_shard_refuses_as_the_audit_would(bench: Bench, tmp_path: Path) -> None:
    bench.document["method"]["gradient_tolerance"] = 1e-12
    audit, places = bench.settled()
    shards = divided(bench, 1).rows
    (first,) = (rows for rows in shards if (rows[0].examples, rows[0].start) == ("targets", 0))
    store = partial(cached, tmp_path / "nothing", tmp_path / "left")
    with pytest.raises(InvalidInput, match="does not add up"):
        sharding.run_shard(Shard(audit=audit, rows=first), places.__getitem__, lambda *_: None, threads=1, store=store)


def _must_not_be_opened(*_: object, **__: object) -> None:
    raise AssertionError("the model was opened")
