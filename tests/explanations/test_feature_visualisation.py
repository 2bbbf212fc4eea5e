"""Feature visualisation: its derivative, planted Gabors, sizes, and pictures that are worse than an example."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.differentiate import expose, vjp
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.resized import resized
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.feature_visualisation import (
    Aim,
    Ascend,
    Palette,
    feature_visualisation,
    frequency_scale,
    parts_of,
    picture_of,
    pulled_back,
)
from caveat_worker.engine.onnx.session import open_session
from tests.engine.nets import Net

SIDE, FIELD, WAVE = 48, 21, 7.0
ANGLES = (0.0, 36.0, 72.0, 108.0, 144.0)


def noise_palette(colours: int = 1, seed: int = 0) -> Palette:
    x = np.random.default_rng(seed).uniform(-1, 2, (8, colours, 16, 16)).astype(np.float32)
    return Palette.of(x)


def gabors() -> bytes:
    """A convolution with a Gabor patch for each angle, and what is above 0 of it."""
    places = np.arange(FIELD) - FIELD // 2
    y, x = np.meshgrid(places, places, indexing="ij")
    envelope = np.exp(-(x**2 + y**2) / (2 * (FIELD / 5) ** 2))
    waves = [np.cos(2 * np.pi / WAVE * (x * np.cos(a) + y * np.sin(a))) for a in np.deg2rad(ANGLES)]
    filters = np.stack([envelope * wave for wave in waves])
    net = Net(0)
    filters = (filters - filters.mean((1, 2), keepdims=True))[:, None].astype(np.float32)
    seen = net.op("Relu", net.op("Conv", "x", net.constant(filters)))
    scores = net.op("Flatten", net.op("GlobalAveragePool", seen))
    return net.model(("n", 1, SIDE, SIDE), scores)


def angle_of(picture: NDArray[np.float32]) -> float:
    """The direction of the strongest wave in a picture [height, width], in degrees from 0 to 180."""
    power = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    fy, fx = (np.fft.fftfreq(size) for size in picture.shape)
    y, x = np.meshgrid(fy, fx, indexing="ij")
    radius = np.hypot(y, x)
    power[(radius < 0.5 / WAVE) | (radius > 2 / WAVE)] = 0
    doubled = (power * np.exp(2j * np.arctan2(y, x))).sum()  # a wave and its mirror image are one direction
    return float(np.rad2deg(np.angle(doubled)) / 2 % 180)


def ascent(model: bytes, aim: Aim) -> tuple[Ascend, str]:
    loaded = load(model, interacts=False)
    layer = next(node.outputs[0].name for node in loaded.ir.graph if node.op_type == "Relu")
    assert layer is not None
    top, back = open_session(expose(loaded, [layer]), threads=1), open_session(vjp(loaded, layer, ["x"]), threads=1)

    def ascend(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        a = top.run({"x": x})[layer]
        return aim.values(a), back.run({"x": x, f"seed/{layer}": aim.derivatives(a)})["gradient/x"]

    return ascend, layer


@pytest.mark.parametrize("channel", range(len(ANGLES)))
def test_a_planted_gabor_is_found_within_five_degrees(channel: int) -> None:
    ascend, _ = ascent(gabors(), Aim(np.eye(1, len(ANGLES), channel)[0]))
    made = feature_visualisation(ascend, noise_palette(), (SIDE, SIDE), [[0, channel]], 48)
    error = abs((angle_of(made.shares[0, 0]) - ANGLES[channel] + 90) % 180 - 90)
    assert error <= 5
    assert made.responses[0] > made.rise[0, 0]
    assert ((made.shares >= 0) & (made.shares <= 1)).all()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 5)])
def test_frequencies_have_the_derivative_of_finite_differences(size: tuple[int, int]) -> None:
    rng, palette = np.random.default_rng(1), noise_palette(3)
    scale = frequency_scale(size)
    parts, g = rng.standard_normal((1, 2, 3, *scale.shape)).astype(np.float32), rng.standard_normal((1, 3, *size))

    def value(at: NDArray[np.float32]) -> float:
        return float((g * picture_of(at, scale, palette, size)).sum(dtype=float))

    shares = picture_of(parts, scale, palette, size)
    found = pulled_back((g * shares * (1 - shares)).astype(np.float32), scale, palette)
    for place in list(np.ndindex(parts.shape))[::3]:
        step = np.zeros_like(parts)
        step[place] = 1e-2
        assert found[place] == pytest.approx((value(parts + step) - value(parts - step)) / 2e-2, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("shape", [(1, 5), (1, 4, 5), (1, 5, 3, 4)])
def test_slopes_are_the_derivative_of_the_response_times_the_cosine(shape: tuple[int, ...], centre: bool) -> None:
    rng = np.random.default_rng(0)
    v = rng.standard_normal(5)
    near = np.expand_dims(2 * v, (0, *range(2, len(shape)))) if len(shape) == 4 else 2 * v
    a = (rng.standard_normal(shape) + near).astype(np.float32)
    aim = Aim(v, cosine=True, centre=centre)

    def raised(at: NDArray[np.float64]) -> float:
        wide = at.reshape(1, -1, 5) if len(shape) < 4 else np.moveaxis(at, 1, -1).reshape(1, -1, 5)
        middle = {2: 0, 3: 2, 4: 1 * 4 + 2}[len(shape)]
        h = wide[0, middle] if centre else wide[0].mean(0)
        return float((h @ v) ** 2 / np.linalg.norm(h) / np.linalg.norm(v))

    found = aim.derivatives(a)
    for place in np.ndindex(shape):
        step = np.zeros(shape)
        step[place] = 1e-4
        assert found[place] == pytest.approx((raised(a + step) - raised(a - step)) / 2e-4, rel=1e-3, abs=1e-5)


def test_the_response_to_an_example_is_that_of_a_picture() -> None:
    rng = np.random.default_rng(0)
    a, v = rng.standard_normal((3, 5, 4, 4)).astype(np.float32), rng.standard_normal(5)
    aim = Aim(v, origin=0.5)
    found, places = aim.responses(a)
    np.testing.assert_allclose(found, aim.values(a))
    along = np.einsum("nchw,c->nhw", a, v).reshape(3, -1)
    np.testing.assert_array_equal(places, along.argmax(1))
    np.testing.assert_allclose(Aim(v, centre=True).responses(a)[0], along.max(1), rtol=1e-6)


def test_colours_of_a_set_keep_their_range_and_mixture() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20, 1, 8, 8)) * np.array([1, 1, 0.1])[None, :, None, None]).astype(np.float32)
    palette = Palette.of(x)
    np.testing.assert_array_equal(palette.low, x.min((0, 2, 3)))
    np.testing.assert_array_equal(palette.high, x.max((0, 2, 3)))
    painted = palette.painted(np.ones((1, 3, 2, 2), np.float32))
    np.testing.assert_allclose(painted[0, :, 0, 0], palette.high, rtol=1e-6)
    same = palette.mixing @ palette.mixing.T  # all three are one number, in shares of their ranges
    np.testing.assert_allclose(same / same[0, 0], np.ones((3, 3)), rtol=1e-3)


def test_a_model_at_another_size_has_the_numbers_of_one_made_for_it() -> None:
    def made_for(side: int) -> bytes:
        net = Net(5)
        seen = net.op("Relu", net.op("Conv", "x", net.weight(4, 3, 3, 3), pads=[1, 1, 1, 1]))
        pooled = net.op("MaxPool", seen, kernel_shape=[2, 2], strides=[2, 2])
        return net.model(("n", 3, side, side), net.op("Flatten", net.op("GlobalAveragePool", pooled)))

    large, small = load(made_for(32), interacts=False), load(made_for(16), interacts=False)
    layer = next(node.outputs[0].name for node in large.ir.graph if node.op_type == "MaxPool")
    own = next(node.outputs[0].name for node in small.ir.graph if node.op_type == "MaxPool")
    assert layer is not None
    assert own is not None
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    found = open_session(expose(resized(large, "x", (None, None, 16, 16), layer), [layer]), threads=1).run({"x": x})
    np.testing.assert_array_equal(found[layer], open_session(expose(small, [own]), threads=1).run({"x": x})[own])
    assert large.inputs[0].shape == ("n", 3, 32, 32)


def test_what_a_reshape_fixes_does_not_run_at_another_size() -> None:
    net = Net(5)
    flat = net.op("Reshape", net.op("Relu", "x"), net.constant([-1, 3 * 32 * 32], np.int64))
    model = load(net.model(("n", 3, 32, 32), net.dense(flat, 3 * 32 * 32, 2)), interacts=False)
    layer = next(node.outputs[0].name for node in model.ir.graph if node.op_type in ("Gemm", "Add", "MatMul"))
    assert layer is not None
    x = np.zeros((2, 3, 16, 16), np.float32)
    with pytest.raises(InvalidInput):
        open_session(expose(resized(model, "x", (None, None, 16, 16), layer), [layer]), threads=1).run({"x": x})


def test_an_atom_that_noise_leaves_still_begins_with_an_example() -> None:
    palette, size = noise_palette(3), (16, 16)
    example = palette.painted(np.random.default_rng(5).uniform(0.1, 0.9, (1, 3, *size)).astype(np.float32))
    scale = frequency_scale(size)
    again = palette.painted(picture_of(parts_of(example, scale, palette), scale, palette, size))
    np.testing.assert_allclose(again, example, atol=2e-3)
    wanted = (example - example.mean()).astype(np.float64)

    def ascend(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Responds only to what is like the example, wherever it was moved to."""
        spectrum = np.fft.fft2(x) * np.conj(np.fft.fft2(wanted))
        along = np.fft.ifft2(spectrum).real.sum(1)
        row, column = np.unravel_index(along[0].argmax(), size)
        response = along[0, row, column] - 0.5 * (wanted**2).sum()
        slope = np.roll(wanted, (row, column), (2, 3)) if response > 0 else np.zeros_like(wanted)
        return np.array([max(response, 0.0)]), slope.astype(np.float32)

    still = feature_visualisation(ascend, palette, size, [[0]], 16)
    assert not still.rise.any()
    found = feature_visualisation(ascend, palette, size, [[0]], 16, instead=example)
    assert found.rise[0, 0] > 0
    assert found.responses[0] > found.rise[0, 0]
