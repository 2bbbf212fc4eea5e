"""The differentiable export of whole networks: correct, complete, and without unused nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.differentiate import cut_at, differentiate, expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import choose_layers, list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import VJP, Rule
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import open_session
from tests.engine import nets

FIRST = Target("first", index=0)
Arrays = dict[str, NDArray[Any]]


def run(graph: Any, feeds: Arrays) -> Arrays:
    return open_session(graph, threads=1).run(feeds)


def auditable(model: Model, target: Target = FIRST) -> list[str]:
    return [layer.tensor for layer in list_layers(model, target) if layer.auditable]


@pytest.mark.parametrize("name", list(nets.NETS))
def test_every_layer_of_every_network_agrees_with_differences(name: str) -> None:
    model = load(nets.NETS[name]())
    layers = auditable(model)
    assert len(layers) == len(list_layers(model, FIRST))
    checks = check_gradients(model, [*layers, "x"], [FIRST], nets.noise(model, 4), seed=1, directions=3)
    assert [check for check in checks if not check.ok] == []
    assert np.median([check.residual for check in checks]) < 1e-3


@pytest.mark.parametrize("name", list(nets.NETS))
def test_the_gradient_is_per_example(name: str) -> None:
    model = load(nets.NETS[name]())
    layers = choose_layers(model, FIRST)
    session = open_session(differentiate(model, layers, [FIRST]), threads=1)
    feeds = nets.noise(model, 4)
    together = session.run(feeds)
    for i in range(4):
        alone = session.run({"x": feeds["x"][i : i + 1]})
        for output, value in together.items():
            np.testing.assert_allclose(alone[output][0], value[i], rtol=1e-3, atol=1e-5)


def test_several_targets_and_layers_share_one_graph() -> None:
    model = load(nets.resnet())
    targets = [Target("a", index=0), Target("b", index=3), Target("a-b", index=0, versus=3)]
    layers = ["relu_10", "add_9", "maxpool_3"]
    graph = differentiate(model, layers, targets)
    feeds = nets.noise(model)
    got = run(graph, feeds)
    assert set(got) == {f"value/{t.name}" for t in targets} | {
        f"gradient/{t.name}/{n}" for t in targets for n in layers
    }
    for layer in layers:
        a, b, contrast = (got[f"gradient/{t.name}/{layer}"] for t in targets)
        np.testing.assert_allclose(a - b, contrast, rtol=1e-3, atol=1e-5)
        alone = run(differentiate(model, [layer], [targets[1]]), feeds)
        np.testing.assert_allclose(alone[f"gradient/b/{layer}"], b, rtol=1e-4, atol=1e-6)
    forward = sum(node.op_type == "Conv" for node in model.ir.graph)
    assert sum(node.op_type == "Conv" for node in graph.ir.graph) < 4 * forward


def test_the_graph_is_plain_onnx_and_can_be_saved(tmp_path: Path) -> None:
    model = load(nets.googlenet())
    graph = differentiate(model, choose_layers(model, FIRST), [FIRST])
    onnx.checker.check_model(graph.to_proto())
    assert {opset.domain for opset in graph.to_proto().opset_import} == {""}
    graph.save(tmp_path / "gradient.onnx")
    feeds = nets.noise(model)
    saved = onnx.load(str(tmp_path / "gradient.onnx"))
    session = onnxruntime.InferenceSession(saved.SerializeToString(), providers=["CPUExecutionProvider"])
    for (name, value), again in zip(run(graph, feeds).items(), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(value, again, rtol=1e-4, atol=1e-6, err_msg=name)


def test_nothing_outside_the_path_is_computed() -> None:
    model = load(nets.resnet())
    late = differentiate(model, ["relu_19"], [FIRST])
    kinds = [node.op_type for node in late.ir.graph]
    assert "ConvTranspose" not in kinds
    assert kinds.count("Conv") == sum(node.op_type == "Conv" for node in model.ir.graph)


def test_weights_are_shared_and_not_copied() -> None:
    model = load(nets.mlp())
    graph = differentiate(model, ["x"], [FIRST])
    own = {v.name: v.const_value for v in model.ir.graph.initializers.values()}
    for name, value in graph.ir.graph.initializers.items():
        if name in own:
            assert value.const_value is own[name]


def test_the_same_graph_is_built_and_the_same_numbers_computed_twice() -> None:
    feeds = nets.noise(load(nets.googlenet()))
    first, second = (differentiate(load(nets.googlenet()), ["x", "lrn_3"], [FIRST]) for _ in range(2))
    assert first.to_proto().SerializeToString() == second.to_proto().SerializeToString()
    one, two = run(first, feeds), run(second, feeds)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_cut_graph_continues_from_the_layer() -> None:
    model = load(nets.resnet())
    feeds = nets.noise(model)
    layer = run(expose(model, ["relu_10"]), feeds)["relu_10"]
    cut = cut_at(model, "relu_10", [FIRST])
    assert [tensor.name for tensor in cut.inputs] == ["relu_10"]
    whole = run(differentiate(model, ["x"], [FIRST]), feeds)["value/first"]
    np.testing.assert_allclose(run(cut, {"relu_10": layer})["value/first"], whole, rtol=1e-4, atol=1e-5)


def test_a_cut_need_not_separate_the_graph() -> None:
    model = load(nets.googlenet())
    checks = check_gradients(model, ["conv_5", "relu_14"], [FIRST], nets.noise(model), seed=2)
    assert all(check.ok for check in checks)


def test_scales_are_chained_to_the_logit() -> None:
    model = load(nets.efficientnet())
    targets = [Target(s, index=1, scale=s) for s in ("logit", "log_probability", "probability")]
    got = run(differentiate(model, ["add_11"], targets), nets.noise(model))
    log_p, p = got["value/log_probability"], got["value/probability"]
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-5)
    through_log = p[:, None, None, None] * got["gradient/log_probability/add_11"]
    np.testing.assert_allclose(through_log, got["gradient/probability/add_11"], rtol=1e-3, atol=1e-6)
    checks = check_gradients(model, ["add_11"], targets, nets.noise(model), seed=3)
    assert all(check.ok for check in checks)


def test_a_single_sigmoid_has_one_logit() -> None:
    model = load(nets.mlp())
    resolved = resolve_target(model, Target("t"))
    assert (resolved.tensor, resolved.link, resolved.classes) == ("gemm_5", "sigmoid", 1)
    assert "before the sigmoid" in resolved.sentence


def test_a_layer_may_be_named_by_its_node() -> None:
    net = nets.Net()
    y = net.op("Relu", net.dense("x", 4, 4))
    net.nodes[-1].name = "hidden"
    model = load(net.model(("n", 4), net.dense(y, 4, 2)))
    assert [t.name for t in expose(model, ["hidden"]).outputs] == [y]


@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        (Target("t", index=7), "unknown-class", "5 classes"),
        (Target("t", index=0, versus=-1), "unknown-class", "5 classes"),
        (Target("t"), "class-not-named", "0 to 4"),
        (Target("t", output="probs", index=0), "unknown-output", "'gemm_22'"),
        (Target("t", output="relu_10", index=0), "target-not-a-scalar", "mean, sum, max, or last"),
    ],
)
def test_a_target_that_does_not_exist(target: Target, code: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve_target(load(nets.resnet()), target)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_an_unknown_layer_lists_the_closest() -> None:
    with pytest.raises(InvalidInput) as caught:
        differentiate(load(nets.resnet()), ["relu10"], [FIRST])
    assert caught.value.code == "unknown-layer"
    assert "'relu_10'" in caught.value.remedy


def test_an_operator_without_a_rule_is_named_with_the_layers_that_remain() -> None:
    net = nets.Net(opset=18)
    x = net.op("Relu", net.dense("x", 4, 4))
    square = net.op("Reshape", x, net.constant([-1, 2, 2], np.int64))
    determinant = net.op("Unsqueeze", net.op("Det", square), net.constant([1], np.int64))
    after = net.op("Tanh", net.dense(determinant, 1, 3))
    model = load(net.model(("n", 4), net.dense(after, 3, 2)))
    with pytest.raises(InvalidInput) as caught:
        differentiate(model, [x], [FIRST])
    assert caught.value.code == "no-gradient-rule"
    assert "(Det, ai.onnx opset 18)" in caught.value.sentence
    assert after in caught.value.remedy
    states = {layer.tensor: layer for layer in list_layers(model, FIRST)}
    assert not states[x].auditable
    assert "Det" in str(states[x].reason)
    assert states[after].auditable


def test_an_integer_path_has_no_gradient() -> None:
    net = nets.Net()
    x = net.op("Relu", net.dense("x", 4, 4))
    best = net.op("Cast", net.op("ArgMax", x, axis=1, keepdims=1), to=1)
    model = load(net.model(("n", 4), net.dense(best, 1, 2)))
    with pytest.raises(InvalidInput) as caught:
        differentiate(model, [x], [FIRST])
    assert caught.value.code == "no-gradient"
    assert "integers" in caught.value.sentence


def test_a_wrong_rule_is_caught_by_the_check() -> None:
    model = load(nets.resnet())
    wrong = dict(VJP) | {("", "Add"): Rule(("", "Add"), lambda g, y, a, b: (g, 1.3 * g), elementwise=True)}
    checks = check_gradients(model, ["maxpool_3"], [FIRST], nets.noise(model), seed=4, rules=wrong)
    assert not checks[0].ok
    assert checks[0].residual > 0.02


def test_tied_weights_and_a_tensor_used_many_times() -> None:
    net = nets.Net()
    weights = net.weight(4, 4)
    x = "x"
    for _ in range(3):
        x = net.op("Tanh", net.op("MatMul", net.op("Add", x, "x"), weights))
    y = net.op("Sum", x, x, net.op("Mul", x, x))
    model = load(net.model(("n", 4), y))
    checks = check_gradients(model, [*auditable(model), "x"], [FIRST], nets.noise(model), seed=5)
    assert all(check.ok for check in checks)
    assert max(check.residual for check in checks) < 1e-3


def test_an_if_on_a_computed_condition() -> None:
    text = """
        <ir_version: 9, opset_import: ["" : 18]>
        net (float[n, 4] x, bool flag) => (float[n, 4] y) {
            h = Tanh(x)
            y = If (flag) <
                then_branch = yes () => (float[n, 4] a) { e = Exp(h) a = Mul(e, x) },
                else_branch = no () => (float[n, 4] b) { b = Mul(h, h) }
            >
        }
    """
    model = load(onnx.parser.parse_model(text).SerializeToString())
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    graph = differentiate(model, ["h", "x"], [FIRST])
    for flag in (True, False):
        got = run(graph, {"x": x, "flag": np.asarray(flag)})
        h = np.tanh(x[:, 0])
        through = np.exp(h) * x[:, 0] if flag else 2 * h
        direct = np.exp(h) if flag else 0
        np.testing.assert_allclose(got["gradient/first/h"][:, 0], through, rtol=1e-5)
        np.testing.assert_allclose(got["gradient/first/x"][:, 0], through * (1 - h * h) + direct, rtol=1e-4)


def test_a_symbolic_sequence_and_a_mean_over_tokens() -> None:
    net = nets.Net()
    x = net.op("LayerNormalization", "x", net.constant(np.ones(6)), net.constant(np.zeros(6)))
    q, k, v = (net.op("MatMul", x, net.weight(6, 6)) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    y = net.op("Add", net.op("MatMul", scores, v), x)
    model = load(net.model(("n", "t", 6), net.op("MatMul", y, net.weight(6, 3))))
    token_mean = Target("t", index=1, reduce="mean")
    for length in (2, 7):
        feeds = {"x": np.random.default_rng(length).standard_normal((3, length, 6)).astype(np.float32)}
        checks = check_gradients(model, auditable(model, token_mean), [token_mean], feeds, seed=6)
        assert all(check.ok for check in checks)


def test_logits_with_axes_of_length_one_need_no_reduction() -> None:
    net = nets.Net()
    pooled = net.op("GlobalAveragePool", net.op("Relu", net.conv("x", 3, 4)))
    model = load(net.model(("n", 3, 8, 8), net.op("Softmax", pooled, axis=1)))
    checks = check_gradients(model, ["x"], [Target("t", index=2)], nets.noise(model), seed=8)
    assert checks[0].ok


def test_layers_chosen_are_block_outputs_that_bend() -> None:
    assert choose_layers(load(nets.googlenet()), FIRST)[-1] == "concat_17"
    assert "concat_16" in choose_layers(load(nets.squeezenet()), FIRST)
    for make in nets.NETS.values():
        model = load(make())
        chosen = choose_layers(model, FIRST)
        assert 1 <= len(chosen) <= 4
        graph = differentiate(model, chosen, [FIRST])
        spread = run(graph, nets.noise(model, 6))
        for layer in chosen:
            assert np.ptp(spread[f"gradient/first/{layer}"], axis=0).max() > 0


def test_a_layer_that_may_not_change_its_sign_is_moved_in_proportion() -> None:
    net = nets.Net()
    variance = net.op("Mul", "x", "x")
    y = net.op("MatMul", net.op("Sqrt", variance), net.weight(6, 2))
    model = load(net.model(("n", 6), y))
    checks = check_gradients(model, [variance], [FIRST], nets.noise(model), seed=3)
    assert checks[0].ok
    assert checks[0].residual < 1e-2


def test_a_relu_that_is_off_stops_an_infinite_gradient() -> None:
    net = nets.Net(0)
    scores = net.op("Sqrt", net.op("Relu", net.op("Mul", "x", net.constant([[2.0, 3.0]]))))
    model = load(net.model(("n", 2), scores), interacts=False)
    found = run(differentiate(model, ["x"], [FIRST]), {"x": np.array([[-1.0, 4.0]], np.float32)})
    assert found["gradient/first/x"].tolist() == [[0.0, 0.0]]


class TestOtherClassesAreNotComputed:
    @staticmethod
    def heads() -> dict[str, bytes]:
        """Networks whose scores come from a convolution behind a pooling, a Gemm, and a product with a bias."""
        found = {"convolution": nets.Net(0), "gemm": nets.Net(1), "product": nets.Net(2)}
        net = found["convolution"]
        y = net.op("GlobalAveragePool", net.op("Relu", net.conv(net.op("Relu", net.conv("x", 3, 8)), 8, 10, 1)))
        convolution = net.model(("n", 3, 9, 9), net.op("Flatten", y))
        net = found["gemm"]
        gemm = net.model(("n", 3, 9, 9), net.dense(net.op("Flatten", net.op("Relu", net.conv("x", 3, 4))), 4 * 81, 10))
        net = found["product"]
        hidden = net.op("Tanh", net.op("MatMul", "x", net.weight(6, 8)))
        y = net.op("Add", net.op("MatMul", hidden, net.weight(8, 10)), net.weight(10))
        return {"convolution": convolution, "gemm": gemm, "product": net.model(("n", 5, 6), y)}

    @pytest.mark.parametrize("head", ["convolution", "gemm", "product"])
    @pytest.mark.parametrize("versus", [None, 7])
    def test_a_target_has_the_same_value_and_gradient(self, head: str, versus: int | None) -> None:
        model = load(self.heads()[head])
        target = Target("t", index=3, versus=versus, reduce="mean" if head == "product" else None)
        feeds = nets.noise(model, 4)
        whole, alone = (differentiate(model, ["x"], [target], alone=one) for one in (False, True))
        for name, value in run(whole, feeds).items():
            np.testing.assert_allclose(run(alone, feeds)[name], value, rtol=1e-4, atol=1e-6)
        widths = [
            [value.const_value.size for value in graph.ir.graph.initializers.values()] for graph in (whole, alone)
        ]
        assert sum(widths[1]) < sum(widths[0])  # the weights of the other classes are gone

    def test_a_layer_behind_the_last_product_keeps_all_its_classes(self) -> None:
        model = load(self.heads()["convolution"])
        layer = next(node for node in reversed(list(model.ir.graph)) if node.op_type == "Conv").outputs[0].name or ""
        feeds = nets.noise(model, 4)
        whole, alone = (run(differentiate(model, [layer], [FIRST], alone=one), feeds) for one in (False, True))
        for name, value in whole.items():
            np.testing.assert_allclose(alone[name], value, rtol=1e-4, atol=1e-6)
        assert whole[f"gradient/first/{layer}"].shape[1] == 10

    def test_a_probability_needs_them(self) -> None:
        model = load(self.heads()["gemm"])
        scale = Target("p", index=3, scale="probability")
        feeds = nets.noise(model, 4)
        whole, alone = (run(differentiate(model, ["x"], [scale], alone=one), feeds) for one in (False, True))
        for name, value in whole.items():
            np.testing.assert_array_equal(alone[name], value)


BEHIND_A_TRANSPOSE = """<ir_version: 10, opset_import: ["": 18]>
g (float[n, 4, 6] x) => (float[n, 6] scores)
<int64[1] axes = {2}, int64[1] start = {1}, int64[1] stop = {3}> {
    squares = Mul(x, x)
    turned = Transpose<perm = [0, 2, 1]>(squares)
    part = Slice(turned, start, stop, axes)
    again = Transpose<perm = [0, 2, 1]>(part)
    scores = ReduceSum<keepdims = 0>(again, start)
}"""


def test_a_pad_behind_a_transpose_survives_the_optimiser() -> None:
    """ONNX Runtime's optimiser takes the pads of some axes for those of all where it moves a Transpose over them."""
    model = load(onnx.parser.parse_model(BEHIND_A_TRANSPOSE).SerializeToString())
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    expected = np.zeros_like(x)
    expected[:, 1:3, 0] = 2 * x[:, 1:3, 0]
    found = run(differentiate(model, ["x"], [FIRST]), {"x": x})
    np.testing.assert_allclose(found["gradient/first/x"], expected, rtol=1e-6)
