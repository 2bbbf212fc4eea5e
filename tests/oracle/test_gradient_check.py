"""The gradient check on hundreds of right networks and on broken rules; torch is the witness that they are right."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.onnx.session import open_session
from tests.engine.ordinary import Case, network
from tests.engine.test_rules import ROWS
from tests.oracle import autograd
from tests.oracle.exports import as_onnx
from tests.oracle.mutants import AMONG_KINKS, Judged, judged, judged_among_kinks, quiet

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TARGET = Target("t", index=0)
TOLERANCE = 0.01
"""What an audit allows by default."""
NETWORKS = 200
COMPARED = [i for i in range(48) if i % 16 != 15]  # recurrent cells are not in the interpreter


def refused(case: Case) -> list[str]:
    """Why layers are refused, over all of a network's layers and its input."""
    model = load(case.content)
    layers = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable]
    checks = check_gradients(model, [*layers[::3], "x"], [TARGET], {"x": case.x}, seed=0, tolerance=TOLERANCE)
    return [f"{case.name}: {check.explain(TOLERANCE)}" for check in checks if not check.ok]


def test_no_right_network_is_refused() -> None:
    assert [why for i in range(NETWORKS) for why in refused(network(i))] == []


@pytest.mark.parametrize("number", COMPARED)
def test_these_networks_are_right_by_torch(number: int) -> None:
    case = network(number)
    model = load(case.content)
    ours = open_session(differentiate(model, ["x"], [TARGET]), threads=1).run({"x": case.x})["gradient/t/x"]
    logits = resolve_target(model, TARGET).tensor
    theirs = autograd.gradients(model.ir, {"x": case.x}, ["x"], logits, 0, torch.float32)["x"].numpy()
    assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs), case.name


def trained() -> Iterator[Case]:
    """Convolutional networks that torch has trained to tell which quarter of a picture is bright."""
    for seed in range(10):
        torch.manual_seed(seed)
        widths = [3, *(8 * (1 + seed % 3) for _ in range(1 + seed % 3))]
        blocks = [
            layer for c, m in pairwise(widths) for layer in (nn.Conv2d(c, m, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        ]
        size = 32 >> (len(widths) - 1)
        net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(widths[-1] * size * size, 32), nn.ReLU(), nn.Linear(32, 4))
        optimiser = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(60):
            x, y = torch.rand(32, 3, 32, 32), torch.randint(0, 4, (32,))
            for picture, quarter in zip(x, y.tolist(), strict=True):
                top, left = 16 * (quarter // 2), 16 * (quarter % 2)
                picture[:, top : top + 16, left : left + 16] += 0.3
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
        pictures = torch.rand(4, 3, 32, 32)
        yield Case(f"trained {seed}", as_onnx(net.eval(), pictures), pictures.numpy())


def test_no_trained_network_is_refused() -> None:
    assert [why for case in trained() for why in refused(case)] == []


def share_caught(results: list[Judged]) -> float:
    """Of the mutants whose gradient is farther from the right one than the tolerance."""
    caught = sum(one.outcome == "caught" for one in results)
    return caught / (caught + sum(one.outcome == "missed" for one in results))


@pytest.mark.timeout(1200)
def test_a_broken_rule_is_caught() -> None:
    with quiet():
        results = list(judged(ROWS))
    assert len({one.operator for one in results}) >= 113
    assert sum(one.outcome == "caught" for one in results) > 1200
    assert share_caught(results) >= 0.99, [one for one in results if one.outcome == "missed"]


@pytest.mark.timeout(1200)
def test_a_broken_rule_is_caught_among_kinks() -> None:
    with quiet():
        results = list(judged_among_kinks([network(i) for i in AMONG_KINKS]))
    assert sum(one.outcome == "caught" for one in results) > 200
    assert share_caught(results) >= 0.99, [one for one in results if one.outcome == "missed"]
