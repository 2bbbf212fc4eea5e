"""Slow, literal twins: explanations again, by loops over a network that is written out in float64.

The twins share no code with the engine but its networks' weights: derivatives are central differences, sums are loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import helper

from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from tests.engine.nets import Net
from tests.explanations.models import around_noise

Float64 = NDArray[np.float64]
COLOURS, CHANNELS, UPPER, SIDE, CLASSES = 2, 3, 4, 3, 5
CLASS = 1
"""The class that is explained."""
STEP = 1e-5


@dataclass(frozen=True)
class Written:
    """A network: a convolution with Relu to `lower` [3, 3, 3], one with Tanh to `upper`, a mean, and two products."""

    first: Float64
    kernel: Float64
    dense: Float64

    def lower(self, x: Float64) -> Float64:
        """Activations of the earlier layer [3, 3, 3] at an input [2, 3, 3]."""
        return np.maximum(convolved(x, self.first), 0)

    def upper(self, a: Float64) -> Float64:
        """Activations of the later layer [4, 3, 3] at those of the earlier one."""
        return np.tanh(convolved(a, self.kernel))

    def scores(self, a: Float64) -> Float64:
        """Five scores, which are no linear function of the layer `lower`."""
        return np.asarray(np.tanh(2 * self.upper(a).mean((1, 2))) @ self.dense)


def convolved(x: Float64, kernel: Float64) -> Float64:
    """A convolution of 3 x 3 with padding, place by place."""
    padded, found = np.pad(x, ((0, 0), (1, 1), (1, 1))), np.zeros((len(kernel), SIDE, SIDE))
    for m in range(len(kernel)):
        for y in range(SIDE):
            for z in range(SIDE):
                found[m, y, z] = (kernel[m] * padded[:, y : y + 3, z : z + 3]).sum()
    return found


def convolved_back(multipliers: Float64, kernel: Float64) -> Float64:
    """What a convolution's outputs pass to its inputs, each by its weight."""
    padded = np.zeros((kernel.shape[1], SIDE + 2, SIDE + 2))
    for m in range(len(kernel)):
        for y in range(SIDE):
            for z in range(SIDE):
                padded[:, y : y + 3, z : z + 3] += multipliers[m, y, z] * kernel[m]
    return padded[:, 1:-1, 1:-1]


def network() -> tuple[Any, Any, Written, Float64]:
    """Runs of the network, its example, the same network written out, and the layer at the example."""
    net, rng = Net(21), np.random.default_rng(4)
    kernel, dense = rng.normal(0, 0.4, (UPPER, CHANNELS, 3, 3)), rng.normal(0, 1, (UPPER, CLASSES))
    first = rng.normal(0, 0.4, (CHANNELS, COLOURS, 3, 3))
    net.nodes.append(_named("Relu", net.op("Conv", "x", net.constant(first), pads=[1] * 4), "lower"))
    net.nodes.append(_named("Tanh", net.op("Conv", "lower", net.constant(kernel), pads=[1] * 4), "upper"))
    mean = net.op("Flatten", net.op("GlobalAveragePool", "upper"))
    squashed = net.op("Tanh", net.op("Mul", mean, net.constant(2.0)))
    model = net.model(("n", COLOURS, SIDE, SIDE), net.op("MatMul", squashed, net.constant(dense)))
    runs, x = around_noise(model, index=CLASS)
    written = Written(*(each.astype(np.float32).astype(float) for each in (first, kernel, dense)))
    return runs, x, written, runs.activations(x, "lower")[0].astype(float)


def _named(operator: str, x: str, name: str) -> Any:
    return helper.make_node(operator, [x], [name])


def slope(of: Callable[[Float64], float], at: Float64) -> Float64:
    """The derivative of a number by every entry of an array, one central difference each."""
    found = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[place] += STEP
        down[place] -= STEP
        found[place] = (of(up) - of(down)) / (2 * STEP)
    return found


def explain(name: str, runs: Any, x: Any, **options: Any) -> Attributed:
    one = explanation(name)
    return one.run(runs, x, one.entry.options(**options))


def test_the_network_is_written_out_as_it_is() -> None:
    runs, x, written, a = network()
    assert a == pytest.approx(written.lower(x[0].astype(float)), abs=1e-6)
    assert runs.activations(x, runs.scores_at)[0] == pytest.approx(written.scores(a), abs=1e-5)


def test_multi_class_is_a_loop_over_classes_and_places() -> None:
    runs, x, written, a = network()
    found = explain("multi_class", runs, x, layer="lower", classes=4)
    ranked = sorted(range(CLASSES), key=lambda k: -written.scores(a)[k])[:4]
    assert found.parts["classes"][0].tolist() == ranked
    maps = np.zeros((4, SIDE, SIDE))
    for row, k in enumerate(ranked):
        derivative = slope(lambda at, k=k: float(written.scores(at)[k]), a)
        for y in range(SIDE):
            for z in range(SIDE):
                maps[row, y, z] = sum(a[c, y, z] * derivative[c, y, z] for c in range(CHANNELS))
    assert found.parts["attributions"][0] == pytest.approx(maps, abs=1e-5)
    for y in range(SIDE):
        for z in range(SIDE):
            strongest = sorted(range(4), key=lambda row: -maps[row, y, z])
            assert found.parts["legend_classes"][0, y, z, 0] == ranked[strongest[0]]
            assert found.parts["legend_values"][0, y, z, 0] == pytest.approx(maps[strongest[0], y, z], abs=1e-5)
    positive = np.maximum(maps, 0).reshape(4, -1).T
    first, second = two_factors(positive)
    difference = found.values[0].ravel()
    assert max(_alike(difference, first - second), _alike(difference, second - first)) > 0.98


def two_factors(of: Float64) -> tuple[Float64, Float64]:
    """Two non-negative factors by multiplicative updates (Lee and Seung 2001), the best of four starts: their sizes."""
    best: tuple[float, Float64] = (np.inf, of)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        places, classes = rng.random((len(of), 2)) + 0.1, rng.random((2, of.shape[1])) + 0.1
        for _ in range(1000):
            classes *= (places.T @ of) / (places.T @ places @ classes + 1e-12)
            places *= (of @ classes.T) / (places @ classes @ classes.T + 1e-12)
        left = float(((of - places @ classes) ** 2).sum())
        if left < best[0]:
            best = (left, places * classes.sum(1))
    return best[1][:, 0], best[1][:, 1]


def _alike(one: Float64, other: Float64) -> float:
    return float(np.corrcoef(one, other)[0, 1])


@pytest.mark.parametrize("atoms", ["positions", "channels"])
def test_layer_to_layer_is_a_loop_over_pairs(atoms: str) -> None:
    runs, x, written, a = network()
    found = explain("layer_to_layer", runs, x, layer="lower", upper="upper", atoms=atoms, most=6)
    numbers = found.parts["upper"][0]

    def size(at: Float64, number: int) -> float:
        h = written.upper(at)
        if atoms == "channels":
            return float(h[number].sum())
        return float(np.sqrt((h[:, number // SIDE, number % SIDE] ** 2).sum()))

    every = range(UPPER if atoms == "channels" else SIDE * SIDE)
    assert numbers.tolist() == sorted(every, key=lambda number: -abs(size(a, number)))[:6]
    for row, number in enumerate(numbers):
        derivative = slope(lambda at, number=int(number): size(at, number), a)
        if atoms == "channels":
            expected = [(a[c] * derivative[c]).sum() for c in range(CHANNELS)]
        else:
            expected = [[(a[:, y, z] * derivative[:, y, z]).sum() for z in range(SIDE)] for y in range(SIDE)]
        assert found.parts["pairs"][0][row] == pytest.approx(np.array(expected), abs=1e-5)


@pytest.mark.parametrize("atoms", ["positions", "channels"])
def test_path_dependence_is_a_walk_along_each_path(atoms: str) -> None:
    runs, x, written, a = network()
    paths, steps, seed = 2, 4, 5
    found = explain("path_dependence", runs, x, layer="lower", atoms=atoms, paths=paths, steps=steps, seed=seed)
    rng, every = np.random.default_rng(seed), []
    for _ in range(paths):
        exponents = [3.0**u for u in rng.uniform(-1, 1, CHANNELS)]
        parts = np.zeros_like(a)
        for step in range(steps):
            middle = np.stack([a[c] * ((step + 0.5) / steps) ** exponents[c] for c in range(CHANNELS)])
            derivative = slope(lambda at: float(written.scores(at)[CLASS]), middle)
            for c in range(CHANNELS):
                gone = ((step + 1) / steps) ** exponents[c] - (step / steps) ** exponents[c]
                parts[c] += a[c] * derivative[c] * gone
        every.append(parts.sum((1, 2)) if atoms == "channels" else parts.sum(0))
    assert found.values[0] == pytest.approx(np.mean(every, axis=0), abs=1e-5)
    assert found.spread is not None
    assert found.spread[0] == pytest.approx(np.std(every, axis=0, ddof=1), abs=1e-5)
    whole = written.scores(a)[CLASS] - written.scores(np.zeros_like(a))[CLASS]
    assert found.total == pytest.approx([whole], abs=1e-5)


@pytest.mark.parametrize("atoms", ["positions", "channels"])
def test_linear_is_a_loop_over_atoms_that_takes_each_away(atoms: str) -> None:
    runs, x, written, a = network()
    found = explain("linear", runs, x, layer="lower", atoms=atoms)
    derivative = slope(lambda at: float(written.scores(at)[CLASS]), a)
    places = [(c,) for c in range(CHANNELS)] if atoms == "channels" else list(np.ndindex(SIDE, SIDE))
    parts, falls = np.zeros((2, len(places)))
    for number, place in enumerate(places):
        where = place if atoms == "channels" else (slice(None), *place)
        parts[number] = (a[where] * derivative[where]).sum()
        without = a.copy()
        without[where] = 0
        falls[number] = written.scores(a)[CLASS] - written.scores(without)[CLASS]
    assert found.values[0].ravel() == pytest.approx(parts, abs=1e-5)
    removed = found.parts["removed"][0]
    assert sorted(removed.tolist()) == list(range(len(places)))
    assert found.parts["removal_effects"][0] == pytest.approx(falls[removed], abs=1e-5)


def test_smoothgrad_is_a_mean_over_copies_one_by_one() -> None:
    runs, x, written, _ = network()
    samples, noise, seed = 6, 0.1, 3
    found = explain("smoothgrad", runs, x, samples=samples, noise=noise, seed=seed)
    drawn = np.random.default_rng(seed).standard_normal((samples, *x.shape[1:]), np.float32)
    each = []
    for copy in drawn:
        at = (x[0] + np.float32(noise * float(x.max() - x.min())) * copy).astype(float)
        each.append(slope(lambda inputs: float(written.scores(written.lower(inputs))[CLASS]), at))
    mean, error = np.mean(each, axis=0), np.std(each, axis=0, ddof=1) / np.sqrt(samples)
    assert found.spread is not None
    for y in range(SIDE):
        for z in range(SIDE):
            colour = max(range(COLOURS), key=lambda c: abs(mean[c, y, z]))
            assert found.values[0, y, z] == pytest.approx(abs(mean[colour, y, z]), abs=1e-4)
            assert found.spread[0, y, z] == pytest.approx(error[colour, y, z], abs=1e-4)


def test_deeplift_is_a_walk_back_through_every_layer() -> None:
    runs, x, written, _ = network()
    found = explain("deeplift_rescale", runs, x, reference=0.25)
    ends = [x[0].astype(float), np.full_like(x[0], 0.25, dtype=float)]
    sums = [convolved(end, written.first) for end in ends]
    lower = [np.maximum(one, 0) for one in sums]
    inner = [convolved(one, written.kernel) for one in lower]
    upper = [np.tanh(one) for one in inner]
    means = [2 * one.mean((1, 2)) for one in upper]
    squashed = [np.tanh(one) for one in means]

    def rescaled(outputs: list[Float64], inputs: list[Float64]) -> Float64:
        return (outputs[0] - outputs[1]) / (inputs[0] - inputs[1])

    back = written.dense[:, CLASS] * rescaled(squashed, means) * 2 / SIDE**2
    back = back[:, None, None] * rescaled(upper, inner)
    back = convolved_back(back, written.kernel) * rescaled(lower, sums)
    parts = (ends[0] - ends[1]) * convolved_back(back, written.first)
    assert found.values[0] == pytest.approx(parts.sum(0), abs=1e-5)
    assert found.total == pytest.approx([(squashed[0] - squashed[1]) @ written.dense[:, CLASS]], abs=1e-5)
