"""What an audit holds in memory does not grow with its examples, and where it is kept changes not a byte."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bench.measure import Case, measured
from caveat_reports.canonical import canonical
from caveat_worker.array_stores import MEMORY_BYTES, scratch
from caveat_worker.engine.activations.gram import PANEL, gram, products
from caveat_worker.engine.methods import tcav
from tests.audits.conftest import Bench


def test_an_audit_in_files_is_the_audit_in_memory(bench: Bench) -> None:
    assert canonical(bench.run(store=partial(scratch, budget=0))) == canonical(bench.run())


def test_a_gram_matrix_and_the_problems_of_it_may_be_in_files(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.document["concepts"]["used"]["controlling_for"] = ["ignored"]
    plain = canonical(bench.run())
    monkeypatch.setattr(tcav, "SIDE_BY_SIDE_BYTES", 0)
    assert canonical(bench.run(store=partial(scratch, budget=0))) == plain


def test_what_is_over_the_budget_is_in_files_that_do_not_outlive_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with scratch(budget=4 * 100) as store:
        inside = store.allocate("a", (10, 5), np.float32)
        outside = store.allocate("a", (10, 6), np.float32)
        still_inside = store.allocate("b", (10, 5), np.float32)
        assert [isinstance(one, np.memmap) for one in (inside, outside, still_inside)] == [False, True, False]
        outside[...] = 1
    assert list(tmp_path.iterdir()) == []


def test_threads_and_files_do_not_change_a_bit_of_an_inner_product(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2 * PANEL + 7, 300)).astype(np.float32)
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    stored[...] = x
    assert (gram(x) == gram(stored, threads=2)).all()
    assert (products(x[:9], x) == products(stored[:9], stored, threads=2)).all()
    assert (gram(x) == gram(x).T).all()


def test_a_block_of_a_gram_matrix_is_filled_in_place() -> None:
    x = np.random.default_rng(0).normal(size=(5, 30)).astype(np.float32)
    k = np.zeros((8, 8))
    gram(x, out=k[2:7, 2:7])
    assert (k[2:7, 2:7] == gram(x)).all()
    assert (k[:2] == 0).all()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # two minutes on a machine of its own
@pytest.mark.parametrize("reference", [1_500, 6_000])
def test_memory_holds_the_budget_and_what_is_worked_on(tmp_path: Path, reference: int) -> None:
    """100,352 features: activations of 574 and of 2,296 MiB, inner products of 20 and of 284."""
    given = {"folder": str(tmp_path), "reference": reference, "concept": 50, "features": 100_352}
    spent = measured(Case("bench.cases:wide", given, most_data=2 << 30))
    assert spent.peak - spent.before < MEMORY_BYTES + (256 << 20)
