"""What an audit computed is found by the next one, and changes not a byte of its report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caveat_reports.canonical import canonical
from caveat_worker.array_stores import cached
from caveat_worker.engine.activations import collect
from caveat_worker.engine.autodiff import load
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.concepts import activation_intervention, fit_problem
from caveat_worker.engine.onnx.session import Session
from caveat_worker.jobs.cache import Cache
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.supervisor import Finished, supervise
from tests.audits.conftest import Bench, Change


class Kept:
    """A cache beside an audit: each run finds what those before it left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._runs = folder, 0
        folder.mkdir()

    @contextmanager
    def store(self) -> Iterator[ArrayStore]:
        """What a child process gets, and then what its supervisor does."""
        fresh = self.folder.with_name(f"fresh{self._runs}")
        self._runs += 1
        with cached(self.folder, fresh) as store:
            yield store
        for entry in fresh.glob("*.npy"):
            entry.rename(self.folder / entry.name)

    @property
    def entries(self) -> set[str]:
        return {entry.name for entry in self.folder.glob("*.npy")}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept")


@pytest.fixture
def seen_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples went through the model, one entry a batch; the gradient check's own runs are not counted."""
    rows: list[int] = []

    class Counted(Session):
        def run(self, feeds: Any) -> dict[str, Any]:
            rows.append(len(next(iter(feeds.values()))))
            return super().run(feeds)

    def opened(graph: Any, **options: Any) -> Session:
        return Counted(**vars(original(graph, **options)))

    original = collect.open_session
    monkeypatch.setattr(collect, "open_session", opened)
    return rows


def test_cold_warm_and_without_a_cache_the_report_is_the_same(bench: Bench, kept: Kept, seen_rows: list[int]) -> None:
    plain = canonical(bench.run())
    assert canonical(bench.run(store=kept.store)) == plain
    before, entries = sum(seen_rows), kept.entries
    assert canonical(bench.run(store=kept.store)) == plain
    assert (sum(seen_rows), kept.entries) == (before, entries)


def estimator(bench: Bench) -> None:
    bench.document["method"] |= {"estimator": "logistic", "cross_check": "mean_difference"}


def numbers(bench: Bench) -> None:
    bench.document["method"] |= {"runs": 20, "permutations": 99, "bootstrap": 49, "alpha": 0.1, "correction": "none"}


def gate(bench: Bench) -> None:
    bench.document["gate"] = [{"concept": "used", "target": "first", "must": "matter"}]


def one_concept_less(bench: Bench) -> None:
    del bench.document["concepts"]["ignored"], bench.document["gate"][1], bench.document["examples"]["ignored"]


def other_names(bench: Bench) -> None:
    bench.document["targets"] = {"renamed": bench.document["targets"]["first"]}
    for line in bench.document["gate"]:
        line["target"] = "renamed"


@pytest.mark.parametrize("change", [estimator, numbers, gate, one_concept_less, other_names])
def test_another_question_of_the_same_arrays_does_not_touch_the_model(
    bench: Bench, kept: Kept, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(store=kept.store)
    change(bench)
    plain = canonical(bench.run())
    for module in (collect, load, activation_intervention):  # nor is the model run again to be compared with its file
        monkeypatch.setattr(module, "open_session", _must_not_be_opened)
    assert canonical(bench.run(store=kept.store)) == plain


def another_alpha(bench: Bench) -> None:
    bench.document["method"] |= {"alpha": 0.06}


def another_correction(bench: Bench) -> None:
    bench.document["method"] |= {"correction": "none"}


def another_cross_check(bench: Bench) -> None:
    bench.document["method"] |= {"cross_check": "mean_difference"}


@pytest.mark.parametrize(
    ("change", "most"), [(gate, 1), (another_correction, 1), (another_cross_check, 2), (another_alpha, 8)]
)
def test_another_question_draws_only_what_it_does_not_share(
    bench: Bench, kept: Kept, change: Change, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CAV by each estimator, and for another alpha the folds of as many shuffles; no draw of any other kind."""
    bench.document["method"] |= {"estimator": "logistic", "cross_check": None, "permutations": 299}
    bench.run(store=kept.store)
    change(bench)
    plain = canonical(bench.run())
    fits: list[int] = []

    def counted(k: Any, positives: Any, *rest: Any, **options: Any) -> Any:
        fits.append(len(positives))
        return fit_cavs(k, positives, *rest, **options)

    fit_cavs = fit_problem.fit_cavs
    monkeypatch.setattr(fit_problem, "fit_cavs", counted)
    assert canonical(bench.run(store=kept.store)) == plain
    tests = len(bench.document["concepts"]) * len(bench.document["layers"])
    assert 0 < len(fits) <= most * tests


def another_seed(bench: Bench) -> None:
    bench.document["method"] |= {"seed": 8}


def another_penalty(bench: Bench) -> None:
    bench.document["method"] |= {"regularisation": 3.0}


def other_folds(bench: Bench) -> None:
    bench.document["method"] |= {"folds": 3}


def controlled(bench: Bench) -> None:
    bench.document["concepts"]["used"]["controlling_for"] = ["ignored"]


def another_name(bench: Bench) -> None:
    bench.document["concepts"]["renamed"] = bench.document["concepts"].pop("used")
    bench.document.pop("gate")


def another_reference(bench: Bench) -> None:
    bench.document["concepts"]["used"]["against"] = "ignored"


@pytest.mark.parametrize(
    "change", [another_seed, another_penalty, other_folds, controlled, another_name, another_reference]
)
def test_what_a_draw_depends_on_is_in_its_key(bench: Bench, kept: Kept, change: Change) -> None:
    bench.document["method"] |= {"estimator": "logistic"}
    before = canonical(bench.run(store=kept.store))
    change(bench)
    plain = canonical(bench.run())
    assert plain != before
    assert canonical(bench.run(store=kept.store)) == plain


def _must_not_be_opened(*_: Any, **__: Any) -> Session:
    raise AssertionError("the model was opened")


def other_bytes(bench: Bench) -> None:
    bench.save("targets.npy", np.load("targets.npy") + 1)


def other_layer(bench: Bench) -> None:
    bench.document["layers"] = ["z2"]


def other_sample(bench: Bench) -> None:
    bench.document["examples"]["targets"]["limit"] = 50


def other_target(bench: Bench) -> None:
    bench.document["targets"]["first"]["scale"] = "probability"


@pytest.mark.parametrize("change", [other_bytes, other_layer, other_sample, other_target])
def test_what_the_numbers_depend_on_is_in_their_key(
    bench: Bench, kept: Kept, change: Change, seen_rows: list[int]
) -> None:
    bench.run(store=kept.store)
    change(bench)
    plain = canonical(bench.run())
    seen_rows.clear()
    assert canonical(bench.run(store=kept.store)) == plain
    assert sum(seen_rows) >= 50


def test_a_new_concept_goes_through_the_model_alone(bench: Bench, kept: Kept, seen_rows: list[int]) -> None:
    whole = dict(bench.document["examples"]), dict(bench.document["concepts"]), list(bench.document["gate"])
    one_concept_less(bench)
    bench.run(store=kept.store)
    seen_rows.clear()
    bench.document |= dict(zip(("examples", "concepts", "gate"), whole, strict=True))
    bench.run(store=kept.store)
    assert sum(seen_rows) == 40


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("spoil", [cut_short, one_bit, emptied, pickled, Path.unlink])
def test_an_entry_that_is_not_what_it_was_is_not_there(
    bench: Bench, kept: Kept, spoil: Callable[[Path], None], seen_rows: list[int]
) -> None:
    plain = canonical(bench.run(store=kept.store))
    for entry in kept.folder.iterdir():
        spoil(entry)
    seen_rows.clear()
    assert canonical(bench.run(store=kept.store)) == plain
    assert sum(seen_rows) == 180


def test_sets_that_are_alike_share_their_arrays(bench: Bench, kept: Kept) -> None:
    shutil.copy("targets.npy", "again.npy")
    bench.document["examples"]["again"] = {"arrays": "again.npy"}
    bench.document["concepts"]["again"] = {"examples": "again", "against": "base"}
    plain = canonical(bench.run())
    assert canonical(bench.run(store=kept.store)) == plain
    assert canonical(bench.run(store=kept.store)) == plain


def test_through_the_supervisor_a_second_audit_finds_what_the_first_left(bench: Bench, tmp_path: Path) -> None:
    audit, places = bench.settled()
    namespace = Cache(tmp_path / "cache", 1 << 30).namespace("tenant", audit.model)

    def run() -> bytes:
        end = supervise(
            "audit",
            audit.model_dump(mode="json"),
            lambda digest, file: file.write(places[digest].read_bytes()) and None,
            limits=Limits(memory_bytes=2 << 30, cpu_seconds=60, wall_seconds=60, threads=1),
            on_progress=lambda *_: None,
            should_stop=lambda: False,
            sink=namespace,
        )
        assert isinstance(end, Finished), end
        return end.result

    cold = run()
    entries = {entry.name: entry.stat().st_mtime_ns for entry in namespace.folder.iterdir()}
    assert entries
    assert all(entry.stat().st_mode & 0o777 == 0o400 for entry in namespace.folder.iterdir())
    assert run() == cold
    after = {entry.name: entry.stat().st_mtime_ns for entry in namespace.folder.iterdir()}
    assert after.keys() == entries.keys()
    assert any(after[name] > entries[name] for name in entries), "what was used is younger"


def test_an_entry_under_the_name_of_another_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a checksum of its own that holds, and a shape that fits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    with cached(tmp_path / "kept", tmp_path / "fresh") as store:
        store.put("first", np.zeros(3))
        store.put("second", np.ones(3))
    (tmp_path / "fresh" / "first.npy").rename(tmp_path / "kept" / "second.npy")
    (tmp_path / "fresh" / "second.npy").rename(tmp_path / "kept" / "other.npy")
    with cached(tmp_path / "kept", tmp_path / "again") as store:
        assert store.get("second") is None
        assert store.get("other") is None
