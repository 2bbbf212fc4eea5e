"""What cannot be explained is refused by a sentence with a remedy, at its place in the file, before much has run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from caveat.cli import cli
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench, Change
from tests.audits.test_explain import SIZE, glyphs, show
from tests.engine.nets import Net

__all__ = ["glyphs"]
"""A fixture that another module has."""


def said(**fields: Any) -> Change:
    """Other fields of the explanation."""
    return lambda bench: bench.document["explain"]["why"].update(fields)


def shown(*elements: Any) -> Change:
    return lambda bench: show(bench, *elements)


def target(**fields: Any) -> Change:
    return lambda bench: bench.document["targets"]["first"].update(fields)


def network(build: Callable[[Net], str], batch: Any = "n") -> Change:
    """Another model of the same pictures."""

    def change(bench: Bench) -> None:
        net = Net(1)
        scores = build(net)
        (bench.folder / "model.onnx").write_bytes(net.model((batch, 1, SIZE, SIZE), scores))

    return change


def flat(net: Net) -> str:
    return str(net.op("Flatten", net.op("Relu", "x")))


def gated(net: Net) -> str:
    inner = net.op("Mul", net.dense(flat(net), 64, 6), net.op("Softmax", net.dense(flat(net), 64, 6)))
    return net.dense(inner, 6, 2)


def pixel(value: float, *, row: int = 29) -> Change:
    """One number of one example."""

    def change(bench: Bench) -> None:
        pictures = np.load(bench.folder / "marked.npy")
        pictures[row, 0, 0, 0] = value
        bench.save("marked.npy", pictures)

    return change


def both(*changes: Change) -> Change:
    def change(bench: Bench) -> None:
        for one in changes:
            one(bench)

    return change


NAMED = {"set": "marked", "pick": ["29"]}
REFUSED: list[tuple[str, Change, str, str, str]] = [
    ("class by name", target(**{"class": "cartn", "index": None}), "/targets/first", "Class 'cartn'", "'index'"),
    ("class by number", target(index=7), "/targets/first", "has 2 classes", "from 0 to 1"),
    ("layer", shown({"layer": "brigt"}), "/explain/why/show/0", "no layer 'brigt'", "'bright', 'logits'; `caveat lay"),
    ("example", said(examples={"pick": ["99"]}), "/explain/why/examples/pick", "no example '99'", "Close to it are"),
    (
        "positions of a flat layer",
        shown({"layer": "flat", "atoms": "positions"}),
        "/explain/why/show/0",
        "'flat' has no positions and no channels, only 64 numbers",
        "Ask for neurons",
    ),
    (
        "upper layer without positions",
        shown({"layer_to_layer": {"layer": "bright", "upper": "flat"}}),
        "/explain/why/show/0",
        "'flat' has no positions",
        "`caveat layers` lists shapes",
    ),
    (
        "upper layer below",
        shown({"layer_to_layer": {"layer": "bright", "upper": "x"}}),
        "/explain/why/show/0",
        "Nothing that is differentiable leads from 'bright' up to 'x'",
        "Swap them: the one that is taken apart comes first",
    ),
    (
        "two layers, the later first",
        shown({"layer": "bright", "to": {"layer": "x"}}),
        "/explain/why/show/0",
        "Nothing that is differentiable leads from 'bright' up to 'x'",
        "Swap them",
    ),
    (
        "a later layer that is not there",
        shown({"layer": "bright", "to": {"layer": "brigt"}}),
        "/explain/why/show/0",
        "no layer 'brigt'",
        "'bright'",
    ),
    (
        "an operator that a table lacks",
        both(network(gated), shown("saliency", "lrp")),
        "/explain/why/show/1",
        "The rules of 'relevance' do not cover this model. The operator of node 'softmax_",
        "gradient_x_input and integrated_gradients work here",
    ),
    ("few classes", shown("multi_class"), "/explain/why/show/0", "at least 3 classes", "Use linear"),
    (
        "errors of one score",
        both(network(lambda net: net.dense(flat(net), 64, 1)), said(examples={"set": "marked", "pick": "errors"})),
        "/explain/why/examples/pick",
        "is a single number",
        "Pick by 'highest' or 'lowest'",
    ),
    (
        "budget",
        shown({"shapley": {"permutations": 4096}}),
        "/explain/why/show/0",
        "20,000 are allowed",
        "Use permutations: ",
    ),
    ("drawn so", shown({"saliency": {"as": "strip"}}), "/explain/why/show/0", "is not drawn as strip", "map or table"),
    ("NaN", pixel(np.nan), "/explain/why/examples", "gives '29' of example set 'marked' NaN or inf", "take them out"),
    ("infinity", pixel(np.inf), "/explain/why/examples", "gives '29' of example set 'marked' NaN", "take them out"),
    ("NaN by name", both(pixel(np.nan), said(examples=NAMED)), "/explain/why/examples", "gives '29' of", "take them"),
    (
        "NaN among the weights",
        network(lambda net: net.op("Mul", net.dense(flat(net), 64, 2), net.constant(np.nan))),
        "/model",
        "contain NaN",
        "Train or export the model again",
    ),
]


@pytest.mark.parametrize(
    ("change", "pointer", "sentence", "remedy"), [pytest.param(*row, id=name) for name, *row in REFUSED]
)
def test_it_is_refused_with_a_sentence_and_a_remedy(
    glyphs: Bench, change: Change, pointer: str, sentence: str, remedy: str
) -> None:
    change(glyphs)
    with pytest.raises(InvalidInput) as refused:
        glyphs.run()
    assert (refused.value.pointer or "").startswith(pointer)
    assert sentence in refused.value.sentence
    assert remedy in refused.value.remedy
    late = {stage for stage, _ in glyphs.stages} & {"explaining"}
    assert bool(late) == pointer.endswith("/examples"), "only what the model makes of examples shows when it has run"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (said(of="frist"), "names the target 'frist', which is not declared; declared: first"),
        (shown("salency"), "'salency' is neither a method nor a recipe; there are saliency"),
        (said(examples={"set": "markd"}), "names the example set 'markd', which is not declared"),
        (
            said(examples={"set": "marked", "pick": "errors", "label": "y"}),
            "/explain/why/examples/label names a column, and 'marked' is not a table; leave it out",
        ),
        (said(examples={"count": 9}), "9 examples are more than anybody compares at a glance; the most is 8"),
        (shown({"saliency": {"top": 9}}), "9 atoms are more than anybody compares at a glance; the most is 8"),
        (shown({"concept": "mark", "layer": "bright"}), "names the concept 'mark', which is not declared"),
    ],
)
def test_the_file_itself_is_refused(glyphs: Bench, change: Change, sentence: str) -> None:
    change(glyphs)
    with pytest.raises(ValidationError) as refused:
        glyphs.run()
    assert sentence in str(refused.value)


def test_scores_are_read_before_their_softmax_and_the_report_says_where(glyphs: Bench) -> None:
    network(lambda net: net.op("Softmax", net.dense(flat(net), 64, 3)))(glyphs)
    report = glyphs.run()
    (read,) = report.plan.targets
    assert read.tensor.startswith("gemm")
    assert "softmax" in read.sentence.lower()
    assert report.explanations[0].unit == "logit"


def test_a_model_of_one_example_at_a_time_is_explained_all_the_same(glyphs: Bench) -> None:
    network(lambda net: net.dense(flat(net), 64, 2), batch=1)(glyphs)
    show(glyphs, "gradient_x_input", {"occlusion": {"window": 4}})
    alone = glyphs.run()
    network(lambda net: net.dense(flat(net), 64, 2))(glyphs)
    together = glyphs.run()
    assert [panel.figures for one in alone.explanations for panel in one.panels] == [
        panel.figures for one in together.explanations for panel in one.panels
    ]


def test_the_command_ends_with_2_and_no_traceback(glyphs: Bench) -> None:
    pixel(np.inf)(glyphs)
    path = glyphs.folder / "audit.json"
    path.write_text(json.dumps(glyphs.document))
    done = CliRunner().invoke(cli, ["explain", str(path), "--local"], catch_exceptions=False)
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    assert "NaN or infinity for 'first', so that there is no number to explain" in " ".join(done.output.split())
