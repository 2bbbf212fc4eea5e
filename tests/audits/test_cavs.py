"""`keep: cavs`: the concept activation vectors of an audit, in the file beside its report."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from caveat.maps import Maps
from caveat_reports.canonical import canonical
from caveat_spec.audit import Audit
from caveat_spec.maps import CavPlace, MapsFile, npy_head
from caveat_spec.report import Report
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.panels import planned
from tests.audits.conftest import Bench
from tests.audits.test_explain import SIZE, glyphs
from tests.audits.test_maps import opened
from tests.audits.test_shards import divided, run_parts, together

__all__ = ["glyphs"]
"""A fixture that another module has."""


def kept(bench: Bench, keep: Any = "cavs", **options: Any) -> tuple[Report, bytes]:
    bench.document["keep"] = keep
    written: list[bytes] = []
    report = bench.run(keep_maps=written.append, **options)
    (content,) = written
    return report, content


def test_a_vector_is_the_difference_of_the_means_in_its_layer(bench: Bench) -> None:
    """By hand, from the model's own weights: the default estimator, on the pairs of the concept."""
    report, content = kept(bench)
    contents, arrays = opened(content)
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load(bench.folder / "model.onnx").graph.initializer}
    hidden = {
        name: np.tanh(np.load(bench.folder / f"{name}.npy") @ weights["w1"]) for name in ("used", "ignored", "base")
    }
    assert set(arrays) == {"cavs/used/hidden1", "cavs/ignored/hidden1"}
    for cav in contents.cavs:
        by_hand = hidden[cav.concept].mean(0) - hidden["base"].mean(0)
        vector = arrays[cav.name]
        assert vector.shape == tuple(cav.shape) == (9,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert vector == pytest.approx(by_hand / np.linalg.norm(by_hand), abs=1e-5)
        assert cav.step == pytest.approx(np.linalg.norm(by_hand), rel=1e-4)
        assert cav.origin == pytest.approx(hidden["base"].mean(0) @ vector, rel=1e-4, abs=1e-5)
        assert (cav.n_concept, cav.n_reference) == (40, 40)
    assert report.maps is not None
    assert report.maps.figures == 0


def test_a_report_says_where_in_the_file_each_vector_lies(bench: Bench) -> None:
    bench.document["layers"] = ["hidden1", "hidden2"]
    report, content = kept(bench)
    _, arrays = opened(content)
    assert report.maps is not None
    assert [(one.concept, one.layer) for one in report.maps.cavs] == [
        (concept, layer) for layer in ("hidden1", "hidden2") for concept in ("used", "ignored")
    ]
    for one in report.maps.cavs:
        array = arrays[f"cavs/{one.concept}/{one.layer}"]
        assert content[one.at : one.end] == array.tobytes()


def test_a_layer_that_does_not_tell_a_concept_apart_has_a_step_of_nothing(bench: Bench) -> None:
    bench.document["layers"] = ["hidden2"]
    _, content = kept(bench)
    used, ignored = opened(content)[0].cavs
    assert abs(ignored.step) < 1e-12 < used.step
    assert Maps.read(content).cavs.keys() == {("used", "hidden2"), ("ignored", "hidden2")}


def test_keeping_vectors_changes_no_number_of_the_report(bench: Bench) -> None:
    plain = bench.run()
    report, _ = kept(bench)
    other = report.model_copy(update={"maps": None, "audit": plain.audit})
    assert canonical(other) == canonical(plain)


@pytest.mark.parametrize("concept", ["used", "ignored"])
def test_a_controlled_concept_has_no_part_in_the_vector(bench: Bench, concept: str) -> None:
    other = {"used": "ignored", "ignored": "used"}[concept]
    _, content = kept(bench)
    alone = opened(content)[1]
    bench.document["concepts"][concept]["controlling_for"] = [other]
    _, content = kept(bench)
    cosine = opened(content)[1][f"cavs/{concept}/hidden1"] @ alone[f"cavs/{other}/hidden1"]
    assert abs(cosine) < 1e-4


def test_a_vector_has_the_shape_of_its_layer_or_a_number_for_each_channel(glyphs: Bench) -> None:
    glyphs.document |= {
        "concepts": {"mark": {"examples": "marked", "against": "base"}},
        "layers": ["bright", {"tensor": "bright", "reduce": "max"}],
    }
    glyphs.document["method"] = glyphs.document.get("method", {}) | {"runs": 30, "permutations": 199, "bootstrap": 199}
    _, content = kept(glyphs, ["maps", "cavs"])
    contents, arrays = opened(content)
    whole, pooled = (arrays[one.name] for one in contents.cavs)
    assert [one.layer for one in contents.cavs] == ["bright", "bright@max"]
    assert (whole.shape, pooled.shape) == ((1, SIZE, SIZE), (1,))
    assert np.flatnonzero(np.abs(whole) > 0.01).tolist() == [0, 1, SIZE, SIZE + 1], "the mark lies in that corner"
    assert len(contents.figures) == 4


def test_a_divided_audit_keeps_the_same_bytes(bench: Bench) -> None:
    bench.document["keep"] = "cavs"
    plain, content = kept(bench)
    division = divided(bench, 1)
    pieces = run_parts(bench, division, bench.folder)
    joined, again = kept(bench, store=partial(together, pieces))
    assert (canonical(joined), again) == (canonical(plain), content)


def test_a_sequential_audit_keeps_those_of_its_last_look(bench: Bench) -> None:
    bench.document["method"]["sequential"] = {"looks": [0.5, 1.0]}
    report, content = kept(bench)
    contents, _ = opened(content)
    assert report.sequential is not None
    seen = {one.name: one.count for one in report.plan.examples}
    assert {one.n_concept for one in contents.cavs} == {seen["used"]}


def test_what_cannot_be_kept_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench.document | {"keep": "cavs"}
    explained = {"gate": [], "explain": {"why": {"of": "first", "show": ["saliency"]}}}
    for without in ({"concepts": {}}, {"test_concepts": False}):
        with pytest.raises(ValidationError, match="no concept is tested"):
            Audit.model_validate(whole | explained | without)
    with pytest.raises(ValidationError, match="keep"):
        Audit.model_validate(whole | {"keep": []})
    with pytest.raises(ValidationError, match="there is no entry in 'explain'"):
        Audit.model_validate(whole | {"keep": ["cavs", "maps"]})
    monkeypatch.setattr(planned, "LARGEST_MAPS", 71)
    bench.document["keep"] = "cavs"
    with pytest.raises(InvalidInput) as refused:
        bench.run()
    assert (refused.value.code, refused.value.pointer) == ("maps-too-large", "/keep")


def test_explanations_alone_leave_the_vectors_out(bench: Bench) -> None:
    bench.document |= {"keep": ["cavs", "maps"], "explain": {"why": {"of": "first", "show": ["saliency"]}}}
    assert Audit.model_validate(bench.document).only_explained().keeps == {"maps"}


@pytest.mark.parametrize("shape", [(), (1,), (9,), (3, 224, 224), (1,) * 20, (10**9, 10**9)], ids=str)
def test_the_head_of_an_array_is_numpy_s(shape: tuple[int, ...]) -> None:
    head = npy_head(shape)
    assert len(head) % 64 == 0
    assert np.lib.format.read_array_header_1_0(io.BytesIO(head[8:])) == (shape, False, np.dtype("<f4"))


def test_a_vector_that_ends_behind_the_file_is_no_report() -> None:
    place = CavPlace(concept="a", layer="b", shape=[3, 2], at=76)
    fits = {"digest": f"sha256:{'0' * 64}", "figures": 0, "cavs": [place]}
    assert MapsFile(size=100, **fits).cavs[0].end == 100
    with pytest.raises(ValidationError, match="behind the file"):
        MapsFile(size=99, **fits)
