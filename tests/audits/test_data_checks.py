"""What silently goes wrong with examples is said in the report, and nothing is said of examples that are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from caveat_spec.audit import Audit, Preprocess
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.data_checks import _check_pixels
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.readers.example_sets import open_set
from caveat_worker.readers.overlap import check_overlaps
from caveat_worker.readers.source import ModelInputs
from tests.audits.conftest import Bench
from tests.engine import trees


def warnings(bench: Bench) -> str:
    return " ".join(bench.run().warnings)


def test_nothing_is_said_where_nothing_is_wrong(bench: Bench) -> None:
    assert bench.run().warnings == []


def nearly_constant(bench: Bench) -> None:
    """Scores of 5 whose gradient is small, and whose differences are those of rounding."""
    model = onnx.load(bench.folder / "model.onnx")
    (last,) = (one for one in model.graph.initializer if one.name == "w3")
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) * np.float32(1e-6), "w3"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([5, 0], np.float32), "shift"))
    model.graph.node[4].output[0] = "small"
    model.graph.node.insert(5, helper.make_node("Add", ["small", "shift"], ["logits"]))
    onnx.save(model, bench.folder / "model.onnx")


def test_a_target_that_only_rounding_varies(bench: Bench) -> None:
    """Effects would be a million standard deviations."""
    nearly_constant(bench)
    with pytest.raises(InvalidInput, match="is 5 at all 60 of its examples, but for rounding"):
        bench.run()


def test_a_constant_target(bench: Bench) -> None:
    """An association has no scale there and is refused; a measured change has one, and is warned of."""
    bench.save("targets.npy", np.ones((30, 4)))
    with pytest.raises(InvalidInput, match="at all 30 of its examples, so"):
        bench.run()
    onnx.save(trees.boosted_classifier(), bench.folder / "model.onnx")
    bench.document["layers"] = "auto"
    bench.document["targets"]["first"]["index"] = 1
    assert "at all 30 examples of 'targets': nothing can be seen to influence it" in warnings(bench)


def test_a_class_that_no_example_gets(bench: Bench) -> None:
    alike = np.repeat(np.load(bench.folder / "targets.npy")[:1], 30, axis=0)
    bench.save("targets.npy", alike + np.random.default_rng(0).normal(0, 0.01, alike.shape))
    commonest = bench.run().plan.targets[0].commonest_class
    assert commonest is not None
    bench.document["targets"]["first"]["index"] = commonest
    assert warnings(bench) == ""
    bench.document["targets"]["first"]["index"] = 1 - commonest
    said = f"gives class {1 - commonest} to none of the 30 examples of 'targets', and class {commonest} to 30"
    assert said in warnings(bench)


def test_pairs_that_the_model_cannot_tell_apart(bench: Bench) -> None:
    bench.save("ignored.npy", np.load(bench.folder / "base.npy"))
    said = warnings(bench)
    assert "gets the same input with and without 'ignored' in all 40 pairs of 'ignored' and 'base'" in said
    assert "'used'" not in said


def test_pairs_by_name_only(bench: Bench) -> None:
    """Rows in another order are no pairs; a mask in each, or all of them brighter or inverted, leaves them alike."""
    base = np.load(bench.folder / "base.npy")
    bench.save("used.npy", np.roll(np.load(bench.folder / "used.npy"), 1, axis=0))
    assert "The pairs of 'used' and 'base' are no more alike than examples that do not belong" in warnings(bench)
    masked = base.copy()
    masked[:, : base.shape[1] // 3] = 9
    for edited in (masked, 3 * base + 5, -base):
        bench.save("used.npy", edited)
        assert "alike" not in warnings(bench)


def test_arrays_that_share_examples(bench: Bench) -> None:
    used = np.load(bench.folder / "used.npy")
    bench.save("used.npy", np.concatenate([used[:37], np.load(bench.folder / "base.npy")[37:]]))
    said = warnings(bench)
    assert "3 of the 40 examples of concept 'used' ('used') are also in its reference set 'base'" in said


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, "look like those of pixels from 0 to 1"),
        ({"mean": 0.5, "std": 0.5}, "Multiply both by 255"),
        ({"mean": [123.675, 116.28, 103.53], "std": [0.229, 0.224, 0.225]}, "pixels from 0 to 1"),
        ({"mean": 31536.0, "std": 14890.0}, "Divide both by 255"),
        ({"mean": 0.0, "std": 65025.0}, "the model sees values from 0 to 0.003922 only"),
        ({"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}, ""),
        ({"mean": 127.5, "std": 127.5}, ""),
        ({"mean": 0.0, "std": 1.0}, ""),
        ({"mean": 0.0, "std": 255.0}, ""),
        ({"mean": [103.939, 116.779, 123.68], "std": 1.0}, ""),
    ],
)
def test_means_of_pixels_in_another_unit(how: dict[str, object], said: str) -> None:
    found = list(_check_pixels("photos", Preprocess.model_validate({"size": 8, **how})))
    assert len(found) == (said != "")
    assert said in "".join(found)


def table_audit(folder: Path, **sets: dict[str, object]) -> list[str]:
    (folder / "t.csv").write_text("a,b,person\n" + "".join(f"{n % 2},{n % 3},{n}\n" for n in range(60)))
    examples = {name: {"table": "t.csv", "features": ["a", "b"], **fields} for name, fields in sets.items()}
    concepts = {"c": {"examples": "shown", "against": "reference"}}
    audit = Audit.model_validate(
        {"model": "m", "examples": examples, "concepts": concepts, "targets": {"t": {"examples": "shown"}}}
    )
    opened = {name: open_set(name, one, lambda _: folder / "t.csv", 0) for name, one in audit.examples.items()}
    return list(check_overlaps(audit, {name: one.fit(None) if one.fit else one for name, one in opened.items()}))


def test_rows_are_compared_by_all_their_columns(tmp_path: Path) -> None:
    """People who share all that the model takes are no overlap; the same row twice is one."""
    assert table_audit(tmp_path, shown={"where": "person < 20"}, reference={"where": "person >= 20"}) == []
    (said,) = table_audit(tmp_path, shown={"where": "person < 20"}, reference={"where": "person > 10"})
    assert said.startswith("9 of the 20 examples of concept 'c' ('shown') are also in its reference set 'reference'")


def test_edited_rows_may_be_as_they_were(tmp_path: Path) -> None:
    edited = {"set": {"a": 1}, "pairs_with": "reference"}
    assert table_audit(tmp_path, shown=edited, reference={}) == []


def test_an_edit_of_a_column_that_the_model_does_not_take(tmp_path: Path) -> None:
    (said,) = table_audit(tmp_path, shown={"set": {"person": 1}, "pairs_with": "reference"}, reference={})
    assert said.startswith("The model gets the same input with and without 'c' in all 60 pairs")


@pytest.mark.parametrize("some", [{}, {"where": "person < 40"}], ids=["all", "some"])
def test_texts_that_the_model_takes_are_compared_as_texts(tmp_path: Path, some: dict[str, str]) -> None:
    """Sets hold their own objects for a text; where one has fewer rows, they are compared by their digests."""
    (tmp_path / "t.csv").write_text(
        "city,person\n" + "".join(f"{'Rome' if n % 2 else 'Bonn'},{n}\n" for n in range(60))
    )
    sets = {"shown": {"set": {"person": 1}, "pairs_with": "reference", **some}, "reference": {}}
    audit = Audit.model_validate(
        {
            "model": "m",
            "examples": {name: {"table": "t.csv", "features": ["city"], **fields} for name, fields in sets.items()},
            "concepts": {"c": {"examples": "shown", "against": "reference"}},
            "targets": {"t": {"examples": "shown"}},
        }
    )
    inputs = ModelInputs((TensorInfo("city", (None, 1), "object"),), {}, {})
    sources = {}
    for name, one in audit.examples.items():
        opened = open_set(name, one, lambda _: tmp_path / "t.csv", 0)
        assert opened.fit is not None
        sources[name] = opened.fit(inputs)
    (said,) = check_overlaps(audit, sources)
    assert said.startswith("The model gets the same input with and without 'c' in all")


def test_pictures_are_compared_by_their_bytes(tmp_path: Path) -> None:
    from caveat.pack import chunks, content_of

    for name, first in (("shown", 0), ("reference", 2)):
        (tmp_path / name).mkdir()
        for number in range(first, first + 4):
            Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(tmp_path / name / f"{name}-{number}.png")
        (tmp_path / f"{name}.tar").write_bytes(b"".join(chunks(content_of(tmp_path / name))))
    examples = {name: {"images": f"{name}.tar", "preprocess": {"size": 8}} for name in ("shown", "reference")}
    concepts = {"c": {"examples": "shown", "against": "reference"}}
    audit = Audit.model_validate(
        {"model": "m", "examples": examples, "concepts": concepts, "targets": {"t": {"examples": "shown"}}}
    )
    sources = {name: open_set(name, one, lambda source: tmp_path / source, 0) for name, one in audit.examples.items()}
    (said,) = check_overlaps(audit, sources)
    assert said.startswith("2 of the 4 examples")
