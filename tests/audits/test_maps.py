"""`keep: maps`: every number of an audit's figures, in a file that its report names by its digest."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import caveat
from caveat.cli import cli
from caveat_reports.canonical import canonical
from caveat_spec.maps import MapsContents
from caveat_spec.report import Report
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.model_runs import ModelRuns
from caveat_worker.engine.panels import planned
from tests.audits.conftest import Bench
from tests.audits.test_cache import Kept
from tests.audits.test_explain import SIZE, glyphs, linear, show, words
from tests.engine.nets import Net

__all__ = ["glyphs", "words"]
"""Fixtures that other modules have."""

Arrays = dict[str, np.ndarray]


def kept(bench: Bench, **options: Any) -> tuple[Report, bytes]:
    bench.document["keep"] = "maps"
    written: list[bytes] = []
    report = bench.run(keep_maps=written.append, **options)
    (content,) = written
    return report, content


def opened(content: bytes) -> tuple[MapsContents, Arrays]:
    """As a reader opens it, who takes no pickles from anybody."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return MapsContents.model_validate_json(str(arrays.pop("contents"))), arrays


def test_the_report_names_the_file_by_its_digest(glyphs: Bench) -> None:
    report, content = kept(glyphs)
    assert report.maps is not None
    assert (report.maps.digest, report.maps.size) == (f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
    contents, arrays = opened(content)
    assert report.maps.figures == len(contents.figures) == 4
    assert {array.name for figure in contents.figures for array in figure.arrays} == set(arrays)


def test_every_number_is_there_as_it_was_before_blocks_and_levels(glyphs: Bench) -> None:
    report, content = kept(glyphs)
    contents, arrays = opened(content)
    for figure in contents.figures:
        panel = report.explanations[0].panels[figure.panel]
        (array,) = figure.arrays
        assert (figure.example, figure.set, figure.unit) == (panel.example, panel.set, "logit")
        assert (array.what, array.axes, array.shape) == ("values", ["row", "column"], [SIZE, SIZE])
        values = arrays[array.name]
        assert values.sum(dtype=float) == pytest.approx(panel.value, rel=1e-5)
        pixels = np.load(glyphs.folder / f"{panel.set}.npy")[panel.position, 0]
        assert values[:2, :2] == pytest.approx(pixels[:2, :2], rel=1e-5)
        assert not values[2:].any()


def test_threads_and_the_cache_change_no_byte(glyphs: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    show(glyphs, "gradient_x_input", "smoothgrad", {"layer_to_layer": {"layer": "x", "upper": "bright", "most": 5}})
    store = Kept(glyphs.folder / "kept").store
    first, content = kept(glyphs, threads=1, store=store)
    again, same = kept(glyphs, threads=2)
    assert (canonical(again), same) == (canonical(first), content)
    monkeypatch.setattr(ModelRuns, "gradient", None)
    again, same = kept(glyphs, threads=1, store=store)
    assert (canonical(again), same) == (canonical(first), content)


def test_errors_and_pairs_of_layers_have_arrays_of_their_own(glyphs: Bench) -> None:
    glyphs.document["integrity"] = {"sanity": "none"}
    show(glyphs, "smoothgrad", {"layer_to_layer": {"layer": "x", "upper": "bright", "most": 5}})
    contents, arrays = opened(kept(glyphs)[1])
    noisy, linked = contents.figures[0], contents.figures[4]
    assert [array.what for array in noisy.arrays] == ["values", "standard_errors"]
    values, pairs, upper = (arrays[array.name] for array in linked.arrays)
    assert [array.axes for array in linked.arrays] == [
        ["row", "column"],
        ["upper atom", "row", "column"],
        ["upper atom"],
    ]
    assert pairs.sum(0) == pytest.approx(values, rel=1e-5)
    for pair, atom in zip(pairs, upper, strict=True):  # a Relu links each place with itself
        assert np.flatnonzero(pair).tolist() == [atom]


def test_a_figure_that_is_withheld_has_its_sentence_and_no_numbers(glyphs: Bench) -> None:
    dark = np.load(glyphs.folder / "marked.npy")
    dark[3] = -1
    glyphs.save("marked.npy", dark)
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["3"]}
    report, content = kept(glyphs)
    contents, arrays = opened(content)
    assert arrays == {}
    assert contents.figures[0].withheld == report.explanations[0].panels[0].figures[0].withheld
    assert report.maps is not None
    assert report.maps.figures == 0


def test_columns_channels_and_neurons_say_what_they_are(glyphs: Bench, tmp_path: Path) -> None:
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["29"]}
    show(glyphs, {"layer": "bright", "atoms": "channels"}, {"layer": "bright", "atoms": "neurons"})
    told = [figure.arrays[0] for figure in opened(kept(glyphs)[1])[0].figures]
    assert [(array.axes, array.shape) for array in told] == [
        (["channel"], [1]),
        (["channel", "row", "column"], [1, SIZE, SIZE]),
    ]
    (tmp_path / "table").mkdir()
    rows = linear(tmp_path / "table")
    show(rows, "shapley")
    (figure,) = opened(kept(rows)[1])[0].figures
    assert figure.arrays[0].axes == ["part"]
    assert len(figure.names) == figure.arrays[0].shape[0]


def test_tokens_say_what_they_are(words: Bench) -> None:
    asked = {"of": "answer", "examples": {"set": "he", "pick": ["line 1"]}, "show": ["gradient_x_input"]}
    words.document["explain"] = {"why": asked}
    (figure,) = opened(kept(words)[1])[0].figures
    assert figure.arrays[0].axes == ["token"]


def test_a_volume_keeps_its_depth(tmp_path: Path) -> None:
    net = Net(2)
    flat = net.op("Flatten", net.op("Relu", net.op("Conv", "x", net.weight(2, 1, 3, 3, 3), pads=[1] * 6)))
    (tmp_path / "model.onnx").write_bytes(net.model(("n", 1, 3, 4, 5), net.dense(flat, 120, 2)))
    bench = Bench(
        tmp_path,
        {
            "model": "model.onnx",
            "examples": {"scans": {"arrays": "scans.npy"}},
            "targets": {"first": {"index": 0, "examples": "scans"}},
            "explain": {"why": {"of": "first", "examples": {"pick": ["0"]}, "show": ["gradient_x_input"]}},
        },
    )
    bench.save("scans.npy", np.random.default_rng(1).normal(size=(4, 1, 3, 4, 5)))
    report, content = kept(bench)
    contents, arrays = opened(content)
    (array,) = contents.figures[0].arrays
    assert (array.axes, array.shape) == (["depth", "row", "column"], [3, 4, 5])
    (figure,) = report.explanations[0].panels[0].figures
    assert figure.map is not None
    seen = np.array(figure.map.rows()) * figure.map.scale / 127
    assert arrays[array.name].sum(0) == pytest.approx(seen, abs=figure.scale / 127)


def test_what_cannot_be_kept_is_refused_before_anything_runs(glyphs: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "LARGEST_MAPS", 1000)
    with pytest.raises(InvalidInput, match="Explain fewer examples") as refused:
        kept(glyphs)
    assert (refused.value.code, refused.value.pointer) == ("maps-too-large", "/keep")
    assert "explaining" not in {stage for stage, _ in glyphs.stages}
    del glyphs.document["explain"]
    glyphs.document["concepts"] = {"mark": {"examples": "marked", "against": "base"}}
    with pytest.raises(ValueError, match="there is no entry in 'explain'"):
        kept(glyphs)


def test_the_command_writes_the_file(glyphs: Bench) -> None:
    audit, maps, report = (glyphs.folder / name for name in ("audit.json", "new/maps.npz", "report.json"))
    asked = ["explain", str(audit), "--local", "--maps", str(maps)]
    audit.write_text(json.dumps(glyphs.document))
    refused = CliRunner().invoke(cli, asked, catch_exceptions=False)
    assert refused.exit_code == 2
    assert "Add `keep: maps` to the file" in refused.output
    audit.write_text(json.dumps(glyphs.document | {"keep": "maps"}))
    done = CliRunner().invoke(cli, [*asked, "--json", str(report)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    named = Report.model_validate_json(report.read_bytes()).maps
    assert named is not None
    assert named.digest == f"sha256:{hashlib.sha256(maps.read_bytes()).hexdigest()}"
    assert opened(maps.read_bytes())[0].figures


def test_from_python_they_are_arrays_with_what_they_are_of(glyphs: Bench, tmp_path: Path) -> None:
    show(glyphs, "gradient_x_input")
    asked = {name: glyphs.document[name] for name in ("targets", "explain")}
    arrays = {name: np.load(glyphs.folder / f"{name}.npy") for name in ("base", "marked")}
    examples = {"base": arrays["base"], "marked": {"arrays": arrays["marked"], "pairs_with": "base"}}
    model = glyphs.folder / "model.onnx"
    fields = {**asked, "integrity": {"sanity": "none"}}
    result = caveat.audit(model, examples=examples, show_progress=False, keep="maps", **fields)
    assert result.maps is not None
    panels = result.report.explanations[0].panels
    for one, panel in zip(result.maps.figures, panels, strict=True):
        assert (one.figure.example, one.axes) == (panel.example, ("row", "column"))
        assert one.values is not None
        assert one.values.shape == (SIZE, SIZE)
        assert one.values.sum(dtype=float) == pytest.approx(panel.value, rel=1e-5)
        assert (one.standard_errors, one.pairs, one.upper) == (None, None, None)
    content = result.maps.save(tmp_path / "maps.npz").read_bytes()
    assert caveat.Maps.read(content, result.report.maps).figures[0].figure == result.maps.figures[0].figure
    with pytest.raises(caveat.ProblemError, match="not those that the report names"):
        caveat.Maps.read(content + b"0", result.report.maps)
    for none in (b"", b"PK", content[:-100], np.lib.format.MAGIC_PREFIX):
        with pytest.raises(caveat.ProblemError, match="no file of maps"):
            caveat.Maps.read(none)
    assert caveat.audit(model, examples=examples, show_progress=False, **fields).maps is None
