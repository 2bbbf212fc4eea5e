"""The benchmarks measure what they claim to measure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from bench import page
from bench.__main__ import known
from bench.audits import of_pictures, of_rows
from bench.measure import Case, Spent, measured, middle
from bench.networks import bert_base, googlenet, perceptron, resnet50, vit_base
from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.onnx.session import open_session
from tests.needed import package


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: [one.dim_value for one in value.type.tensor_type.shape.dim][1:]
        for value in [*inferred.value_info, *inferred.output]
    }


def test_layers_have_the_sizes_that_the_page_names() -> None:
    found = shapes(googlenet())
    assert (np.prod(found["inception4c"]), np.prod(found["pool"])) == (100_352, 1_024)
    assert shapes(resnet50())["stage3"] == [1024, 14, 14]


def test_networks_have_as_many_weights_as_the_published_ones() -> None:
    for model, millions in ((googlenet(), 6.6), (resnet50(), 25.5)):
        weights = sum(int(np.prod(one.dims)) for one in model.graph.initializer)
        assert weights / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    sizes = {"concept": 2, "reference": 2, "targets": 2, "network": lambda: perceptron(4, [3])}
    for folder in ("one", "other"):
        of_pictures(tmp_path / folder, **sizes)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_a_case_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    question = of_rows(tmp_path)
    spent = measured(Case("bench.cases:audit", {"folder": str(tmp_path), "document": question.document}))
    assert 0 < spent.wall < 60
    assert 0 < spent.before <= spent.peak <= spent.resident
    assert spent.figures == {"tests": 1}


def test_the_middle_of_several_runs_is_their_median() -> None:
    assert middle([Spent(wall, 1, 5, 2, 7) for wall in (9, 1, 3)]) == Spent(3, 1, 5, 2, 7)


def test_a_missed_aim_is_said_so() -> None:
    assert page.at_least(1.5, 1.7) == ["1.5 x", "≥ 1.7 x", "**no**"]
    assert page.at_most(0.9, 1) == ["0.9", "≤ 1", "yes"]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("network", "shape", "layer"),
    [
        (googlenet, (1, 3, 224, 224), "inception4c"),
        (vit_base, (1, 3, 224, 224), "block6"),
        (partial(bert_base, tokens=4, words=50), (3, 4), "block6"),
    ],
    ids=["googlenet", "vit", "bert"],
)
def test_the_torch_network_is_the_same_network(
    tmp_path: Path, network: Callable[[], onnx.ModelProto], shape: tuple[int, ...], layer: str
) -> None:
    package("torch")
    import torch

    from bench.torch_network import TorchNetwork

    path, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    onnx.save(network(), path)
    x = (rng.normal(size=shape) if len(shape) > 2 else rng.integers(50, size=shape)).astype(np.float32)
    ours = open_session(expose(load(path), [layer, "logits"])).run({"input": x})
    with torch.no_grad():
        logits, found = TorchNetwork(onnx.load(path))(torch.from_numpy(x), layer)
    np.testing.assert_allclose(logits.numpy(), ours["logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.detach().numpy(), ours[layer], rtol=1e-4, atol=1e-4)


def test_a_section_of_the_page_can_be_measured_again() -> None:
    page = "# Benchmarks\n\n<!-- audit -->\nold\n<!-- /audit -->\n\n<!-- scaling -->\nkept\n<!-- /scaling -->\n"
    assert known(page) == {
        "audit": "<!-- audit -->\nold\n<!-- /audit -->\n",
        "scaling": "<!-- scaling -->\nkept\n<!-- /scaling -->\n",
    }
