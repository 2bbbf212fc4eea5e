"""An audit reads a layer with few features itself, and one with many by the inner products of its examples."""

from __future__ import annotations

from typing import Any

import pytest

from caveat_worker.engine.activations import feature_space, layer_products
from caveat_worker.engine.activations.requirements import Layer
from tests.audits.conftest import Bench


def numbers(value: object) -> list[float]:
    """Every number of a document, in order."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("estimator", ["mean_difference", "logistic"])
def test_a_report_is_the_same_by_features_and_by_inner_products(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    multiplied: list[str] = []
    fill = layer_products._multiplied_out

    def counted(collected: Any, runtime: Any, layer: Layer, k: Any) -> Any:
        multiplied.append(layer.name)
        return fill(collected, runtime, layer, k)

    monkeypatch.setattr(layer_products, "_multiplied_out", counted)
    bench.document["method"]["estimator"] = estimator
    by_features = bench.run()
    assert not multiplied
    monkeypatch.setattr(feature_space, "FEWER", 1 << 20)
    by_examples = bench.run()
    assert multiplied == ["hidden1"]
    assert [line.outcome for line in by_features.verdict.lines] == [line.outcome for line in by_examples.verdict.lines]
    for ours, theirs in zip(by_features.associations, by_examples.associations, strict=True):
        if abs(theirs.effect.value) > 1e-9:  # an effect of zero is rounding, and its p-value one of rounding
            assert numbers(ours.model_dump()) == pytest.approx(numbers(theirs.model_dump()), rel=2e-6, abs=1e-6)
    assert abs(by_features.associations[0].effect.value) > 0.1
