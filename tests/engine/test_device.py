"""Inner products through ONNX Runtime's IO binding, on the CPU's memory in place of a GPU's."""

from __future__ import annotations

import numpy as np
import pytest

from caveat_worker.engine.activations import device
from caveat_worker.engine.activations.device import DeviceProducts
from caveat_worker.engine.activations.gram import Product, gram, products
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import _gpu_bytes, _providers, gpu_bytes, limit_gpu, why_not


@pytest.mark.parametrize("n", [3, 50])
def test_they_are_those_of_the_host(n: int) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, 130)) + 5).astype(np.float32)
    g = rng.normal(size=(7, 130)).astype(np.float32)
    multiply = DeviceProducts("cpu", threads=1, rows=16, width=32)
    k, gx = np.empty((n, n)), np.empty((7, n))
    multiply([Product(x, x, k), Product(g, x, gx)])
    np.testing.assert_allclose(k, gram(x), rtol=1e-13)
    np.testing.assert_allclose(gx, products(g, x), rtol=1e-9, atol=1e-10)
    assert (k == k.T).all()


def test_blocks_stay_on_the_device_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    original = device.ort.OrtValue.ortvalue_from_numpy

    def counted(values: np.ndarray, *where: object) -> object:
        copied.append(values.nbytes)
        return original(values, *where)

    multiply = DeviceProducts("cpu", threads=1, rows=16, width=32)
    monkeypatch.setattr(device.ort.OrtValue, "ortvalue_from_numpy", counted)
    x = np.ones((32, 64), np.float32)
    out = np.empty((32, 32))
    for _ in range(2):
        multiply([Product(x, x, out)])
    assert sum(copied) == x.nbytes
    multiply._most = 4 * 16 * 32 * 4
    multiply([Product(x[:16], x, out[:16])])
    assert multiply._held <= multiply._most // 2
    np.testing.assert_array_equal(out, np.full((32, 32), 64.0))


def test_what_is_not_finite_is_refused() -> None:
    x = np.full((2, 3), np.inf, np.float32)
    with pytest.raises(InvalidInput, match="not finite"):
        DeviceProducts("cpu", threads=1)([Product(x, x, np.empty((2, 2)))])


def test_sessions_share_what_a_job_may_take_of_a_gpu() -> None:
    before = _gpu_bytes.get()
    try:
        limit_gpu(9 << 30)
        assert gpu_bytes() == 3 << 30
        (name, options), rest = _providers("cuda")
        assert (name, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert options["gpu_mem_limit"] == 3 << 30
        assert options["use_tf32"] == 0
    finally:
        limit_gpu(before)


def test_the_cpu_is_always_there() -> None:
    assert why_not("cpu") is None
