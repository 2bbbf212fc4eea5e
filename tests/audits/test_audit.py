"""A whole audit, in one process, whose truth is known."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from caveat_reports.canonical import canonical
from caveat_spec.gate import decide
from caveat_spec.report import Report
from caveat_spec.results import Flag
from caveat_worker.engine.activations.collected import StepDirection
from caveat_worker.engine.activations.requirements import Layer
from caveat_worker.engine.concepts.concept_test import ConceptTested
from caveat_worker.engine.methods.tcav import LayerTest, spread_kinds
from tests.api_spec import handmade
from tests.audits.conftest import Bench


def test_the_verdicts_are_the_truth(bench: Bench) -> None:
    report = bench.run()
    used, ignored = report.verdict.lines
    assert (used.finding, used.outcome) == ("influential", "fail")
    assert (ignored.finding, ignored.outcome) == ("not_influential", "pass")
    assert report.verdict.outcome == "fail"
    by_concept = {one.concept: one for one in report.interventions}
    assert abs(by_concept["used"].effect.in_sd) > 0.2
    assert by_concept["ignored"].effect.value == 0
    assert all(check.relative_error < 1e-3 for check in report.plan.gradient_checks)
    assert report.plan.targets[0].tensor == "logits"


def test_the_same_audit_gives_the_same_bytes(bench: Bench) -> None:
    first = canonical(bench.run())
    assert canonical(bench.run()) == first
    assert Report.model_validate_json(first).associations


def test_another_seed_gives_other_draws_and_the_same_verdict(bench: Bench) -> None:
    first = bench.run()
    bench.document["method"]["seed"] = 4
    second = bench.run()
    assert first.associations[0].effect.null.mean != second.associations[0].effect.null.mean
    assert [line.finding for line in first.verdict.lines] == [line.finding for line in second.verdict.lines]


def test_one_more_concept_does_not_change_the_others(bench: Bench) -> None:
    both = bench.run().associations
    del bench.document["concepts"]["ignored"], bench.document["gate"][1]
    alone = bench.run().associations
    assert alone[0].effect.value == both[0].effect.value
    assert alone[0].effect.null == both[0].effect.null


def test_progress_goes_forward_through_every_stage(bench: Bench) -> None:
    bench.run()
    shares = [progress for _, progress in bench.stages]
    assert shares == sorted(shares)
    assert list(dict.fromkeys(stage for stage, _ in bench.stages)) == [
        "loading",
        "reading",
        "planning",
        "collecting",
        "testing",
        "reporting",
    ]


def test_layers_are_chosen_where_none_are_named(bench: Bench) -> None:
    bench.document["layers"] = "auto"
    layers = bench.run().plan.layers
    assert layers
    assert all(layer.chosen for layer in layers)
    assert {layer.tensor for layer in layers} <= {"hidden1", "z1", "z2"}


def test_a_layer_with_an_affine_head_is_flagged_and_decides_by_its_effect(bench: Bench) -> None:
    bench.document["layers"] = ["hidden2"]
    report = bench.run()
    assert {flag.code for row in report.associations for flag in row.flags} >= {"degenerate"}
    assert report.verdict.lines[0].finding == "influential"
    alone = report.model_copy(update={"tests": report.associations})
    assert decide(alone, report.audit.gate).lines[0].finding == "influential"


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "by association"])
def test_unrelated_targets_do_not_change_a_verdict(bench: Bench, measured: bool) -> None:
    alone = bench.run()
    for name, index in (("other", 1), ("third", 0), ("fourth", 1)):
        bench.document["targets"][name] = {"index": index, "examples": "targets"}
    among = bench.run()
    before, after = (
        decide(one if measured else one.model_copy(update={"tests": one.associations}), one.audit.gate).lines
        for one in (alone, among)
    )
    assert [line.finding for line in before] == [line.finding for line in after]


def layer_test(concept: str, name: str, *flags: Flag) -> LayerTest:
    layer = Layer(name, name, "flatten", "Relu", ("N", 4), depth=1, chosen=False)
    figures = handmade.row(flags=flags)
    assert figures.accuracy is not None
    tested = ConceptTested([figures], figures.accuracy, np.zeros(1), 1.0)
    return LayerTest(concept, layer, tested, {}, {}, StepDirection(concept, layer, np.zeros(1)))


def test_sets_that_differ_in_kind_at_one_layer_do_so_at_every_layer_of_that_concept() -> None:
    flag = Flag(code="sets_differ_in_kind", sentence="They lie far apart.", blocking=True)
    seen, other = layer_test("a", "block", flag), layer_test("b", "deep")
    first, second, third = spread_kinds([seen, layer_test("a", "deep"), other])
    assert first is seen
    assert [one.sentence for one in second.tested.figures[0].flags] == ["At block: They lie far apart."]
    assert second.tested.figures[0].blocked
    assert third is other


def test_the_models_own_numbers_are_compared_where_no_pairs_measure_a_change(bench: Bench) -> None:
    assert all(row.output_gap is None for row in bench.run().associations)
    for name in ("used", "ignored"):
        del bench.document["examples"][name]["pairs_with"]
    report = bench.run()
    for row in report.associations:
        assert row.output_gap is not None
        low, high = row.output_gap.interval
        assert low < row.output_gap.value < high
    session = onnxruntime.InferenceSession(bench.folder / "model.onnx", providers=["CPUExecutionProvider"])
    used, base = (
        np.log(session.run(None, {"x": np.load(bench.folder / f"{name}.npy")})[0]) for name in ("used", "base")
    )
    bench.document["targets"]["first"] = {"index": 0, "versus": 1, "examples": "targets"}
    contrast = bench.run().associations[0].output_gap
    assert contrast is not None
    expected = (used[:, 0] - used[:, 1]).mean() - (base[:, 0] - base[:, 1]).mean()
    assert contrast.value == pytest.approx(expected, rel=1e-3)


def test_a_contrast_of_two_classes_is_the_difference_of_the_two(bench: Bench) -> None:
    first = bench.run()
    bench.document["targets"]["first"] = {"index": 1, "examples": "targets"}
    second = bench.run()
    bench.document["targets"]["first"] = {"index": 0, "versus": 1, "examples": "targets"}
    both = bench.run()
    expected = first.interventions[0].effect.value - second.interventions[0].effect.value
    assert both.interventions[0].effect.value == pytest.approx(expected, rel=1e-4)
    assert both.associations[0].effect.value == pytest.approx(
        first.associations[0].effect.value - second.associations[0].effect.value, rel=1e-4
    )


def test_few_permutations_are_raised_to_what_the_correction_needs(bench: Bench) -> None:
    bench.document["method"]["permutations"] = 19
    report = bench.run()
    assert report.associations[0].effect.null.sets > 19
    assert "permutations were drawn in place of 19" in report.warnings[-1]


def test_cuda_that_is_not_there_is_said(bench: Bench) -> None:
    bench.document["method"]["provider"] = "cuda"
    report = bench.run()
    assert report.engine.provider == "cpu"
    assert any("CUDA was asked for" in warning and "without it" in warning for warning in report.warnings)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_cuda_that_is_installed_and_does_not_start_is_said(
    bench: Bench, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    bench.document["method"]["provider"] = asked
    report = bench.run()
    assert report.engine.provider == "cpu"
    assert any("does not start" in warning for warning in report.warnings)


def test_without_cuda_auto_says_nothing(bench: Bench) -> None:
    assert bench.document["method"].get("provider", "auto") == "auto"
    assert not any("CUDA" in warning for warning in bench.run().warnings)


def test_a_fixed_batch_gives_the_same_answer(bench: Bench) -> None:
    import onnx

    free = bench.run()
    model = onnx.load(bench.folder / "model.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, bench.folder / "model.onnx")
    fixed = bench.run()
    np.testing.assert_allclose(
        [row.effect.value for row in free.associations], [row.effect.value for row in fixed.associations], rtol=1e-4
    )


def test_layers_are_put_side_by_side(bench: Bench) -> None:
    assert bench.run().layer_findings == []
    bench.document["layers"] = ["z1", "hidden1"]
    used, ignored = bench.run().layer_findings
    assert (used.concept, len(used.encoding)) == ("used", 2)
    assert sorted([used.raising, used.lowering], key=len) == [[], ["z1", "hidden1"]]
    assert (ignored.raising, ignored.lowering) == ([], [])


@pytest.mark.parametrize(("estimator", "said"), [("scikit_learn.LinearSVC", True), ("logistic", False)])
def test_an_estimator_whose_intervals_were_not_measured_says_so(bench: Bench, estimator: str, said: bool) -> None:
    bench.document["method"]["estimator"] = estimator
    assert any("was not measured" in warning for warning in bench.run().warnings) is said
