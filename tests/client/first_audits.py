"""Folders as people have them: a model and what lies beside it, for `caveat init` to find."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import StringTensorType
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.engine.trees import boosted_classifier

Build = Callable[[Path], None]
ROWS = 120
RUNS: dict[str, Build] = {}
"""Folders from which an audit can be drafted."""
REFUSED: dict[str, tuple[Build, str]] = {}
"""Folders from which none can, and words of the remedy."""


def runs(build: Build) -> Build:
    RUNS[build.__name__] = build
    return build


def refused(remedy: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        REFUSED[build.__name__] = (build, remedy)
        return build

    return add


# ---- models


def trees(folder: Path) -> None:
    """A classifier by boosted trees of four numbers: no gradient passes it."""
    save(boosted_classifier(), folder / "model.onnx")


def write_model(
    path: Path,
    nodes: Sequence[Any],
    weights: dict[str, np.ndarray],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
) -> None:
    def infos(tensors: dict[str, tuple[int, list[Any]]]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "model", infos(inputs), infos(outputs), initializers)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path / "model.onnx")


def mlp(
    folder: Path, width: int, classes: int, end: str | None = None, *, known: bool = True, label: bool = False
) -> None:
    """A network of two layers on rows of numbers; `end` is a Softmax or Sigmoid, and `label` another output before."""
    random = np.random.default_rng(width)
    weights = {
        "w1": random.normal(size=(width, 8)) / np.sqrt(width) / 5,
        "b1": random.normal(size=8),
        "w2": random.normal(size=(8, classes)),
        "b2": np.zeros(classes),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["before"]),
        helper.make_node("Tanh", ["before"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["scores" if end else "answer"]),
    ]
    if end:
        nodes.append(helper.make_node(end, ["scores"], ["answer"]))
    outputs: dict[str, tuple[int, list[Any]]] = {"answer": (TensorProto.FLOAT, ["n", classes])}
    if label:
        nodes.append(helper.make_node("ArgMax", ["answer"], ["label"], axis=1, keepdims=0))
        outputs = {"label": (TensorProto.INT64, ["n"]), **outputs}
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    write_model(folder, nodes, floats, {"x": (TensorProto.FLOAT, ["n", width if known else "features"])}, outputs)


def cnn(folder: Path, size: int = 12, classes: int = 3, *, channels: int = 3, nhwc: bool = False, kind: str = "float",
        head: str = "classes") -> None:  # fmt: skip
    """A small convolutional network on pictures."""
    random = np.random.default_rng(size)
    weights = {
        "k1": random.normal(size=(6, channels, 3, 3)) / 5,
        "k2": random.normal(size=(8, 6, 3, 3)) / 5,
        "w": random.normal(size=(8, classes)),
    }
    shape = ["n", size, size, channels] if nhwc else ["n", channels, size, size]
    dtype = TensorProto.UINT8 if kind == "uint8" else TensorProto.FLOAT
    nodes, x = [], "x"
    if kind in ("uint8", "scales pixels"):
        nodes += [helper.make_node("Cast", [x], ["float"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Div", ["float", "scale"], ["scaled"])]
        weights["scale"], x = np.array(255.0), "scaled"
    if nhwc:
        nodes, x = [*nodes, helper.make_node("Transpose", [x], ["nchw"], perm=[0, 3, 1, 2])], "nchw"
    nodes += [
        helper.make_node("Conv", [x, "k1"], ["conv1"]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "k2"], ["conv2"]),
        helper.make_node("Relu", ["conv2"], ["relu2" if head == "classes" else "answer"]),
    ]
    outputs = {"answer": (TensorProto.FLOAT, ["n", 8, size - 4, size - 4])}
    if head == "classes":
        nodes += [
            helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["answer"]),
        ]
        outputs = {"answer": (TensorProto.FLOAT, ["n", classes])}
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    write_model(folder, nodes, floats, {"x": (dtype, shape)}, outputs)


def line_reader(folder: Path, shape: list[Any]) -> None:
    """A network on pictures 16 pixels high, whatever its input says about that."""
    random = np.random.default_rng(16)
    weights = {"axis": np.array([3]), "w1": random.normal(size=(48, 8)) / 100, "w2": random.normal(size=(8, 3))}
    nodes = [
        helper.make_node("ReduceMean", ["x", "axis"], ["rows"], keepdims=0),
        helper.make_node("Flatten", ["rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w1"], ["before"]),
        helper.make_node("Tanh", ["before"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["answer"]),
    ]
    typed = {name: value if name == "axis" else value.astype(np.float32) for name, value in weights.items()}
    write_model(folder, nodes, typed, {"x": (TensorProto.FLOAT, shape)}, {"answer": (TensorProto.FLOAT, ["n", 3])})


def text_model(folder: Path, names: Sequence[str] = ("input_ids", "attention_mask"), words: int = 30) -> None:
    """Embeddings, averaged under a mask."""
    random = np.random.default_rng(words)
    weights: dict[str, np.ndarray] = {
        "embedding": random.normal(size=(words, 8)).astype(np.float32),
        "w": random.normal(size=(8, 2)).astype(np.float32),
        "axis": np.array([1]),
        "last": np.array([2]),
    }
    nodes = [helper.make_node("Gather", ["embedding", names[0]], ["embedded"])]
    pooled = "embedded"
    if "position_ids" in names:
        weights["places"] = random.normal(size=(64, 8)).astype(np.float32)
        nodes += [
            helper.make_node("Gather", ["places", "position_ids"], ["placed"]),
            helper.make_node("Add", ["embedded", "placed"], ["both"]),
        ]
        pooled = "both"
    if len(names) > 1:
        nodes += [
            helper.make_node("Cast", [names[1]], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
            helper.make_node("Mul", [pooled, "wide"], ["masked"]),
        ]
        pooled = "masked"
    nodes += [
        helper.make_node("ReduceMean", [pooled, "axis"], ["mean"], keepdims=0),
        helper.make_node("Tanh", ["mean"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w"], ["answer"]),
    ]
    inputs = {name: (int(TensorProto.INT64), ["n", "tokens"]) for name in names}
    write_model(folder, nodes, weights, inputs, {"answer": (TensorProto.FLOAT, ["n", 2])})


# ---- data


def table(folder: Path, columns: dict[str, Sequence[object]], name: str = "people.csv", separator: str = ",") -> None:
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def numbers(seed: int, rows: int = ROWS) -> list[float]:
    return np.random.default_rng(seed).normal(5, 2, rows).round(3).tolist()


def bits(seed: int, rows: int = ROWS) -> list[int]:
    return np.random.default_rng(seed).integers(0, 2, rows).tolist()


def pictures(folder: Path, count: int, *, first: int = 0, shade: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(first + shade)
    for number in range(count):
        pixels = random.integers(shade, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{first + number}.png")


def lines_of_print(folder: Path, count: int, *, shade: int = 0) -> None:
    """Pictures of 40 x 16 pixels."""
    folder.mkdir()
    random = np.random.default_rng(shade)
    for number in range(count):
        Image.fromarray(random.integers(shade, 256, (16, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def texts(path: Path, words: Sequence[str], count: int = 40, **fields: Sequence[object]) -> None:
    random = np.random.default_rng(len(words))
    lines = [
        {"text": " ".join(random.choice(words, 8)), **{name: values[line] for name, values in fields.items()}}
        for line in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", *["she", "he", "a", "the", "doctor", "nurse", "good", "bad", "film", "was", "very"]]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))


# ---- tables


@runs
def a_table_with_a_protected_column(folder: Path) -> None:
    mlp(folder, 3, 2, "Softmax")
    table(folder, {"net income": numbers(1), "debt ratio": numbers(2), "race": bits(3), "approved": bits(4)})


@runs
def labels_and_probabilities(folder: Path) -> None:
    mlp(folder, 3, 2, "Softmax", label=True)
    table(folder, {"income": numbers(1), "debt": numbers(2), "female": bits(3), "label": bits(4)})


@runs
def a_single_score(folder: Path) -> None:
    mlp(folder, 3, 1, "Sigmoid")
    table(folder, {"income": numbers(1), "debt": numbers(2), "sex": bits(3), "y": bits(4)})


@runs
def columns_of_text(folder: Path) -> None:
    mlp(folder, 6, 2, "Softmax")
    sex, city = [["man", "woman"][bit] for bit in bits(3)], [["Rome", "Bonn", "O'Hare"][n % 3] for n in range(ROWS)]
    table(folder, {"sex": sex, "income": numbers(1), "city": city, "outcome": bits(4)})


@runs
def a_protected_column_that_the_model_does_not_take(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"income": numbers(1), "debt": numbers(2), "Race": [["A b", "c'd", "e"][n % 3] for n in range(ROWS)]})


@runs
def missing_values(folder: Path) -> None:
    mlp(folder, 3, 2, "Softmax")
    holes = [value if row % 5 else "" for row, value in enumerate(numbers(1))]
    nothing = [value if row % 7 else "NA" for row, value in enumerate(numbers(2))]
    table(folder, {"net income": holes, "debt": nothing, "race": bits(3), "approved": bits(4)})


@runs
def no_column_of_two_values(folder: Path) -> None:
    mlp(folder, 3, 2)
    table(folder, {"a": numbers(1), "b": numbers(2), "c": numbers(3)})


@runs
def a_regression(folder: Path) -> None:
    mlp(folder, 3, 1)
    table(
        folder, {"rooms": numbers(1), "area": numbers(2), "garden": bits(3), "rent per month": numbers(4)}, "flats.csv"
    )


@runs
def the_index_of_a_data_frame(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(
        folder,
        {"": range(ROWS), "customer_id": range(ROWS), "income": numbers(1), "married": bits(2), "class": bits(3)},
    )


@runs
def truth_values(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"income": numbers(1), "is female": [["False", "True"][bit] for bit in bits(2)], "y": bits(3)})


@runs
def odd_names(folder: Path) -> None:
    names = ['say "hi"', "it's", "x`y", "and", "größe", "a: b", "#c", "- d", "{e}", "yes", "1", "a\\b", "new\nline"]
    mlp(folder, len(names), 2)
    table(folder, {name: bits(place) for place, name in enumerate(names)})


@runs
def odd_names_beside_the_inputs(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"a b": numbers(1), "c`d": numbers(2), 'the "race"': [["a'b", 'c"d'][bit] for bit in bits(3)]})


@runs
def many_rows(folder: Path) -> None:
    mlp(folder, 3, 2, "Softmax")
    columns = {"income": numbers(1, 3000), "debt": numbers(2, 3000), "race": bits(3, 3000), "approved": bits(4, 3000)}
    table(folder, columns)


@runs
def any_width(folder: Path) -> None:
    """The model multiplies by a matrix, so that its width is in no shape."""
    mlp(folder, 3, 4, known=False)
    table(folder, {"id": range(ROWS), "a": numbers(1), "b": bits(2), "c": numbers(3), "target": bits(4)})


def one_input_a_column(folder: Path) -> None:
    """A number, a category and a flag, each an input of its own, as a pipeline of scikit-learn is exported."""
    weights = {"w": np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)}
    nodes = [
        helper.make_node("LabelEncoder", ["city"], ["code"], domain="ai.onnx.ml", keys_strings=["Bonn", "Rome"],
                         values_floats=[0.5, 1.0], default_float=0.0),
        helper.make_node("Concat", ["net_income", "code", "race"], ["all"], axis=1),
        helper.make_node("Tanh", ["all"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w"], ["answer"]),
    ]  # fmt: skip
    inputs: dict[str, tuple[int, list[Any]]] = {
        "net_income": (TensorProto.FLOAT, ["n", 1]),
        "city": (TensorProto.STRING, ["n", 1]),
        "race": (TensorProto.FLOAT, ["n", 1]),
    }
    write_model(folder, nodes, weights, inputs, {"answer": (TensorProto.FLOAT, ["n", 2])})


@runs
def columns_by_the_names_of_inputs(folder: Path) -> None:
    one_input_a_column(folder)
    city = [["Rome", "Bonn", "Kiel"][n % 3] for n in range(ROWS)]
    table(folder, {"id": range(ROWS), "net_income": numbers(1), "city": city, "race": bits(2), "label": bits(3)})


@runs
def texts_that_are_missing(folder: Path) -> None:
    one_input_a_column(folder)
    city = [["Rome", "Bonn", "", "Rome", "Rome"][n % 5] for n in range(ROWS)]
    table(folder, {"net_income": numbers(1), "city": city, "race": bits(2), "label": bits(3)})


@runs
def columns_by_almost_the_names_of_inputs(folder: Path) -> None:
    one_input_a_column(folder)
    table(folder, {"Race": bits(2), "net income": numbers(1), "city": ["Rome", "Bonn"] * (ROWS // 2)})


@refused("Measure concepts by interventions")
def texts_for_a_pipeline_without_gradients(folder: Path) -> None:
    text_pipeline(folder, RandomForestClassifier(5, random_state=0))


@refused("a column 'input' of texts, and another that says which of them show the concept")
def texts_for_a_pipeline_alone(folder: Path) -> None:
    text_pipeline(folder, LogisticRegression())
    table(folder, {"review": [f"a good text {n}" for n in range(90)]}, "reviews.csv")


@refused("a column by each of these names")
def columns_by_other_names(folder: Path) -> None:
    one_input_a_column(folder)
    table(folder, {"a": numbers(1), "b": ["Rome", "Bonn"] * (ROWS // 2), "c": bits(3)})


@runs
def one_file_of_texts_with_a_field(folder: Path) -> None:
    text_model(folder)
    tokenizer(folder)
    words = ["he", "she", "nurse", "was", "bad", "a", "the"]
    texts(folder / "reviews.jsonl", words, 60, gender=["f", "m"] * 30, stars=list(range(60)))


def text_pipeline(folder: Path, classifier: Any) -> None:
    """TF-IDF and a classifier, fitted to reviews that say whether the doctor was good."""
    review = [f"the {['doctor', 'nurse'][n % 2]} was {['good', 'bad'][n % 3 == 0]} {n} times" for n in range(90)]
    praise = [int(n % 3 != 0) for n in range(90)]
    table(folder, {"review": review, "label": praise}, "reviews.csv")
    pipe = make_pipeline(TfidfVectorizer(), classifier).fit(review, praise)
    save(convert_sklearn(pipe, initial_types=[("input", StringTensorType([None, 1]))]), folder / "model.onnx")


@runs
def texts_for_a_pipeline(folder: Path) -> None:
    text_pipeline(folder, LogisticRegression())


@runs
def texts_in_a_table(folder: Path) -> None:
    text_model(folder)
    tokenizer(folder)
    review = [
        f"the {['doctor', 'nurse'][n % 2]} was very {['good', 'bad'][n % 3 == 0]} {'very ' * (n % 7)}"
        for n in range(60)
    ]
    table(folder, {"review": review, "label": [n % 2 for n in range(60)]}, "reviews.csv")


@runs
def two_outputs_with_scores(folder: Path) -> None:
    random = np.random.default_rng(0)
    weights = {f"w{n}": random.normal(size=(3, 3)).astype(np.float32) for n in range(3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["sums"]),
        helper.make_node("Tanh", ["sums"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w1"], ["kind"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["place"]),
    ]
    outputs = {name: (int(TensorProto.FLOAT), ["n", 3]) for name in ("kind", "place")}
    write_model(folder, nodes, weights, {"x": (TensorProto.FLOAT, ["n", 3])}, outputs)
    table(folder, {"a": numbers(1), "b": bits(2), "c": numbers(3)})


@runs
def a_model_without_the_protected_columns(folder: Path) -> None:
    mlp(folder, 2, 2)
    columns = {"salary": numbers(1), "female": bits(2), "age": numbers(3), "debt": numbers(4), "approved": bits(5)}
    table(folder, {**columns, "race": ["ab"[one] for one in bits(6)]})


@runs
def trees_with_a_label_alone(folder: Path) -> None:
    proto = boosted_classifier()
    del proto.graph.output[1:], proto.graph.node[1:]
    save(proto, folder / "model.onnx")
    table(folder, {"married": bits(1), "a": numbers(2), "b": numbers(3), "c": numbers(4)})


@runs
def a_sampling_rate(folder: Path) -> None:
    random = np.random.default_rng(9)
    weights = {"w1": random.normal(size=(6, 8)) / 5, "w2": random.normal(size=(8, 2)), "usual": np.array(16_000.0)}
    nodes = [
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate", "usual"], ["relative"]),
        helper.make_node("Mul", ["sound", "relative"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "w1"], ["before"]),
        helper.make_node("Tanh", ["before"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w2"], ["answer"]),
    ]
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    inputs = {"sound": (int(TensorProto.FLOAT), ["n", 6]), "sr": (int(TensorProto.INT64), [])}
    write_model(folder, nodes, floats, inputs, {"answer": (TensorProto.FLOAT, ["n", 2])})
    for name, shift in (("speech", 1.0), ("pauses", 0.0)):
        np.save(folder / f"{name}.npy", random.normal(shift, size=(30, 6)).astype(np.float32))


# ---- pictures


@runs
def a_concept_and_photos(folder: Path) -> None:
    cnn(folder)
    pictures(folder / "striped horses", 24, shade=100)
    pictures(folder / "photos", 30, first=100)


@runs
def pairs_of_pictures(folder: Path) -> None:
    cnn(folder)
    pictures(folder / "photos", 24)
    (folder / "watermarked").mkdir()
    for path in (folder / "photos").iterdir():
        with Image.open(path) as picture:
            picture.paste((255, 255, 255), (0, 0, 6, 6))
            picture.save(folder / "watermarked" / path.name)


@runs
def classes_whose_pictures_have_the_same_names(folder: Path) -> None:
    cnn(folder, classes=2)
    pictures(folder / "cat", 24, shade=100)
    pictures(folder / "dog", 24)


@runs
def folders_by_class(folder: Path) -> None:
    cnn(folder, classes=3)
    for number, name in enumerate(("cat", "dog", "emu")):
        pictures(folder / "train" / name, 22, first=100 * number, shade=40 * number)
        pictures(folder / "val" / name, 2)


@runs
def more_folders_than_are_compared(folder: Path) -> None:
    cnn(folder, classes=10)
    for number in range(10):
        pictures(folder / "photos" / f"kind-{number}", 22, first=100 * number, shade=10 * number)


@runs
def one_folder_of_pictures(folder: Path) -> None:
    cnn(folder)
    pictures(folder / "images", 25)


@runs
def loose_pictures(folder: Path) -> None:
    cnn(folder, channels=1)
    pictures(folder, 25)


@runs
def bytes_in_the_last_axis(folder: Path) -> None:
    cnn(folder, nhwc=True, kind="uint8")
    pictures(folder / "with mark", 22, shade=100)
    pictures(folder / "without", 22)


@runs
def pictures_that_are_not_square(folder: Path) -> None:
    line_reader(folder, ["n", 3, 16, 40])
    lines_of_print(folder / "struck", 22, shade=100)
    lines_of_print(folder / "plain", 22)


@runs
def pictures_of_a_free_size(folder: Path) -> None:
    line_reader(folder, ["n", 3, "height", "width"])
    lines_of_print(folder / "struck", 22, shade=100)
    lines_of_print(folder / "plain", 22)


@runs
def a_preprocessor_config(folder: Path) -> None:
    cnn(folder, classes=1000)
    config = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.2, 0.2, 0.2], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    pictures(folder / "marked", 22, shade=100)
    pictures(folder / "others", 22)


@runs
def a_segmentation(folder: Path) -> None:
    cnn(folder, head="map")
    pictures(folder / "foggy", 22, shade=100)
    pictures(folder / "all", 22)


def detector(folder: Path, joined: bool) -> None:
    """Four numbers for the place of a box and three scores at each of 64 places: in one output, or in two."""
    random = np.random.default_rng(0)
    kernels = {"k": (8, 3, 5, 5), "b": (4, 8, 1, 1), "s": (3, 8, 1, 1)}
    weights = {name: (random.normal(size=size) / 3).astype(np.float32) for name, size in kernels.items()}
    weights |= {f"rows{size}": np.array([0, size, -1]) for size in (3, 4)}
    nodes = [helper.make_node("Conv", ["x", "k"], ["conv"]), helper.make_node("Relu", ["conv"], ["relu"])]
    for head, rows in (("b", "rows4"), ("s", "rows3")):
        nodes.append(helper.make_node("Conv", ["relu", head], [f"{head}_map"]))
        nodes.append(helper.make_node("Reshape", [f"{head}_map", rows], [f"{head}_rows"]))
    nodes.append(helper.make_node("Sigmoid", ["s_rows"], ["s_shares"]))
    if joined:
        nodes.append(helper.make_node("Concat", ["b_rows", "s_shares"], ["output0"], axis=1))
        outputs = {"output0": (int(TensorProto.FLOAT), ["n", 7, 64])}
    else:
        nodes.append(helper.make_node("Transpose", ["b_rows"], ["boxes"], perm=[0, 2, 1]))
        nodes.append(helper.make_node("Transpose", ["s_shares"], ["scores"], perm=[0, 2, 1]))
        outputs = {name: (int(TensorProto.FLOAT), ["n", 64, size]) for name, size in (("boxes", 4), ("scores", 3))}
    write_model(folder, nodes, weights, {"x": (TensorProto.FLOAT, ["n", 3, 12, 12])}, outputs)
    proto = onnx.load(folder / "model.onnx")
    onnx.helper.set_model_props(proto, {"names": "{0: 'cat', 1: 'dog', 2: 'ox'}"})
    save(proto, folder / "model.onnx")
    pictures(folder / "foggy", 22, shade=100)
    pictures(folder / "all", 22)


@runs
def a_detector_of_one_output(folder: Path) -> None:
    detector(folder, joined=True)


@runs
def a_detector_of_boxes_and_scores(folder: Path) -> None:
    detector(folder, joined=False)


@runs
def a_folder_that_is_too_small(folder: Path) -> None:
    cnn(folder)
    pictures(folder / "concept", 3, shade=100)
    pictures(folder / "photos", 25)


# ---- arrays and texts


@runs
def two_arrays(folder: Path) -> None:
    mlp(folder, 4, 2)
    random = np.random.default_rng(0)
    np.save(folder / "tall people.npy", random.normal(1, 1, (30, 4)).astype(np.float32))
    np.save(folder / "pool.npy", random.normal(0, 1, (60, 4)))


@runs
def arrays_in_one_file(folder: Path) -> None:
    mlp(folder, 4, 3)
    random = np.random.default_rng(0)
    arrays = {"tall": random.normal(1, 1, (30, 4)), "everybody": random.normal(0, 1, (60, 4)), "y": np.zeros(60)}
    np.savez(folder / "data.npz", **arrays)


@runs
def two_inputs(folder: Path) -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(5, 2)).astype(np.float32)}
    nodes = [
        helper.make_node("Concat", ["a", "b"], ["both"], axis=1),
        helper.make_node("Tanh", ["both"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "w"], ["answer"]),
    ]
    inputs = {"a": (int(TensorProto.FLOAT), ["n", 2]), "b": (int(TensorProto.FLOAT), ["n", 3])}
    write_model(folder, nodes, weights, inputs, {"answer": (TensorProto.FLOAT, ["n", 2])})
    for shift, name in enumerate(("reference", "tall")):
        arrays = {key: random.normal(shift, 1, (40, size)).astype(np.float32) for key, size in (("a", 2), ("b", 3))}
        np.savez(folder / f"{name}.npz", **arrays)


@runs
def texts_for_a_model_that_takes_positions(folder: Path) -> None:
    text_model(folder, ("input_ids", "attention_mask", "position_ids"))
    tokenizer(folder)
    texts(folder / "women.jsonl", ["she", "doctor", "was", "good", "the"])
    texts(folder / "other.jsonl", ["he", "doctor", "was", "good", "a", "the"])


@runs
def two_files_of_texts(folder: Path) -> None:
    text_model(folder)
    tokenizer(folder)
    texts(folder / "women.jsonl", ["she", "doctor", "was", "good", "the"])
    texts(folder / "other.jsonl", ["he", "doctor", "was", "good", "a", "the"])


@runs
def two_files_of_pairs_and_one_of_other_texts(folder: Path) -> None:
    text_model(folder)
    tokenizer(folder)
    texts(folder / "he.jsonl", ["doctor", "was", "good", "the"])
    texts(folder / "reviews.jsonl", ["film", "doctor", "was", "good", "a", "the"], 55)
    lines = (folder / "he.jsonl").read_text().splitlines()
    for name in ("he", "she"):
        told = [json.dumps({"text": f"{name} {json.loads(line)['text']}"}) for line in lines]
        (folder / f"{name}.jsonl").write_text("\n".join(told))


@runs
def two_files_of_texts_for_a_decoder(folder: Path) -> None:
    """Embeddings, summed up to each token, and the scores of the next one."""
    random = np.random.default_rng(3)
    weights = {
        "embedding": random.normal(size=(13, 8)).astype(np.float32),
        "head": random.normal(size=(8, 13)).astype(np.float32),
        "places": np.array(1),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["wide"]),
        helper.make_node("Mul", ["embedded", "wide"], ["masked"]),
        helper.make_node("CumSum", ["masked", "places"], ["summed"]),
        helper.make_node("Tanh", ["summed"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
    ]
    inputs = {name: (int(TensorProto.INT64), ["n", "tokens"]) for name in ("input_ids", "attention_mask")}
    write_model(folder, nodes, weights, inputs, {"logits": (TensorProto.FLOAT, ["n", "tokens", 13])})
    tokenizer(folder)
    texts(folder / "women.jsonl", ["she", "doctor", "was", "good", "the"])
    texts(folder / "other.jsonl", ["he", "doctor", "was", "good", "a", "the"])


@runs
def an_input_of_tokens_by_another_name(folder: Path) -> None:
    text_model(folder, ("tokens",))
    tokenizer(folder)
    texts(folder / "women.jsonl", ["she", "nurse", "was", "good", "the"])
    texts(folder / "reference.jsonl", ["he", "nurse", "was", "bad", "a", "the"])


# ---- what is not enough


@refused("the model's inputs as columns of numbers")
def an_empty_folder(folder: Path) -> None:
    mlp(folder, 4, 2)


@refused("Put pictures that show the concept into")
def one_picture(folder: Path) -> None:
    cnn(folder)
    pictures(folder / "photos", 1)


@refused("for torch, call it with `x[None]`")
def one_example_without_a_batch(folder: Path) -> None:
    weights = {"w": np.ones((4, 2), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["answer"])]
    write_model(folder, nodes, weights, {"x": (TensorProto.FLOAT, [4])}, {"answer": (TensorProto.FLOAT, [2])})


@refused("`table: people.csv` and `inputs: {numbers: [column, …], code: column}`")
def several_columns_in_one_of_several_inputs(folder: Path) -> None:
    weights = {"w": np.ones((3, 2), np.float32)}
    nodes = [
        helper.make_node("Concat", ["numbers", "code"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["answer"]),
    ]
    inputs: dict[str, tuple[int, list[Any]]] = {
        "numbers": (TensorProto.FLOAT, ["n", 2]),
        "code": (TensorProto.FLOAT, ["n", 1]),
    }
    write_model(folder, nodes, weights, inputs, {"answer": (TensorProto.FLOAT, ["n", 2])})
    table(folder, {"a": numbers(1), "b": numbers(2), "c": bits(3)})


@refused("Put pictures that show the concept into")
def no_picture_of_another_shape_than_a_square(folder: Path) -> None:
    line_reader(folder, ["n", 3, 16, 40])


@refused("Put pictures that show the concept into")
def no_picture(folder: Path) -> None:
    cnn(folder)


@refused("concept.npy")
def one_array(folder: Path) -> None:
    mlp(folder, 4, 2)
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(60, 4)))


@refused("as columns of numbers, in its order")
def too_few_columns(folder: Path) -> None:
    mlp(folder, 9, 2)
    table(folder, {"a": numbers(1), "b": bits(2)})


@runs
def semicolons_and_decimal_commas(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"a": [str(one).replace(".", ",") for one in numbers(1)], "b": bits(2)}, separator=";")


@refused("people.csv is not UTF-8 text (line 3): save it as UTF-8.")
def a_table_in_latin_1(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"a": numbers(1), "town": ["Bonn", *["Köln"] * (ROWS - 1)], "c": bits(2)})
    path = folder / "people.csv"
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))


@refused("people.xlsx is a workbook: save its sheet as CSV (UTF-8).")
def a_workbook(folder: Path) -> None:
    mlp(folder, 2, 2)
    (folder / "people.xlsx").write_bytes(b"PK\3\4" + bytes(99))


@refused("people.csv has the column '1' more than once; its first line has to hold the names of the columns.")
def a_table_without_a_header(folder: Path) -> None:
    mlp(folder, 2, 2)
    (folder / "people.csv").write_text("0.5,1,1\n" * ROWS)


@refused("people.json is JSON: write JSON lines, one object a line, and name the file .jsonl.")
def one_array_of_json(folder: Path) -> None:
    mlp(folder, 2, 2)
    (folder / "people.json").write_text(json.dumps([{"a": 1, "b": 2}]))


@refused("as columns of numbers, in its order")
def columns_that_never_change(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"a": [1] * ROWS, "b": [0] * ROWS})


@refused("Add at least")
def too_few_rows(folder: Path) -> None:
    mlp(folder, 2, 2)
    table(folder, {"a": numbers(1, 9), "b": bits(2, 9)})


@refused("tokenizer.json")
def texts_without_a_tokenizer(folder: Path) -> None:
    text_model(folder)
    texts(folder / "women.jsonl", ["she", "doctor"])


@refused("probabilities or scores")
def labels_only(folder: Path) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["yes"]),
        helper.make_node("Cast", ["yes"], ["label"], to=TensorProto.INT64),
    ]
    outputs = {"label": (int(TensorProto.INT64), ["n", 3])}
    half = {"half": np.array(0.5, np.float32)}
    write_model(folder, nodes, half, {"x": (TensorProto.FLOAT, ["n", 3])}, outputs)
    table(folder, {"a": numbers(1), "b": bits(2), "c": numbers(3)})


@refused("Replace it by a whole PNG")
def broken_pictures(folder: Path) -> None:
    cnn(folder)
    for name in ("concept", "photos"):
        (folder / name).mkdir()
        for number in range(25):
            (folder / name / f"{number}.png").write_bytes(b"\x89PNG and nothing more")
