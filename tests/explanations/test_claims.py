"""Every explanation keeps its claim, on formulas whose answer is known and on random networks of nine families.

A quick subset runs in `make test`: one network of each family; the rest is slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest

from caveat_spec.explanations import explanations
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import explanation
from caveat_worker.engine.explanations.attributed import Attributed
from tests.engine.nets import Net, resnet
from tests.engine.ordinary import Ordinary
from tests.explanations.literal import LINEAR, PAIR, PRODUCT, Literal, W
from tests.explanations.models import around_noise, bytes_of_pictures, opened, single_number
from tests.explanations.networks import ALL, FAMILIES, PIECEWISE, QUICK, example, middle

X = np.array([[1.0, 2.0, -3.0, 4.0]])
PARTS = W * X[0]
"""What each input of the linear formula adds, compared with zero."""


def explain(name: str, runs: Any, x: Any, **options: Any) -> Attributed:
    one = explanation(name)
    return one.run(runs, x, one.entry.options(**options))


@dataclass(frozen=True)
class Claim:
    """What an explanation finds in a linear model, and what its parts add up to in any model."""

    name: str
    linear: Any
    """The values of the linear formula at X."""
    sums_to: Callable[[Any, Any], float] | None = None
    """What values and rest add up to; None for values that are no parts."""
    tolerance: float = 1e-4
    """As a share of the score's size."""
    options: dict[str, Any] | None = None
    own: bool = False
    """Whether its values are the example's own numbers, also where the model does not read them."""
    apart: bool = False
    """Whether it needs layers with positions, or classes, and has tests of its own for them."""


def score(runs: Any, x: Any) -> float:
    return float(runs.scores(x)[0])


def gain(runs: Any, x: Any) -> float:
    """S(x) - S(0)."""
    return score(runs, x) - score(runs, np.zeros_like(x))


CLAIMS = [
    Claim("saliency", np.abs(W)),
    Claim("gradient_x_input", PARTS, score),
    Claim("smoothgrad", np.abs(W), options={"samples": 8}),
    Claim("lrp", PARTS, score, tolerance=1e-3),
    Claim("deeplift_rescale", PARTS, gain),
    Claim("integrated_gradients", PARTS, gain, tolerance=0.011),
    Claim("occlusion", PARTS),
    Claim("shapley", PARTS, gain, options={"permutations": 4, "regions": 3}),
    Claim("linear", PARTS, score, options={"layer": "input", "atoms": "neurons", "confirm": 0}),
    Claim("path_dependence", PARTS, gain, tolerance=0.11, options={"layer": "input", "paths": 3, "steps": 128}),
    Claim("activation", X[0], options={"layer": "input"}, own=True),
    Claim("multi_class", None, apart=True),
    Claim("layer_to_layer", None, apart=True),
    Claim("cav_attribution", None, apart=True),
    Claim("concept_score", None, apart=True),
    Claim("activation_norm", None, apart=True),
    Claim("principal_components", None, apart=True),
    Claim("groups", None, apart=True),
    Claim("compatible_groups", None, apart=True),
    Claim("bag_of_features", None, apart=True),
    Claim("informative_patches", None, apart=True),
    Claim("influence", None, apart=True),
    Claim("discover", None, apart=True),
]
BY_NAME = {claim.name: claim for claim in CLAIMS}


def test_every_explanation_has_a_claim_and_a_function() -> None:
    assert set(explanations()) == set(BY_NAME)
    assert all(explanation(name).run.__name__ == name for name in BY_NAME)


@pytest.mark.parametrize("claim", [claim for claim in CLAIMS if not claim.apart], ids=lambda claim: claim.name)
def test_a_linear_model_is_explained_exactly(claim: Claim) -> None:
    found = explain(claim.name, Literal(*LINEAR), X, **(claim.options or {}))
    assert found.values.reshape(-1) == pytest.approx(claim.linear, abs=1e-6)
    assert claim.own or found.values.reshape(-1)[3] == 0  # an input that the model does not read


NETWORKS = {
    network: pytest.param(
        *network, marks=[] if network in QUICK else [pytest.mark.slow], id="-".join(map(str, network))
    )
    for network in ALL
}


REFUSED = {("lrp", "transformer")}
"""ε-LRP has no rule for layer normalisation."""
WITHHELD = {
    ("lrp", "mobile", 1),  # a gate of HardSigmoid at exactly 0 passes on what no input has
    ("deeplift_rescale", "transformer", 1),  # layer normalisation of the zero reference divides by √ε
    ("path_dependence", "transformer", 1),  # and is steep where paths begin
}
"""What is known not to add up, and is therefore not drawn."""


@pytest.mark.parametrize(("family", "seed"), NETWORKS.values())
def test_claims_hold_on_random_networks(family: str, seed: int) -> None:
    runs, x = example(family, seed)
    for claim in (claim for claim in CLAIMS if not claim.apart):
        if (claim.name, family) in REFUSED:
            with pytest.raises(InvalidInput, match="rules of 'relevance' do not cover this model"):
                explain(claim.name, runs, x)
            continue
        found = explain(claim.name, runs, x, **(claim.options or {}))
        assert np.isfinite(found.values).all(), claim.name
        assert (found.withheld is not None) == ((claim.name, family, seed) in WITHHELD), (claim.name, found.withheld)
        if claim.sums_to is None or found.withheld is not None:
            continue
        assert found.total is not None
        assert found.rest is not None
        whole = claim.sums_to(runs, x)
        assert found.total[0] == pytest.approx(whole, abs=1e-5), claim.name
        added = found.values.sum() + found.rest[0]
        assert added == pytest.approx(whole, abs=claim.tolerance * max(abs(whole), 1e-2)), claim.name


@pytest.mark.parametrize(("family", "seed"), [one for network, one in NETWORKS.items() if network[0] in PIECEWISE])
def test_what_is_left_to_no_input_of_a_piecewise_linear_network_is_in_its_biases(family: str, seed: int) -> None:
    runs, x = example(family, seed)
    found = explain("gradient_x_input", runs, x)
    assert found.rest is not None
    assert found.rest[0] == pytest.approx(runs.bias_part(x), abs=1e-4)


@pytest.mark.parametrize(("family", "seed"), NETWORKS.values())
def test_positions_and_channels_of_a_layer_have_the_same_sum(family: str, seed: int) -> None:
    runs, x = example(family, seed)
    layer = middle(runs)
    sums = [
        explain("linear", runs, x, layer=layer, atoms=atoms, confirm=0).values.sum()
        for atoms in ("positions", "channels", "neurons")
    ]
    assert sums[1:] == pytest.approx([sums[0]] * 2, rel=1e-9, abs=1e-12)


class TestIntegratedGradients:
    def test_pairs_example_is_integrated_to_a_millionth(self) -> None:
        x = np.array([[1.5, -2.0, 0.8]])
        found = explain("integrated_gradients", Literal(*PAIR), x, tolerance=1e-6, most=4096)
        assert found.values[0] == pytest.approx([7.5, 4.0, np.sin(0.8)], abs=1e-5)
        assert found.withheld is None

    def test_a_product_is_shared_equally(self) -> None:
        found = explain("integrated_gradients", Literal(*PRODUCT), np.array([[3.0, 2.0]]))
        assert found.values[0] == pytest.approx([3, 3])

    def test_it_takes_a_few_gradients_where_few_are_enough(self) -> None:
        assert explain("integrated_gradients", Literal(*LINEAR), X).passes < 60

    def test_it_goes_on_where_errors_only_cancel(self) -> None:
        """A jump up and one down, which no derivative shows: eight points already add up to the difference."""
        jumps = Literal(lambda x: x[:, 0] + ((x[:, 0] > 0.3) & (x[:, 0] < 0.7)), lambda x: np.ones_like(x))
        assert explain("integrated_gradients", jumps, np.array([[1.0]]), most=32).passes == 32 * 5 + 2

    def test_what_does_not_add_up_is_withheld(self) -> None:
        step = Literal(lambda x: (x[:, 0] > 0.77).astype(float), lambda x: 0 * x + 1e-3)
        found = explain("integrated_gradients", step, np.array([[1.0, 0.0]]), most=16)
        assert found.withheld is not None
        assert "is missing" in found.withheld


class TestSmoothGrad:
    def test_without_noise_it_is_saliency(self) -> None:
        runs, x = example("cnn", 0)
        smooth = explain("smoothgrad", runs, x, noise=0.0, samples=2)
        assert smooth.values == pytest.approx(explain("saliency", runs, x).values, abs=1e-7)

    def test_four_times_the_samples_halve_the_error(self) -> None:
        runs, x = example("tanh", 0)
        few, many = (explain("smoothgrad", runs, x, samples=n, noise=0.3).spread for n in (256, 1024))
        assert few is not None
        assert many is not None
        assert np.median(few / many) == pytest.approx(2, rel=0.2)

    def test_columns_of_a_table_have_noise_of_their_own_range(self) -> None:
        """S = x₁² + x₂² is steep at large numbers, and a column that does not vary gets no noise."""
        runs = Literal(lambda x: (x**2).sum(1), lambda x: 2 * x)
        runs.ranges = np.array([[1.0, 1000.0, 0.0]])
        found = explain("smoothgrad", runs, np.array([[5.0, 20_000.0, 7.0]]), samples=256)
        assert found.spread is not None
        assert found.values[0] == pytest.approx([10, 40_000, 14], rel=0.01)
        assert found.spread[0] == pytest.approx([2 * 0.15 / 16, 2 * 150 / 16, 0], rel=0.2)
        assert "15% of each column's range" in found.notes[0]


class TestOcclusion:
    def test_a_window_over_several_inputs_has_the_sum_of_what_they_add(self) -> None:
        found = explain("occlusion", Literal(*LINEAR), X, window=2)
        assert found.values[0] == pytest.approx([0, 0, -1.5, -1.5])

    def test_overlapping_windows_are_averaged(self) -> None:
        found = explain("occlusion", Literal(*LINEAR), X, window=2, stride=1)
        assert found.values[0] == pytest.approx([0, (0 - 3.5) / 2, (-3.5 - 1.5) / 2, -1.5])

    def test_it_is_what_a_loop_over_windows_finds(self) -> None:
        runs, x = example("vgg", 0)
        found = explain("occlusion", runs, x, window=5, fill=0.5)
        expected = np.zeros((16, 16))
        for top in range(0, 16, 5):
            for left in range(0, 16, 5):
                covered = x.copy()
                covered[:, :, top : top + 5, left : left + 5] = 0.5
                expected[top : top + 5, left : left + 5] = score(runs, x) - score(runs, covered)
        assert found.values[0] == pytest.approx(expected, abs=1e-5)
        assert "rank correlation" in found.notes[1]

    def test_a_blurred_fill_is_for_pictures_only(self) -> None:
        with pytest.raises(InvalidInput, match="Only pictures can be blurred"):
            explain("occlusion", Literal(*LINEAR), X, fill="blurred")


class TestShapley:
    def test_it_is_the_mean_over_all_orders(self) -> None:
        runs, x = example("maxout", 1)
        x = x.copy()
        x[0, 6:] = 0  # what is like the reference adds nothing, which leaves six parts
        found = explain("shapley", runs, x, permutations=400)
        values, orders = np.zeros(6), list(permutations(range(6)))
        scores = {}
        for order in orders:
            there = np.zeros_like(x)
            for part in order:
                before = scores.setdefault(there.tobytes(), score(runs, there))
                there[0, part] = x[0, part]
                values[part] += scores.setdefault(there.tobytes(), score(runs, there)) - before
        assert found.values[0, :6] == pytest.approx(values / len(orders), abs=1e-5)
        assert found.values[0, 6:] == pytest.approx(np.zeros(6), abs=1e-6)

    def test_errors_cover_the_difference_from_the_exact_values(self) -> None:
        rng = np.random.default_rng(3)
        pairs = rng.standard_normal((24, 24))
        runs = Literal(lambda x: np.tanh(((x @ pairs) * x).sum(1) / 24), lambda x: x)
        x = rng.standard_normal((1, 24))
        sampled = explain("shapley", runs, x, permutations=64, seed=1)
        better = explain("shapley", runs, x, permutations=2048, seed=2)
        assert sampled.spread is not None
        off = np.abs(sampled.values - better.values) / np.maximum(sampled.spread, 1e-12)
        assert np.mean(off < 2.5) > 0.9
        assert sampled.withheld is None

    def test_categories_are_replaced_by_the_typical_one(self) -> None:
        wages = {"cook": 1.0, "smith": 3.0}
        runs = Literal(lambda x: x, lambda x: x, typical=np.array([["cook", 10.0]], object))
        runs.scores = lambda x: np.array([wages[job] * float(years) for job, years in x])  # type: ignore[method-assign]
        found = explain("shapley", runs, np.array([["smith", 4.0]], object))
        assert found.values[0].tolist() == [14.0, -12.0]
        assert found.total is not None
        assert found.total[0] == 2.0
        with pytest.raises(InvalidInput, match="Columns of categories"):
            explain("shapley", runs, np.array([["smith", 4.0]], object), fill="zero")


class TestLinear:
    def test_removal_of_a_linear_rest_confirms_every_atom(self) -> None:
        found = explain("linear", Literal(*LINEAR), X, layer="input", atoms="neurons")
        removed, effects = found.parts["removed"][0], found.parts["removal_effects"][0]
        assert effects == pytest.approx(PARTS[removed])
        assert found.withheld is None

    def test_an_order_that_removal_contradicts_is_withheld(self) -> None:
        """Both rows say the same to the derivative, but one input saturates."""
        runs = Literal(
            lambda x: np.minimum(x[:, 0], 1) + x[:, 1] - 0.1 * x[:, 2], lambda x: np.array([[-1.0, 1, -0.1]])
        )
        found = explain("linear", runs, np.array([[9.0, 2.0, 5.0]]), layer="input", atoms="neurons")
        assert found.withheld is not None
        assert "not confirmed" in found.withheld

    @pytest.mark.parametrize("atoms", ["positions", "channels"])
    def test_removing_an_atom_removes_all_of_it(self, atoms: str) -> None:
        runs, x = example("vgg", 0)
        layer = middle(runs)
        found = explain("linear", runs, x, layer=layer, atoms=atoms, confirm=2)
        a = runs.activations(x, layer)
        first = int(found.parts["removed"][0, 0])
        without = a.copy()
        if atoms == "channels":
            without[:, first] = 0
        else:
            without[:, :, first // a.shape[3], first % a.shape[3]] = 0
        expected = score(runs, x) - runs.rest(layer, without, x)[0]
        assert found.parts["removal_effects"][0, 0] == pytest.approx(expected, abs=1e-5)

    def test_activations_behind_whole_numbers_keep_their_fractions(self) -> None:
        picture = np.random.default_rng(0).integers(256, size=(1, 3, 8, 8)).astype(np.uint8)
        runs, x = opened(bytes_of_pictures()).around({"x": picture})
        found = explain("linear", runs, x, layer="layer")
        removed, effects = found.parts["removed"][0], found.parts["removal_effects"][0]
        assert effects == pytest.approx(found.values[0, removed], abs=1e-5)
        assert found.withheld is None


@pytest.mark.parametrize(("name", "options"), [("occlusion", {}), ("linear", {"layer": "input", "atoms": "neurons"})])
def test_an_example_may_be_a_single_number(name: str, options: dict[str, Any]) -> None:
    runs, x = opened(single_number()).around({"x": np.array([0.5], np.float32)})
    found = explain(name, runs, x, **options)
    removed = found.parts["removal_effects"][0] if name == "linear" else found.values
    assert removed == pytest.approx([gain(runs, x)], abs=1e-6)


class TestDeepLift:
    @pytest.mark.parametrize("pads", [0, 1])
    def test_overlapping_pools_add_up_from_any_reference(self, pads: int) -> None:
        net = Net(4)
        x = net.op("MaxPool", net.conv("x", 1, 3), kernel_shape=[3, 3], strides=[2, 2], pads=[pads] * 4)
        x = net.op("MaxPool", net.op("Relu", net.conv(x, 3, 4)), kernel_shape=[3, 3], strides=[1, 1])
        model = net.model(("n", 1, 13, 13), net.dense(net.op("Flatten", net.op("GlobalMaxPool", x)), 4, 2))
        for seed in range(5):
            runs, both = around_noise(model, n=2, seed=seed)
            *ends, m = runs.multipliers(both[:1], both[1:])
            assert np.ravel(ends) == pytest.approx(runs.scores(both), abs=1e-6)
            assert ((both[0] - both[1]) * m[0]).sum() == pytest.approx(ends[0][0] - ends[1][0], abs=1e-5)

    @pytest.mark.parametrize("family", ["mlp", "tanh", "mobile", "transformer"])
    def test_an_example_that_is_its_own_reference_has_the_derivative(self, family: str) -> None:
        """Every quotient of differences is then 0 / 0, and is left out."""
        for seed in range(4):
            runs, x = example(family, seed)
            *_, m = runs.multipliers(x, x)
            derivative = runs.gradient(x)
            assert m == pytest.approx(derivative, abs=1e-5 * max(float(np.abs(derivative).max()), 1.0))

    @pytest.mark.parametrize(("offset", "name"), [(0, "or"), (-1, "and")])
    def test_both_inputs_of_a_gate_have_half(self, offset: int, name: str) -> None:
        """DeepLIFT's toys: y = 1 - relu(1 - a - b), and y = relu(a + b - 1), whose gradients are zero or one-sided."""
        net = Net(0)
        total = net.op("ReduceSum", "x", net.constant([1], np.int64))
        if name == "or":
            y = net.op("Sub", net.constant(1.0), net.op("Relu", net.op("Sub", net.constant(1.0), total)))
        else:
            y = net.op("Relu", net.op("Add", total, net.constant(-1.0)))
        runs, _ = around_noise(net.model(("n", 2), y), index=None)
        found = explain("deeplift_rescale", runs, np.ones((1, 2), np.float32))
        assert found.values[0] == pytest.approx([0.5, 0.5], abs=1e-6)

    @pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
    def test_scores_far_below_those_of_the_reference_add_up(self, operator: str) -> None:
        """As attention's to an empty sentence, beside which the exponentials of the example vanish."""
        net = Net(3)
        guarded = net.op(operator, net.op("Mul", net.dense("x", 4, 5), net.constant(300.0)), axis=-1)
        whole = net.op("Where", net.op("IsNaN", guarded), net.constant(0.0), guarded)
        runs, both = around_noise(net.model(("n", 4), net.dense(whole, 5, 2)), n=2)
        *ends, m = runs.multipliers(both[:1], both[1:])
        assert np.abs(m).max() < 1e5
        assert ((both[0] - both[1]) * m[0]).sum() == pytest.approx(ends[0][0] - ends[1][0], rel=1e-4, abs=1e-5)

    def test_a_maximum_over_all_axes_goes_to_its_element(self) -> None:
        net = Net(8)
        total = net.op("Add", net.dense("x", 6, 2), net.op("ReduceMax", "x", keepdims=1))
        runs, _ = around_noise(net.model(("n", 6), total))
        x = np.array([[0, 0, 0, 5, 1, 0]], np.float32)
        found = explain("deeplift_rescale", runs, x)
        weights = runs.opened.model.ir.graph.initializers["w0"].const_value.numpy()[1]
        assert found.values[0] == pytest.approx(x[0] * weights + [0, 0, 0, 5, 0, 0], abs=1e-5)

    def test_it_is_exact_where_zero_is_no_reference_of_an_activation(self) -> None:
        """Taking 0 as the reference of every activation, as gradient x input does, misses part of the score."""
        runs, x = example("cnn", 2)
        found = explain("deeplift_rescale", runs, x, reference="mean")
        assert found.withheld is None
        naive = float((x * runs.gradient(x)).sum())
        assert abs(naive - found.total[0]) > 0.1 * abs(found.total[0])


class TestLRP:
    @pytest.mark.parametrize("kind", ["Relu", "Tanh"])
    def test_it_is_relevance_layer_by_layer(self, kind: str) -> None:
        """The slow twin: R_i = Σ_j a_i w_ji / (z_j ± ε) R_j, from the score down to the input."""
        net = Net(7)
        sizes, weights, h = (5, 6, 4, 1), [], "x"
        rng = np.random.default_rng(7)
        for number, (d, m) in enumerate(pairwise(sizes)):
            W, b = rng.standard_normal((m, d)).astype(np.float32), rng.standard_normal(m).astype(np.float32)
            weights.append((W.astype(float), b.astype(float)))
            h = net.op("Gemm", h, net.constant(W), net.constant(b), transB=1)
            h = net.op(kind, h) if number < 2 else h
        runs, x = around_noise(net.model(("n", 5), h), index=None)
        before, a = [], x[0].astype(float)
        for number, (W, b) in enumerate(weights):
            z = W @ a + b
            before.append((a, z))
            a = (np.maximum(z, 0) if kind == "Relu" else np.tanh(z)) if number < 2 else z
        relevance = a
        for (W, _), (a, z) in zip(weights[::-1], before[::-1], strict=True):
            relevance = (W * a).T @ (relevance / np.where(z >= 0, z + 1e-6, z - 1e-6))
        assert explain("lrp", runs, x).values[0] == pytest.approx(relevance, abs=1e-4)

    def test_behind_relu_alone_it_is_gradient_x_input(self) -> None:
        runs, x = example("vgg", 0)
        one, other = (explain(name, runs, x).values for name in ("lrp", "gradient_x_input"))
        assert one == pytest.approx(other, abs=1e-3 * float(np.abs(other).max()))

    def test_biases_that_have_more_than_all_inputs_are_said(self) -> None:
        runs, x = example("cnn", 2)
        assert any("belongs to the model's biases" in note for note in explain("lrp", runs, x).notes)


class TestPaths:
    def test_all_paths_of_a_linear_model_say_the_same(self) -> None:
        found = explain("path_dependence", Literal(*LINEAR), X, layer="input")
        assert found.spread == pytest.approx(np.zeros((1, 4)), abs=1e-6)
        assert "none of the 4 largest" in found.notes[0]

    def test_a_product_depends_on_who_comes_first(self) -> None:
        found = explain("path_dependence", Literal(*PRODUCT), np.array([[1.0, 1.0]]), layer="input", paths=64)
        assert found.spread is not None
        assert found.values.sum() == pytest.approx(1, abs=0.01)
        assert found.spread[0] == pytest.approx([0.2, 0.2], abs=0.06)
        assert found.withheld is None

    def test_the_gradient_of_the_rest_is_that_of_the_model_at_its_own_activations(self) -> None:
        runs, x = example("vgg", 0)
        layer = middle(runs)
        a = runs.activations(x, layer)
        assert runs.rest_gradient(layer, a, x) == pytest.approx(runs.gradient(x, layer), abs=1e-6)


class TestMultiClass:
    @staticmethod
    def two_objects() -> bytes:
        """Four classes: the first two look for the first colour, the others for the second."""
        net = Net(0)
        seen = net.op("Relu", net.op("Conv", "x", net.constant(np.eye(2).reshape(2, 2, 1, 1))))
        mean = net.op("Flatten", net.op("GlobalAveragePool", seen))
        return net.model(("n", 2, 6, 8), net.op("Gemm", mean, net.constant([[3.0, 2, 0, 0], [0, 0, 2.5, 2]])))

    def test_two_objects_are_two_factors(self) -> None:
        x = np.zeros((1, 2, 6, 8), np.float32)
        x[0, 0, 1:3, 1:3], x[0, 1, 3:5, 5:7] = 1, 1
        runs, _ = opened(self.two_objects(), index=0).around({"x": x})
        found = explain("multi_class", runs, x, classes=4)
        assert (found.values[0, 1:3, 1:3] > 0.01).all()
        assert (found.values[0, 3:5, 5:7] < -0.01).all()
        assert np.abs(found.values[0]).sum() == pytest.approx(
            found.values[0, 1:3, 1:3].sum() - found.values[0, 3:5, 5:7].sum(), rel=1e-3
        )
        assert found.notes == ("Of the 4 highest classes, + is 0, 1, and - is 2, 3.",)
        assert found.parts["legend_classes"][0, 1, 1, :2].tolist() == [0, 1]
        assert found.parts["legend_classes"][0, 3, 5, :2].tolist() == [2, 3]

    def test_each_class_has_its_own_attribution(self) -> None:
        runs, x = example("vgg", 0)
        found = explain("multi_class", runs, x, layer=middle(runs), classes=5)
        for number, index in enumerate(found.parts["classes"][0]):
            own = opened(FAMILIES["vgg"](Ordinary(0)), index=int(index)).around({"x": x})[0]
            alone = explain("linear", own, x, layer=middle(runs), atoms="positions", confirm=0).values
            assert found.parts["attributions"][0, number] == pytest.approx(alone[0], abs=1e-6)

    def test_a_single_score_is_refused(self) -> None:
        net = Net(1)
        runs, x = around_noise(net.model(("n", 2), net.dense("x", 2, 1)), index=None)
        with pytest.raises(InvalidInput, match="needs a row of three or more"):
            explain("multi_class", runs, x)


class TestLayerToLayer:
    @staticmethod
    def chain() -> tuple[Any, Any, str, str]:
        """Two convolutions without anything between them."""
        net = Net(3)
        lower = net.conv("x", 2, 3)
        upper = net.conv(lower, 3, 4)
        scores = net.dense(net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", upper))), 4, 3)
        runs, x = around_noise(net.model(("n", 2, 5, 5), scores))
        return runs, x, lower, upper

    @pytest.mark.parametrize("atoms", ["positions", "channels"])
    def test_between_linear_layers_only_biases_are_missing(self, atoms: str) -> None:
        """⟨Jᵀs, a⟩ = ⟨s, y - b⟩ for every seed s."""
        runs, x, lower, upper = self.chain()
        found = explain("layer_to_layer", runs, x, layer=lower, upper=upper, atoms=atoms, most=25)
        y = runs.activations(x, upper).astype(float)
        b = (y - self.without_bias(runs, x, lower, upper)).mean((0, 2, 3), keepdims=True)
        norm = np.linalg.norm(y, axis=1, keepdims=True)
        expected = ((y / norm) * (y - b)).sum(1)[0] if atoms == "positions" else (y - b).sum((2, 3))[0]
        pairs = found.parts["pairs"][0].reshape(len(found.parts["upper"][0]), -1).sum(1)
        assert pairs == pytest.approx(expected.reshape(-1)[found.parts["upper"][0]], abs=1e-4)

    @staticmethod
    def without_bias(runs: Any, x: Any, lower: str, upper: str) -> Any:
        """The upper convolution by a loop."""
        a = np.pad(runs.activations(x, lower).astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
        node = next(node for node in runs.opened.model.ir.graph if node.outputs[0].name == upper)
        weights = node.inputs[1].const_value.numpy().astype(float)
        return sum(
            np.einsum("mc,nchw->nmhw", weights[:, :, i, j], a[:, :, i : i + 5, j : j + 5])
            for i in range(3)
            for j in range(3)
        )

    def test_a_layer_without_positions_is_refused(self) -> None:
        runs, x, lower, _ = self.chain()
        with pytest.raises(InvalidInput, match="has no positions"):
            explain("layer_to_layer", runs, x, layer=lower, upper=runs.scores_at)


def test_relaxed_pooling_is_labelled_and_keeps_what_passes_a_pool() -> None:
    runs, x = example("vgg", 0)
    pooled = next(node for node in reversed(runs.opened.model.ir.graph) if node.op_type == "MaxPool")
    below, above = (pooled.inputs[0].name, pooled.outputs[0].name)
    a, g = runs.activations(x, below), runs.gradient(x, below, rules="relaxed")
    b, h = runs.activations(x, above), runs.gradient(x, above, rules="relaxed")
    windows = a.reshape(1, a.shape[1], b.shape[2], 2, b.shape[3], 2)
    expected = np.maximum(windows, 0) * (h / (np.maximum(windows, 0).sum((3, 5)) + 1e-6))[:, :, :, None, :, None]
    assert g == pytest.approx(expected.reshape(a.shape), abs=1e-6)
    found = explain("linear", runs, x, layer=below, atoms="positions", pooling="relaxed_and_blurred")
    assert "not the model's gradient" in found.notes[0]
    found_blurred = runs.gradient(x, below, rules="relaxed_and_blurred")
    padded = np.pad(g, ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    blurred = sum(
        kernel[i, j] * padded[:, :, i : i + g.shape[2], j : j + g.shape[3]] for i in range(3) for j in range(3)
    )
    assert found_blurred == pytest.approx(blurred, abs=1e-6)


def test_a_class_pair_is_the_difference_of_its_classes() -> None:

    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    pair, first, second = (
        explain("gradient_x_input", opened(resnet(), **target).around({"x": x})[0], x).values
        for target in ({"index": 1, "versus": 3}, {"index": 1}, {"index": 3})
    )
    assert pair == pytest.approx(first - second, abs=1e-6)


def test_prices_are_what_explanations_cost() -> None:
    """No explanation costs more than its price; only integrated gradients may cost less."""
    runs, x = example("cnn", 0)
    for claim in (claim for claim in CLAIMS if not claim.apart):
        one = explanation(claim.name)
        options = one.entry.options(**(claim.options or {}))
        price = one.cost(options, {"input": x.shape[1:]})
        spent = one.run(runs, x, options).passes
        assert spent <= price, claim.name
        if not claim.own and claim.name not in ("integrated_gradients", "gradient_x_input", "linear"):
            assert spent >= 0.9 * price, claim.name
