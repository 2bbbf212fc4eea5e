"""Everything that can be wrong with an audit, and the sentence that says so."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.engine import trees


def not_onnx(bench: Bench) -> None:
    (bench.folder / "model.onnx").write_bytes(b"PK\x03\x04 not a model at all")


def truncated(bench: Bench) -> None:
    whole = (bench.folder / "model.onnx").read_bytes()
    (bench.folder / "model.onnx").write_bytes(whole[: len(whole) // 2])


def empty(bench: Bench) -> None:
    (bench.folder / "model.onnx").write_bytes(b"")


def unknown_output(bench: Bench) -> None:
    bench.document["targets"]["first"]["output"] = "scores"


def two_rows_for_an_example(bench: Bench) -> None:
    """A model of batch 1, whose trees no gradient passes, that answers twice."""
    model = trees.boosted_classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (scores,) = [one for one in model.graph.output if one.name == "probabilities"]
    scores.name = "twice"
    del scores.type.tensor_type.shape.dim[:]
    scores.type.tensor_type.shape.dim.add(dim_value=2)
    scores.type.tensor_type.shape.dim.add(dim_value=2)
    model.graph.node.append(helper.make_node("Concat", ["probabilities", "probabilities"], ["twice"], axis=0))
    onnx.save(model, bench.folder / "model.onnx")
    bench.document["layers"] = "auto"
    bench.document["targets"]["first"]["output"] = "twice"


def unknown_class(bench: Bench) -> None:
    bench.document["targets"]["first"]["index"] = 7


def no_class(bench: Bench) -> None:
    del bench.document["targets"]["first"]["index"]


def unknown_layer(bench: Bench) -> None:
    bench.document["layers"] = ["hidden1", "hidden9"]


def nothing_to_reduce(bench: Bench) -> None:
    bench.document["layers"] = ["hidden1@mean"]


def too_few(bench: Bench) -> None:
    bench.save("used.npy", np.zeros((3, 4)))


def wrong_shape(bench: Bench) -> None:
    bench.save("base.npy", np.zeros((50, 5)))


def overflow(bench: Bench) -> None:
    values = np.load(bench.folder / "targets.npy")
    values[17, 2] = np.nan
    bench.save("targets.npy", values)


def unpaired(bench: Bench) -> None:
    bench.document["examples"]["used"]["pairs_with"] = "targets"
    bench.save("targets.npy", np.zeros((25, 4)))


def operator_without_gradient(bench: Bench) -> None:
    model = onnx.load(bench.folder / "model.onnx")
    softmax = model.graph.node.pop()
    model.graph.node.append(helper.make_node("Det", ["square"], ["determinant"], name="the_det"))
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("MatMul", ["column", "row"], ["square"], name="outer")
    )
    axes = onnx.numpy_helper.from_array(np.array([2]), "axes2")
    first = onnx.numpy_helper.from_array(np.array([1]), "axes1")
    model.graph.initializer.extend([axes, first])
    position = len(model.graph.node) - 2
    model.graph.node.insert(position, helper.make_node("Unsqueeze", ["logits", "axes2"], ["column"]))
    model.graph.node.insert(position, helper.make_node("Unsqueeze", ["logits", "axes1"], ["row"]))
    del softmax
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("determinant", onnx.TensorProto.FLOAT, ["N"]))
    onnx.save(model, bench.folder / "model.onnx")
    del bench.document["targets"]["first"]["index"]


CASES: list[tuple[Callable[[Bench], None], str, str, str]] = [
    (not_onnx, "not-an-onnx-file", "not an ONNX", "/model"),
    (truncated, "truncated-model", "", "/model"),
    (empty, "not-an-onnx-file", "", "/model"),
    (unknown_output, "unknown-output", "no output 'scores'.*probabilities", "/targets/first/output"),
    (unknown_class, "unknown-class", "class 7.*2 classes.*0 to 1", "/targets/first/index"),
    (no_class, "class-not-named", "names no class.*0 to 1", "/targets/first/index"),
    (two_rows_for_an_example, "no-row-for-each-example", "is 2 x 2 for 1 example", "/targets/first/output"),
    (unknown_layer, "unknown-layer", "no layer 'hidden9'.*hidden1", "/layers/1"),
    (nothing_to_reduce, "nothing-to-reduce", "no positions", "/layers/0"),
    (too_few, "too-few-examples", r"has 3 examples; 20 are needed.*at least 17", "/concepts/used/examples"),
    (wrong_shape, "shapes-do-not-fit", "shape 5; the model's input 'x' takes 4", "/examples/base"),
    (overflow, "not-finite", "example '17' of 'targets'", "/examples/targets"),
    (unpaired, "unpaired-examples", "no match in 'targets'", "/examples/used/pairs_with"),
    (operator_without_gradient, "", "Det", "/layers/0"),
]


@pytest.mark.parametrize(("change", "code", "sentence", "pointer"), CASES, ids=[case[0].__name__ for case in CASES])
def test_what_cannot_be_audited_is_refused_in_words(
    bench: Bench, change: Callable[[Bench], None], code: str, sentence: str, pointer: str
) -> None:
    change(bench)
    with pytest.raises(InvalidInput, match=f"(?s){sentence}") as caught:
        bench.run()
    assert caught.value.code == code or not code
    assert caught.value.pointer == pointer
    assert caught.value.remedy


def pictures(bench: Bench, files: dict[str, bytes]) -> None:
    """Turns the targets into a zip of pictures."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    (bench.folder / "targets.zip").write_bytes(buffer.getvalue())
    bench.document["examples"]["targets"] = {"images": "targets.zip", "preprocess": {"size": 2, "channels": "gray"}}


def test_an_empty_zip_is_refused_by_the_name_of_its_set(bench: Bench) -> None:
    pictures(bench, {})
    with pytest.raises(InvalidInput, match="none of them is a picture") as caught:
        bench.run()
    assert caught.value.pointer == "/examples/targets"


@pytest.mark.parametrize(
    ("group", "pointer"),
    [
        ({"sensitive": ["a", "sex"], "decision": "b"}, "/groups/people/sensitive"),
        ({"sensitive": ["a"], "decision": "b", "given": ["c", "sex"]}, "/groups/people/given"),
        ({"sensitive": ["a"], "decision": "approved"}, "/groups/people/decision"),
        ({"sensitive": ["a"], "target": "first", "label": "approved"}, "/groups/people/label"),
    ],
)
def test_a_group_whose_column_is_not_there_is_refused_before_the_model_runs(
    bench: Bench, group: dict[str, object], pointer: str
) -> None:
    (bench.folder / "people.csv").write_text("a,b,c,d\n" + "1,0,3,4\n0,1,2,2\n" * 20)
    bench.document["examples"]["people"] = {"table": "people.csv", "features": ["a", "b", "c", "d"]}
    bench.document["groups"] = {"people": {"examples": "people", **group}}
    with pytest.raises(InvalidInput, match=r"no column .(sex|approved).") as caught:
        bench.run()
    assert caught.value.pointer == pointer
    assert "collecting" not in {stage for stage, _ in bench.stages}


def test_a_table_without_a_column_is_refused_by_the_name_of_its_set(bench: Bench) -> None:
    (bench.folder / "targets.csv").write_text("a,b,c\n1,2,3\n")
    bench.document["examples"]["targets"] = {"table": "targets.csv", "features": ["a", "b", "c", "d"]}
    with pytest.raises(InvalidInput, match=r"no column 'd'.*a, b, c") as caught:
        bench.run()
    assert caught.value.pointer == "/examples/targets"
