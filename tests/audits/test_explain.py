"""`explain`, from an audit's file to its report: what is shown, what is withheld, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from caveat.cli import cli
from caveat_reports.canonical import canonical
from caveat_spec.explained import Explained, Figure
from caveat_worker.engine.activations import batches
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations import model_runs
from caveat_worker.engine.explanations.model_runs import ModelRuns
from tests.audits.conftest import Bench, Change
from tests.audits.test_cache import Kept
from tests.audits.test_shards import divided, run_parts, together
from tests.audits.test_text import LENGTH, words
from tests.engine.nets import Net

SIZE = 8

__all__ = ["words"]
"""A fixture that another module has."""


@pytest.fixture
def glyphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A network that answers by the brightness of one corner, whatever else the picture [1, 8, 8] shows."""
    rng = np.random.default_rng(2)
    corner = np.zeros((SIZE * SIZE, 2), np.float32)
    corner.reshape(SIZE, SIZE, 2)[:2, :2] = [1.0, -0.5]
    nodes = [
        helper.make_node("Relu", ["x"], ["bright"]),
        helper.make_node("Flatten", ["bright"], ["flat"]),
        helper.make_node("MatMul", ["flat", "corner"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "glyphs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(corner, "corner")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    base = np.abs(rng.normal(size=(30, 1, SIZE, SIZE))) / 4
    marked = base.copy()
    marked[:, :, :2, :2] += 2 + np.arange(30).reshape(-1, 1, 1, 1)
    document = {
        "model": "model.onnx",
        "examples": {"base": {"arrays": "base.npy"}, "marked": {"arrays": "marked.npy", "pairs_with": "base"}},
        "targets": {"first": {"index": 0, "examples": "base"}},
        "explain": {
            "why": {
                "of": "first",
                "examples": {"set": "marked", "count": 2, "pairs": True},
                "show": ["gradient_x_input"],
            }
        },
    }
    bench = Bench(tmp_path, document)
    bench.save("base.npy", base)
    bench.save("marked.npy", marked)
    monkeypatch.chdir(tmp_path)
    return bench


def explained(bench: Bench) -> Explained:
    (one,) = bench.run().explanations
    return one


def cells(figure: Figure) -> np.ndarray:
    assert figure.map is not None
    return np.array(figure.map.rows()) * figure.map.scale / 127


def test_the_glyph_that_decides_the_class_is_where_the_map_is(glyphs: Bench) -> None:
    one = explained(glyphs)
    assert [panel.example for panel in one.panels] == ["29", "29", "28", "28"]
    for panel in one.panels:
        (figure,) = panel.figures
        found = cells(figure)
        assert found.any()
        found[:2, :2] = 0
        assert not found.any()
        assert figure.focus is not None
        assert (figure.focus.share, figure.focus.area) == (1.0, 4 / SIZE**2)


def test_a_map_adds_up_to_the_number_that_it_explains(glyphs: Bench) -> None:
    for panel in explained(glyphs).panels:
        (figure,) = panel.figures
        assert figure.total == pytest.approx(panel.value, rel=1e-5)
        assert sum(atom.value for atom in figure.atoms) + figure.rest.sum == pytest.approx(panel.value, rel=1e-5)
        assert cells(figure).sum() == pytest.approx(panel.value, abs=4 * figure.scale / 127 / 2)


def test_examples_of_an_element_share_a_scale_that_holds_them_all(glyphs: Bench) -> None:
    figures = [figure for _, figure in explained(glyphs).figures]
    assert len({figure.scale for figure in figures}) == 1
    assert max(abs(atom.value) for figure in figures for atom in figure.atoms) <= figures[0].scale


def test_what_is_not_shown_is_counted_and_summed(glyphs: Bench) -> None:
    glyphs.document["explain"]["why"]["show"] = [{"gradient_x_input": {"top": 3}}]
    figure = explained(glyphs).figures[0][1]
    assert len(figure.atoms) == 3
    assert figure.rest.count == SIZE * SIZE - 3


@pytest.mark.parametrize(
    ("pick", "names"),
    [("highest", ["29", "28"]), ("lowest", ["0", "1"]), ("most_changed", ["29", "28"]), (["7"], ["7"])],
)
def test_examples_are_picked_by_a_rule_or_by_name(glyphs: Bench, pick: object, names: list[str]) -> None:
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": pick, "count": 2}
    assert [panel.example for panel in explained(glyphs).panels] == names


def test_errors_are_examples_that_get_another_class(glyphs: Bench) -> None:
    wrong = np.load(glyphs.folder / "marked.npy")
    wrong[5, :, :2, :2] = -1  # a Relu makes both scores 0
    glyphs.save("marked.npy", wrong)
    glyphs.document["targets"]["first"]["index"] = 1
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": "errors", "count": 2}
    assert [panel.example for panel in explained(glyphs).panels] == ["29", "28"]
    glyphs.document["targets"]["first"]["index"] = 0
    one = explained(glyphs)
    assert (one.panels, one.selection) == ([], "Every one of the 30 examples of marked gets first.")


def test_a_figure_that_fails_its_check_is_a_sentence(glyphs: Bench) -> None:
    dark = np.load(glyphs.folder / "marked.npy")
    dark[3] = -1
    glyphs.save("marked.npy", dark)
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["3"]}
    ((_, figure),) = explained(glyphs).figures
    assert (figure.map, figure.atoms) == (None, [])
    assert figure.withheld is not None
    assert "does not change with small changes of this example" in figure.withheld


def test_threads_and_the_cache_change_no_byte(glyphs: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(glyphs.folder / "kept")
    first = canonical(glyphs.run(threads=1, store=kept.store))
    assert canonical(glyphs.run(threads=2)) == first
    monkeypatch.setattr(ModelRuns, "gradient", None)
    assert canonical(glyphs.run(threads=1, store=kept.store)) == first


def test_four_shards_give_the_bytes_of_one_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_BATCH", 16)
    bench.document["explain"] = {"why": {"of": "first", "show": ["gradient_x_input", "saliency"]}}
    plain = bench.run()
    division = divided(bench, 5)
    pieces = run_parts(bench, division, bench.folder)
    assert len(division.shards) == 4
    assert plain.explanations
    assert canonical(bench.run(store=partial(together, pieces))) == canonical(plain)


def test_panels_are_divided_among_workers_and_give_the_same_bytes(
    glyphs: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_runs, "LARGEST_BATCH", 1)
    show(glyphs, "gradient_x_input", {"smoothgrad": {"samples": 4}}, {"layer": "bright", "atoms": "positions"})
    glyphs.document["keep"] = "maps"
    written: list[bytes] = []
    plain = glyphs.run(keep_maps=written.append)
    division = divided(glyphs, 100)
    assert (division.rows, len(division.panels)) == ([], 4)
    asked = [(one.element, panel) for part in division.panels for one in part for panel in range(one.start, one.stop)]
    assert asked == [(element, panel) for element in range(3) for panel in range(4)]
    pieces = run_parts(glyphs, division, glyphs.folder)
    monkeypatch.setattr(ModelRuns, "gradient", None)
    joined = glyphs.run(store=partial(together, pieces), keep_maps=written.append, threads=2)
    assert canonical(joined) == canonical(plain)
    assert written[0] == written[1]


def test_explaining_is_a_stage_of_its_own(glyphs: Bench) -> None:
    glyphs.run()
    told = [share for stage, share in glyphs.stages if stage == "explaining"]
    assert told == sorted(told)
    assert len(told) > 2


def test_an_explanation_decides_no_line_of_the_gate(bench: Bench) -> None:
    without = bench.run()
    bench.document["explain"] = {"why": {"of": "first", "show": ["saliency"]}}
    beside = bench.run()
    assert (beside.verdict, beside.tests) == (without.verdict, without.tests)


def no_such_layer(bench: Bench) -> None:
    show(bench, {"gradient_x_input": {"layer": "brigt"}})


def behind_the_target(bench: Bench) -> None:
    bench.document["targets"]["first"]["output"] = "bright"
    bench.document["targets"]["first"]["reduce"] = "mean"
    show(bench, {"gradient_x_input": {"layer": "logits"}})


def no_such_example(bench: Bench) -> None:
    bench.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["99"]}


def too_dear(bench: Bench) -> None:
    bench.document["method"] = {"explanation_passes": 40}


def a_strip_of_pictures(bench: Bench) -> None:
    show(bench, {"gradient_x_input": {"as": "strip"}})


def show(bench: Bench, *elements: object) -> None:
    bench.document["explain"]["why"]["show"] = list(elements)


@pytest.mark.parametrize(
    ("change", "code", "pointer", "sentence"),
    [
        pytest.param(
            no_such_layer, "unknown-layer", "show/0", "no layer 'brigt'. Close to it are 'bright'", id="layer"
        ),
        pytest.param(behind_the_target, "no-gradient-to-explain", "show/0", "at 'logits'", id="behind the target"),
        pytest.param(no_such_example, "unknown-example", "examples/pick", "no example '99'", id="example"),
        pytest.param(too_dear, "explanations-too-dear", "show/0", "and 40 are allowed", id="budget"),
        pytest.param(a_strip_of_pictures, "cannot-be-drawn-so", "show/0", "It is shown as map or table", id="strip"),
    ],
)
def test_what_cannot_be_explained_is_refused_before_anything_runs(
    glyphs: Bench, change: Change, code: str, pointer: str, sentence: str
) -> None:
    change(glyphs)
    with pytest.raises(InvalidInput) as refused:
        glyphs.run()
    assert refused.value.code == code
    assert refused.value.pointer == f"/explain/why/{pointer}"
    assert sentence in str(refused.value)
    assert "explaining" not in {stage for stage, _ in glyphs.stages}


def written(bench: Bench) -> str:
    path = bench.folder / "audit.json"
    path.write_text(json.dumps(bench.document))
    return str(path)


def test_the_command_explains_without_a_gate_and_tells_what_it_found(glyphs: Bench) -> None:
    glyphs.document["concepts"] = {"mark": {"examples": "marked", "against": "base"}}
    glyphs.document["gate"] = [{"concept": "mark", "target": "first", "must": "not_matter"}]
    page = glyphs.folder / "page.html"
    done = CliRunner().invoke(cli, ["explain", written(glyphs), "--local", "--html", str(page)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "why: Of 30 examples of marked, the 2 examples of which first is highest." in done.output
    assert "has 100\u202f% of the map" in done.output
    assert 'id="explanations"' in page.read_text()
    assert 'id="concepts"' not in page.read_text()


def test_the_command_says_where_there_is_nothing_to_explain(bench: Bench) -> None:
    done = CliRunner().invoke(cli, ["explain", written(bench), "--local"])
    assert done.exit_code == 2
    assert "asks for no explanation" in done.output


def test_a_layer_is_taken_apart_and_its_parts_are_removed_to_confirm_them(glyphs: Bench) -> None:
    one_of = {"set": "marked", "pick": ["29"]}
    glyphs.document["explain"]["why"] |= {"examples": one_of}
    show(glyphs, {"layer": "bright", "atoms": "channels"}, {"layer": "bright", "atoms": "positions", "top": 3})
    (panel,) = explained(glyphs).panels
    channels, positions = panel.figures
    assert (channels.presentation, positions.presentation, channels.layer) == ("bars", "map", "bright")
    (whole,) = channels.atoms
    assert (whole.id, whole.value) == ("channel 0", pytest.approx(panel.value, rel=1e-5))
    assert whole.confirmed == pytest.approx(panel.value, rel=1e-5), "without its only channel nothing is left"
    assert [atom.place for atom in positions.atoms] == [[0, 0], [1, 1], [0, 1]]
    assert all(atom.confirmed == pytest.approx(atom.value, rel=1e-5) for atom in positions.atoms)


def test_a_grid_has_a_small_map_for_each_place_of_the_upper_layer(glyphs: Bench) -> None:
    glyphs.document["integrity"] = {"sanity": "none"}
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["29", "28"]}
    show(glyphs, {"layer_to_layer": {"layer": "x", "upper": "bright", "most": 4}})
    first, second = (figure for _, figure in explained(glyphs).figures)
    assert (first.presentation, first.upper_shape) == ("grid", [SIZE, SIZE])
    assert sorted(atom.place for atom in first.upper) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    for atom in first.upper:  # a Relu of positive numbers passes each place on as it is
        assert atom.map is not None
        own = np.zeros((SIZE, SIZE))
        own[tuple(atom.place)] = atom.value
        assert np.array(atom.map.rows()) * atom.map.scale / 127 == pytest.approx(own, abs=atom.map.scale / 254)
    scales = {atom.map.scale for figure in (first, second) for atom in figure.upper if atom.map is not None}
    assert len(scales) == 1
    assert f"The small maps end at ±{scales.pop():.3g}." in first.notes
    largest = first.upper[0]
    assert f"The largest, {largest.id}, gets most from {largest.id} (" in first.sentence


def test_a_grid_of_channels_has_a_row_for_each_upper_channel(tmp_path: Path) -> None:
    net = Net(4)
    lower = net.op("Relu", net.conv("x", 1, 3))
    upper = net.op("Relu", net.conv(lower, 3, 5))
    scores = net.dense(net.op("Flatten", net.op("GlobalAveragePool", upper)), 5, 2)
    (tmp_path / "model.onnx").write_bytes(net.model(("n", 1, 6, 6), scores))
    bench = Bench(
        tmp_path,
        {
            "model": "model.onnx",
            "examples": {"base": {"arrays": "base.npy"}},
            "targets": {"first": {"index": 0, "examples": "base"}},
            "integrity": {"sanity": "none"},
            "explain": {"why": {"of": "first", "examples": {"pick": ["0"]}, "show": []}},
        },
    )
    bench.save("base.npy", np.random.default_rng(1).normal(size=(3, 1, 6, 6)))
    asked = {"layer": lower, "upper": upper, "atoms": "channels", "most": 4}
    show(bench, {"layer_to_layer": asked, "as": "grid"}, {"layer_to_layer": asked})
    ((_, figure), (_, flow)) = explained(bench).figures
    assert (figure.presentation, flow.presentation, flow.upper) == ("grid", "flow", [])
    for atom in figure.upper:
        assert atom.map is not None
        assert atom.map.shape == (1, len(figure.atoms))
        cells = [level * atom.map.scale / 127 for level in atom.map.rows()[0]]
        assert sum(cells) == pytest.approx(atom.value, abs=len(cells) * atom.map.scale / 254)
    links = {(link.source, link.sink): link.value for link in flow.links}
    for atom in figure.upper:
        for source, level in zip(figure.atoms, atom.map.rows()[0] if atom.map else [], strict=True):
            value = links.get((source.id, atom.id), 0.0)
            assert level * (atom.map.scale if atom.map else 0) / 127 == pytest.approx(value, abs=figure.scale / 100)


@pytest.fixture
def two_layers(tmp_path: Path) -> Bench:
    """A picture's two layers [3, 6, 6] and [5, 6, 6] that an audit explains, `lower` and `upper`, before the scores."""
    net = Net(4)
    for name, x, kernel in (("lower", "x", (1, 3)), ("upper", "lower", (3, 5))):
        net.nodes.append(helper.make_node("Relu", [net.conv(x, *kernel)], [name]))
    scores = net.dense(net.op("Flatten", net.op("GlobalAveragePool", "upper")), 5, 2)
    (tmp_path / "model.onnx").write_bytes(net.model(("n", 1, 6, 6), scores))
    bench = Bench(
        tmp_path,
        {
            "model": "model.onnx",
            "examples": {"base": {"arrays": "base.npy"}},
            "targets": {"first": {"index": 0, "examples": "base"}},
            "explain": {"why": {"of": "first", "examples": {"pick": ["0", "1"]}, "show": []}},
            "layers": [{"tensor": "lower"}, {"tensor": "upper"}],
        },
    )
    bench.save("base.npy", np.random.default_rng(1).normal(size=(3, 1, 6, 6)))
    return bench


def test_groups_of_two_layers_are_ribbons_with_a_map_for_each_group(two_layers: Bench) -> None:
    show(two_layers, {"layer": "lower", "atoms": "groups", "count": 3, "to": {"layer": "upper"}})
    figures = [figure for _, figure in explained(two_layers).figures]
    for figure in figures:
        assert (figure.presentation, figure.layer, figure.atoms_of, figure.unit) == ("flow", "lower", "groups", None)
        assert {one.id for one in figure.atoms} == {"group 1", "group 2", "group 3"}
        assert [one.id for one in figure.upper] == ["group A", "group B", "group C"]
        assert {(link.source[:5], link.sink[:5]) for link in figure.links} == {("group", "group")}
        assert {link.sink for link in figure.links} <= {one.id for one in figure.upper}
        flows = {atom.id: sum(link.value for link in figure.links if link.source == atom.id) for atom in figure.atoms}
        assert flows == pytest.approx({atom.id: atom.value for atom in figure.atoms}, rel=1e-4, abs=1e-6)
        for one in (*figure.atoms, *figure.upper):
            assert one.map is not None
            cells = np.array(one.map.rows()) * one.map.scale / 127
            assert cells.shape == (6, 6)
            assert cells.sum() == pytest.approx(one.value, abs=36 * one.map.scale / 254)
        assert "of first" not in figure.sentence
        assert "first most" in figure.sentence
    for side in ("atoms", "upper"):
        assert len({one.map.scale for figure in figures for one in getattr(figure, side) if one.map is not None}) == 1


def test_the_recipe_of_groups_takes_the_audits_last_two_layers(two_layers: Bench) -> None:
    show(two_layers, "groups_flow")
    assert {(figure.layer, figure.element.options["upper"]) for _, figure in explained(two_layers).figures} == {
        ("lower", "auto")
    }
    two_layers.document["layers"] = [{"tensor": "upper"}]
    with pytest.raises(InvalidInput, match="the audit's layer before 'upper', and the audit has none") as refused:
        explained(two_layers)
    assert "{layer: block10, atoms: groups, to: {layer: block13}}" in str(refused.value.remedy)


def test_pairs_of_groups_are_a_table_with_letters_for_the_later_layer(two_layers: Bench) -> None:
    show(two_layers, {"compatible_groups": {"layer": "lower", "upper": "upper", "count": 2}, "as": "grid"})
    for _, figure in explained(two_layers).figures:
        assert {one.id for one in figure.upper} == {"group A", "group B"}
        assert all(one.map is not None and one.map.shape == (1, 2) for one in figure.upper)


def test_a_neuron_is_called_by_its_place(glyphs: Bench) -> None:
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["29"]}
    show(glyphs, {"layer": "bright", "atoms": "neurons", "top": 1})
    ((_, figure),) = explained(glyphs).figures
    assert figure.atoms[0].id == "neuron 0, 0, 0"


def test_numbers_that_are_no_parts_of_a_whole_are_averaged(glyphs: Bench) -> None:
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": ["29"], "pairs": True}
    show(glyphs, {"occlusion": {"window": 2, "compare": False}})
    marked, base = explained(glyphs).panels
    (figure,) = marked.figures
    assert (figure.additive, figure.total) == (False, None)
    assert figure.focus is not None
    assert figure.focus.value == pytest.approx(marked.value, rel=1e-5), "covering the corner takes all of the score"
    assert base.figures[0].focus is not None
    assert base.figures[0].focus.value == pytest.approx(base.value, rel=1e-5)


def test_a_column_is_covered_by_a_typical_one(tmp_path: Path) -> None:
    bench = linear(tmp_path)
    show(bench, "occlusion", "shapley")
    (panel,) = explained(bench).panels
    for figure in panel.figures:  # the mean of debt is 11/3, so that a debt of 7 costs 2 * (7 - 11/3)
        assert [(atom.id, atom.value) for atom in figure.atoms[:2]] == [
            ("income", pytest.approx(0.5 * (10 - 25))),
            ("debt", pytest.approx(-2 * (7 - 11 / 3), rel=1e-5)),
        ]


def test_an_explanation_is_held_against_models_with_random_weights(glyphs: Bench) -> None:
    ((_, figure), *_) = explained(glyphs).figures
    assert [(check.code, check.ok) for check in figure.checks] == [("flat", True), ("sanity_weights", True)]
    assert figure.checks[1].sentence.endswith("This was checked at the first example only.")
    glyphs.document["integrity"] = {"sanity": "none"}
    ((_, figure), *_) = explained(glyphs).figures
    assert [check.code for check in figure.checks] == ["flat"]


def test_what_a_model_of_random_labels_shows_just_as_well_is_not_drawn(glyphs: Bench) -> None:
    glyphs.document["random_labels"] = "same.onnx"
    (glyphs.folder / "same.onnx").write_bytes((glyphs.folder / "model.onnx").read_bytes())
    for _, figure in explained(glyphs).figures:
        assert figure.withheld is not None
        assert "much the same for a model that was trained on random labels" in figure.withheld
        assert figure.map is None
    glyphs.document["integrity"] = {"sanity": "none"}
    for _, figure in explained(glyphs).figures:
        assert [check.code for check in figure.checks] == ["flat", "sanity_labels"]


def test_a_model_of_random_labels_that_takes_other_inputs_is_refused(tmp_path: Path) -> None:
    bench = linear(tmp_path)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["score"])],
        "wider",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.ones((4, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "wider.onnx")
    bench.document["random_labels"] = "wider.onnx"
    with pytest.raises(InvalidInput, match="takes x 4; the audited one takes x 3") as refused:
        bench.run()
    assert refused.value.pointer == "/random_labels"


def test_a_text_is_its_words_in_order_without_the_padding(words: Bench) -> None:
    asked = {"of": "answer", "examples": {"set": "he", "pick": ["line 1"]}, "show": ["gradient_x_input"]}
    words.document |= {"concepts": {}, "gate": [], "explain": {"why": asked}}
    ((panel, figure),) = explained(words).figures
    assert figure.presentation == "strip"
    shown = [atom.id for atom in sorted(figure.atoms, key=lambda atom: atom.place)]
    line = json.loads((words.folder / "he.jsonl").read_text().splitlines()[0])
    assert shown == line["text"].split()
    assert figure.rest.count == LENGTH - len(shown)
    assert figure.sentence.startswith(f"In line 1, {figure.atoms[0].id} ")
    assert panel.thumbnail is None


@pytest.mark.parametrize("shown", ["blurred", "ids"])
def test_the_words_of_a_text_stay_out_of_a_report_that_shows_no_examples(words: Bench, shown: str) -> None:
    asked = {"of": "answer", "examples": {"set": "he", "pick": ["line 1"]}, "show": ["gradient_x_input"]}
    method = words.document.get("method", {}) | {"pictures": shown}
    words.document |= {"concepts": {}, "gate": [], "explain": {"why": asked}, "method": method}
    ((_, figure),) = explained(words).figures
    line = json.loads((words.folder / "he.jsonl").read_text().splitlines()[0])
    named = [atom.id for atom in sorted(figure.atoms, key=lambda atom: atom.place)]
    assert named == [f"token {number + 1}" for number in range(len(line["text"].split()))]


def linear(tmp_path: Path) -> Bench:
    """approve = income / 2 - 2 debt, whatever the shoe."""
    weights = np.array([[0.5], [-2.0], [0.0]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["score"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "people.csv").write_text("income,debt,shoe\n40,1,43\n10,7,39\n25,3,41\n")
    document = {
        "model": "model.onnx",
        "examples": {"people": {"table": "people.csv", "features": ["income", "debt", "shoe"]}},
        "targets": {"approve": {"examples": "people"}},
        "explain": {"why": {"of": "approve", "examples": {"pick": "lowest", "count": 1}, "show": ["gradient_x_input"]}},
    }
    return Bench(tmp_path, document)


def test_a_row_is_its_columns_and_a_linear_model_is_explained_exactly(tmp_path: Path) -> None:
    ((panel, figure),) = explained(linear(tmp_path)).figures
    assert (panel.example, panel.value, figure.presentation) == ("row 2", -9, "bars")
    assert [(atom.id, atom.value) for atom in figure.atoms] == [("debt", -14), ("income", 5), ("shoe", 0)]
    assert figure.sentence == "In row 2, debt lowers approve most (−14), followed by income (+5) and shoe (0)."


def labelled(tmp_path: Path) -> Bench:
    """The linear score as two classes, whose third is the true one of a person whom the model refuses."""
    bench = linear(tmp_path)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.array([[0, 0.5], [0, -2.0], [0, 0]], np.float32), "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx"
    )
    (tmp_path / "people.csv").write_text(
        "income,debt,shoe,repaid,word\n40,1,43,0,no\n10,7,39,1,yes\n25,3,41,1,yes\n10,8,41,0,no\n20,9,42,1,yes\n"
    )
    bench.document["targets"]["approve"]["index"] = 1
    bench.document["explain"]["why"]["examples"] = {"pick": "errors", "label": "repaid", "count": 5}
    return bench


def test_errors_are_answers_that_a_label_contradicts(tmp_path: Path) -> None:
    """Margins are 18, -9, 6.5, -11 and -8; the first is granted and did not repay, the second and fifth would have."""
    one = explained(labelled(tmp_path))
    assert [panel.example for panel in one.panels] == ["row 1", "row 2", "row 5"]
    assert "whose repaid contradicts the model's answer about approve by the widest margin" in one.selection


@pytest.mark.parametrize(
    ("label", "code"), [("repayed", "missing-column"), ("word", "label-of-no-class"), ("shoe", "label-of-no-class")]
)
def test_a_label_that_tells_no_class_is_refused(tmp_path: Path, label: str, code: str) -> None:
    bench = labelled(tmp_path)
    bench.document["explain"]["why"]["examples"]["label"] = label
    with pytest.raises(InvalidInput) as refused:
        bench.run()
    assert refused.value.pointer == "/explain/why/examples/label"
    assert refused.value.code == code


def test_a_label_is_a_column_of_a_table_and_tells_errors(glyphs: Bench, tmp_path: Path) -> None:
    glyphs.document["explain"]["why"]["examples"] = {"set": "marked", "pick": "errors", "label": "y"}
    with pytest.raises(ValueError, match="'marked' is not a table"):
        glyphs.run()
    bench = labelled(tmp_path)
    bench.document["explain"]["why"]["examples"]["pick"] = "highest"
    with pytest.raises(ValueError, match="add `pick: errors`"):
        bench.run()


def column_by_column(tmp_path: Path) -> Bench:
    """score = age + 1 for a clerk: a model that takes a column of numbers and one of texts."""
    nodes = [
        helper.make_node(
            "LabelEncoder",
            ["job"],
            ["clerk"],
            domain="ai.onnx.ml",
            keys_strings=["clerk", "cook"],
            values_floats=[1.0, 0.0],
        ),
        helper.make_node("Add", ["age", "clerk"], ["score"]),
    ]
    kinds = {"age": TensorProto.FLOAT, "job": TensorProto.STRING}
    graph = helper.make_graph(
        nodes,
        "columns",
        [helper.make_tensor_value_info(name, kind, ["N", 1]) for name, kind in kinds.items()],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    (tmp_path / "people.csv").write_text("age,job\n40,cook\n30,clerk\n20,cook\n")
    document = {
        "model": "model.onnx",
        "examples": {"people": {"table": "people.csv"}},
        "targets": {"score": {"examples": "people"}},
        "explain": {"why": {"of": "score", "examples": {"pick": ["row 2"]}, "show": ["shapley"]}},
    }
    return Bench(tmp_path, document)


def test_a_text_among_columns_is_replaced_by_the_commonest(tmp_path: Path) -> None:
    ((_, figure),) = explained(column_by_column(tmp_path)).figures
    assert {atom.id: atom.value for atom in figure.atoms} == {"job": pytest.approx(1), "age": 0}


def test_a_missing_cell_is_left_out_of_a_typical_row(tmp_path: Path) -> None:
    """score = 2 age, with 50 in place of an age that is missing; the mean of the known ages is 30."""
    nodes = [
        helper.make_node(
            "Imputer", ["x"], ["known"], domain="ai.onnx.ml", imputed_value_floats=[50.0], replaced_value_float=np.nan
        ),
        helper.make_node("MatMul", ["known", "w"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "imputed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.array([[2.0], [0.0]], np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "model.onnx")
    (tmp_path / "people.csv").write_text("age,shoe\n40,1\n,2\n20,3\n")
    document = {
        "model": "model.onnx",
        "examples": {"people": {"table": "people.csv", "features": ["age", "shoe"]}},
        "targets": {"score": {"examples": "people"}},
        "explain": {"why": {"of": "score", "examples": {"pick": ["row 1", "row 2"]}, "show": ["shapley"]}},
    }
    known, missing = (figure for _, figure in explained(Bench(tmp_path, document)).figures)
    assert {atom.id: atom.value for atom in known.atoms} == {"age": pytest.approx(2 * (40 - 30)), "shoe": 0}
    assert {atom.id: atom.value for atom in missing.atoms} == {"age": pytest.approx(2 * (50 - 30)), "shoe": 0}


def test_the_price_counts_every_pass_of_the_checks(glyphs: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    glyphs.document["random_labels"] = "same.onnx"
    (glyphs.folder / "same.onnx").write_bytes((glyphs.folder / "model.onnx").read_bytes())
    every: list[ModelRuns] = []
    made = ModelRuns.__init__

    def counted(self: ModelRuns, *given: object) -> None:
        made(self, *given)  # type: ignore[arg-type]
        every.append(self)

    monkeypatch.setattr(ModelRuns, "__init__", counted)
    told = explained(glyphs).passes
    spent = sum(runs.passes for runs in every)
    assert spent <= told <= 1.25 * (spent + 30), "choosing the examples took another 30"


@pytest.mark.parametrize("name", ["smoothgrad", "lrp", "deeplift_rescale", "integrated_gradients"])
def test_nothing_is_calculated_with_texts(tmp_path: Path, name: str) -> None:
    bench = column_by_column(tmp_path)
    show(bench, name)
    with pytest.raises(InvalidInput, match="'job' holds texts") as refused:
        bench.run()
    assert refused.value.pointer == "/explain/why/show/0"
    assert "explaining" not in {stage for stage, _ in bench.stages}


def test_an_input_of_several_columns_is_no_layer_to_take_apart(tmp_path: Path) -> None:
    bench = column_by_column(tmp_path)
    show(bench, {"linear": {"layer": "input", "atoms": "neurons"}})
    with pytest.raises(InvalidInput, match="takes its columns one by one"):
        bench.run()
