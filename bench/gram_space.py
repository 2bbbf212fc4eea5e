"""`python -m bench.gram_space`: what Gram space costs at 100,352 features, beside scikit-learn's SGDClassifier."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from sklearn.linear_model import SGDClassifier

from caveat_worker.engine.activations.gram import gram, products
from caveat_worker.engine.base.threads import on_one_thread
from caveat_worker.engine.concepts.cav import cosine_matrix, fit_cavs
from caveat_worker.engine.concepts.concept_test import run_concept_test
from caveat_worker.engine.concepts.fit_problem import ConceptData, Settings, TargetData
from caveat_worker.engine.statistics.resampling import random_sets, reference_draws

FEATURES, CONCEPT, REFERENCE, TARGET = 100_352, 50, 500, 60
RUNS, PERMUTATIONS = 500, 499
T = TypeVar("T")


def timed(what: str, compute: Callable[[], T]) -> tuple[T, float]:
    """Runs and prints one step; returns its result and its CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = compute()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<64}{wall:8.2f} s wall{cpu:9.2f} s CPU", flush=True)
    return found, cpu


def main() -> None:
    """Prints one line a step, and how many times less CPU a CAV takes."""
    rng = np.random.default_rng(0)
    n = CONCEPT + REFERENCE
    x = np.maximum(rng.standard_normal((n, FEATURES), dtype=np.float32), 0)
    x[:CONCEPT] += 0.05 * rng.standard_normal(FEATURES, dtype=np.float32)
    g = rng.standard_normal((TARGET, FEATURES), dtype=np.float32) * 1e-3
    k, _ = timed(f"Gram matrix, {n} x {FEATURES}", lambda: gram(x))
    gx, _ = timed(f"gradient products, {TARGET} x {n}", lambda: products(g, x))

    concept = np.repeat(np.arange(n)[None] < CONCEPT, RUNS, axis=0)
    draws = reference_draws(CONCEPT, REFERENCE, RUNS, rng)
    null = random_sets(n, CONCEPT, PERMUTATIONS, rng)
    fit = on_one_thread(fit_cavs)
    runs, of_runs = timed(f"{RUNS} runs, logistic", lambda: fit(k, concept, draws))
    _, of_null = timed(f"{PERMUTATIONS} permutations, logistic", lambda: fit(k, null, ~null))
    data = ConceptData(k, np.arange(CONCEPT), np.arange(CONCEPT, n))
    target = TargetData(gx, rng.standard_normal(TARGET))
    timed(
        "the whole test: runs, permutations, 499 resamples, 99 x 5 folds",
        lambda: run_concept_test(data, [target], Settings(), rng),
    )

    first = np.concatenate([np.arange(CONCEPT), CONCEPT + np.flatnonzero(draws[0, CONCEPT:])])
    sides = np.arange(len(first)) < CONCEPT
    peers = [SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed) for seed in (0, 1)]
    fitted, of_sgd = timed(
        "2 SGDClassifier fits (tensorflow/tcav's settings)", lambda: [p.fit(x[first], sides) for p in peers]
    )
    one, other = (each.coef_[0] / np.linalg.norm(each.coef_[0]) for each in fitted)
    ours = cosine_matrix(k, np.stack([runs.alpha[0], fit(k, concept[:1], draws[:1]).alpha[0]]))[0, 1]
    print(f"two fits of the same run: SGD cosine {one @ other:.3f}, logistic in Gram space {ours:.6f}")
    times = (of_sgd / 2) / ((of_runs + of_null) / (RUNS + PERMUTATIONS))
    print(f"runs and permutations took {of_runs + of_null:.1f} CPU s, {times:.0f} times less a CAV than SGDClassifier")


if __name__ == "__main__":
    main()
