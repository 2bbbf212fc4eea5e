"""Models with false sizes, external data, endless loops or more memory than there is."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from caveat_spec.bundle import MODEL
from tests.engine import nets
from tests.hostile.case import ACCEPTED, Cases, Job, model

CASES = Cases()
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
HUGE = 2**62
OUTSIDE = ("../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/proc/self/environ", "", ".", "job.json", "a\0b")
BROKEN = ("invalid-model", "model-does-not-run")


def constant(name: str, values: Any, dtype: Any = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def graph(
    nodes: Sequence[NodeProto],
    initializers: Sequence[TensorProto] = (),
    *,
    shape: Sequence[int | str] = ("N", 4),
    output: str = "y",
    kind: int = FLOAT,
) -> GraphProto:
    return helper.make_graph(
        list(nodes),
        "hostile",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(output, kind, [None] * len(shape))],
        list(initializers),
    )


def proto(graph: GraphProto, *, functions: Sequence[onnx.FunctionProto] = (), **opsets: int) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opsets.pop("opset", 18))]
    imports += [helper.make_opsetid(domain.replace("_", "."), version) for domain, version in opsets.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=functions)


def job(*nodes: NodeProto, initializers: Sequence[TensorProto] = (), **more: Any) -> Job:
    return model(proto(graph(nodes, initializers, **more)).SerializeToString())


@cache
def small() -> bytes:
    """A valid model."""
    return nets.mlp()


def changed() -> onnx.ModelProto:
    return onnx.ModelProto.FromString(small())


def external(name: str, location: str, shape: Sequence[int] = (4, 4)) -> TensorProto:
    tensor = TensorProto(name=name, data_type=FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def matmul(weight: str = "w") -> NodeProto:
    return helper.make_node("MatMul", ["x", weight], ["y"])


# Weights in other files


@CASES.add("external-data", of=OUTSIDE)
def weights_elsewhere(location: str) -> Job:
    return job(matmul(), initializers=[external("w", location)])


@CASES.add("external-data", of=OUTSIDE[:3])
def constant_elsewhere(location: str) -> Job:
    return job(helper.make_node("Constant", [], ["w"], value=external("w", location)), matmul())


@CASES.add("external-data", of=OUTSIDE[:3])
def weights_elsewhere_in_a_branch(location: str) -> Job:
    inner = helper.make_graph(
        [matmul()], "branch", [], [helper.make_tensor_value_info("y", FLOAT, [None, None])], [external("w", location)]
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return job(choice, initializers=[constant("c", True, np.bool_)])


@CASES.add("external-data", of=OUTSIDE[:3])
def weights_elsewhere_in_a_function(location: str) -> Job:
    body = [helper.make_node("Constant", [], ["w"], value=external("w", location)), matmul()]
    function = helper.make_function("own", "F", ["x"], ["y"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    return model(proto(graph([call]), functions=[function], own=1).SerializeToString())


@CASES.add("external-data", "invalid-model", of=OUTSIDE[:2])
def sparse_weights_elsewhere(location: str) -> Job:
    whole = graph([matmul()])
    sparse = whole.sparse_initializer.add(dims=[4, 4])
    sparse.values.CopyFrom(external("w", location, [1]))
    sparse.indices.CopyFrom(constant("i", [0]))
    return model(proto(whole).SerializeToString())


@CASES.add("external-data", "invalid-model", of=[("offset", "-1"), ("offset", str(HUGE)), ("length", str(2**42))])
def weights_elsewhere_at(key: str, value: str) -> Job:
    tensor = external("w", "job.json")
    tensor.external_data.add(key=key, value=value)
    return job(matmul(), initializers=[tensor])


# Weights in the files of a bundle


def tar(*entries: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry, data in entries:
            about = tarfile.TarInfo(entry) if isinstance(entry, str) else entry
            about.size = about.size or len(data)
            archive.addfile(about, io.BytesIO(data))
    return into.getvalue()


def elsewhere(location: str = "w.bin", shape: Sequence[int] = (4, 4), **more: str) -> tuple[str, bytes]:
    """The entry of a model whose weights are in the file `location`."""
    tensor = external("w", location, shape)
    for key, value in more.items():
        tensor.external_data.add(key=key, value=value)
    return MODEL, proto(graph([matmul()], [tensor])).SerializeToString()


def entry(name: str, **about: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for field, value in about.items():
        setattr(made, field, value)
    return made


WEIGHTS = ("w.bin", bytes(64))


@CASES.add(ACCEPTED)
def a_bundle() -> Job:
    return model(tar(elsewhere(), WEIGHTS))


@CASES.add(
    "external-data",
    "invalid-model",
    "repeated-name",
    of=[*(place for place in OUTSIDE if place != "job.json"), MODEL, "folder/../w.bin", "C:\\w.bin", "..\\w.bin"],
)
def a_location_outside_its_bundle(location: str) -> Job:
    return model(tar(elsewhere(location), WEIGHTS, (location.replace("\0", "") or "x", bytes(64))))


@CASES.add("external-data", of=[tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def weights_that_are_no_file(kind: bytes) -> Job:
    return model(tar(elsewhere(), (entry("w.bin", type=kind, linkname="/etc/passwd"), b"")))


@CASES.add("external-data")
def weights_in_a_sparse_file() -> Job:
    holes = {"GNU.sparse.size": "64", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "0,16"}
    return model(tar(elsewhere(), (entry("w.bin", pax_headers=holes), bytes(16))))


@CASES.add("external-data")
def weights_that_did_not_come() -> Job:
    return model(tar(elsewhere()))


@CASES.add("external-data", of=[0, 1, 63])
def weights_cut_to(size: int) -> Job:
    return model(tar(elsewhere(), ("w.bin", bytes(size))))


@CASES.add(
    "external-data",
    "invalid-model",
    of=[("offset", "-4"), ("offset", "4"), ("offset", str(HUGE)), ("offset", "x"), ("length", "60"), ("length", "-64")],
)
def weights_of_a_bundle_at(key: str, value: str) -> Job:
    return model(tar(elsewhere(**{key: value}), WEIGHTS))


@CASES.add("external-data", "invalid-model", of=[((2**20, 2**20),), ((-4, -4),), ((0, 2**62),), ((2**40,),)])
def dimensions_that_lie_in_a_bundle(dims: tuple[int, ...]) -> Job:
    return model(tar(elsewhere(shape=dims), WEIGHTS))


@CASES.add("nan-weights")
def nan_in_a_data_file() -> Job:
    return model(tar(elsewhere(), ("w.bin", np.full(16, np.nan, np.float32).tobytes())))


@CASES.add("repeated-name", of=["w.bin", "./w.bin", MODEL])
def a_bundle_with_two_of(name: str) -> Job:
    return model(tar(elsewhere(), WEIGHTS, (name, bytes(64))))


@CASES.add("not-a-bundle", of=["-512", str(HUGE)])
def a_bundle_whose_file_has_the_size(size: str) -> Job:
    return model(tar(elsewhere(), (entry("w.bin", pax_headers={"size": size}), bytes(64))))


@CASES.add("not-a-bundle")
def a_bundle_cut_off() -> Job:
    return model(tar(elsewhere(), ("w.bin", bytes(4096)))[:4096])


@CASES.add("not-a-bundle", of=[tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def a_bundle_whose_model_is_no_file(kind: bytes) -> Job:
    return model(tar((entry(MODEL, type=kind, linkname="/etc/passwd"), b""), WEIGHTS))


@CASES.add("not-a-bundle", of=["w.bin", "other/model.onnx"])
def a_tar_that_begins_with(name: str) -> Job:
    return model(tar((name, bytes(64)), elsewhere()))


@CASES.add("not-an-onnx-file", "not-a-bundle")
def a_bundle_in_a_bundle() -> Job:
    return model(tar((MODEL, tar(elsewhere(), WEIGHTS)), WEIGHTS))


@CASES.add("truncated-model", "not-an-onnx-file", "not-a-bundle")
def a_tar_that_begins_as_a_model_does() -> Job:
    """A file with two readings would be audited as one model and deployed as another."""
    return model(tar(("\x08\x09" + MODEL, elsewhere()[1]), WEIGHTS))


@CASES.add("not-a-bundle", heavy=True)
def a_bundle_of_countless_files() -> Job:
    headers = b"".join(entry(f"w{number}").tobuf() for number in range(100_001))
    return model(tar(elsewhere()).rstrip(b"\0").ljust(1024, b"\0") + headers)


# Weights that are not what they say


@CASES.add("invalid-model", of=[((4, 5),), ((-4, -4),), ((2**32, 2**32),), ((0, 2**62),), ((2**40,),), ((1,) * 5000,)])
def dimensions_that_lie(dims: tuple[int, ...]) -> Job:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=bytes(64))
    return job(matmul(), initializers=[tensor])


@CASES.add("invalid-model")
def four_terabytes_without_a_byte() -> Job:
    return job(matmul(), initializers=[TensorProto(name="w", data_type=FLOAT, dims=[2**20, 2**20])])


@CASES.add("invalid-model")
def two_kinds_of_data() -> Job:
    return job(
        matmul(),
        initializers=[TensorProto(name="w", data_type=FLOAT, dims=[4, 4], raw_data=bytes(64), float_data=[1.0] * 16)],
    )


@CASES.add("invalid-model", of=[0, 99, -1, 2**31 - 1])
def a_type_that_is_none(kind: int) -> Job:
    return job(matmul(), initializers=[TensorProto(name="w", data_type=kind, dims=[4, 4], raw_data=bytes(64))])


@CASES.add(*BROKEN)
def weights_of_text() -> Job:
    return job(matmul(), initializers=[TensorProto(name="w", data_type=8, dims=[4, 4], string_data=[b"a"] * 16)])


@CASES.add("nan-weights", of=[np.nan, -np.nan])
def weights_that_are_no_numbers(value: float) -> Job:
    return job(matmul(), initializers=[constant("w", np.full((4, 4), value), np.float32)])


@CASES.add("nan-weights")
def a_constant_that_is_no_number() -> Job:
    value = constant("w", np.full((4, 4), np.nan), np.float32)
    return job(helper.make_node("Constant", [], ["w"], value=value), matmul())


@CASES.add("nan-weights")
def half_weights_that_are_no_numbers() -> Job:
    weights = constant("h", np.full((4, 4), np.nan), np.float16)
    return job(helper.make_node("Cast", ["h"], ["w"], to=FLOAT), matmul(), initializers=[weights])


@CASES.add(ACCEPTED, "not-finite", "nan-weights")
def endless_weights() -> Job:
    return job(matmul(), initializers=[constant("w", np.full((4, 4), np.inf), np.float32)])


# More than there is


@CASES.add("out-of-memory", heavy=True)
def forty_gigabytes_of_constant() -> Job:
    fill = helper.make_node("ConstantOfShape", ["s"], ["big"])
    return job(
        fill,
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        initializers=[constant("s", [10, 2**30])],
    )


@CASES.add("model-does-not-run", ACCEPTED)
def a_constant_past_all_counting() -> Job:
    fill = helper.make_node("ConstantOfShape", ["s"], ["big"])
    return job(
        fill,
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        initializers=[constant("s", [2**31, 2**31, 2])],
    )


@CASES.add("out-of-memory", "model-does-not-run", heavy=True)
def a_stretched_input() -> Job:
    return job(helper.make_node("Expand", ["x", "s"], ["y"]), initializers=[constant("s", [2**30, 1, 4])])


@CASES.add(ACCEPTED)
def a_repeated_input() -> Job:
    """Its output visibly has no row for each example, which is said without running it."""
    return job(helper.make_node("Tile", ["x", "s"], ["y"]), initializers=[constant("s", [2**20, 2**10])])


@CASES.add("out-of-memory", heavy=True)
def a_random_number_of_random_numbers() -> Job:
    noise = helper.make_node("RandomNormal", [], ["r"], shape=[2**20, 2**16])
    return job(
        noise, helper.make_node("ReduceSum", ["r"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])
    )


@CASES.add("out-of-memory", heavy=True)
def a_long_range() -> Job:
    numbers = [constant("a", 0), constant("b", 2**40), constant("d", 1)]
    nodes = [
        helper.make_node("Range", ["a", "b", "d"], ["r"]),
        helper.make_node("ReduceSum", ["r"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    return job(*nodes, initializers=numbers)


@CASES.add("out-of-memory", "model-does-not-run", heavy=True)
def a_wide_pad() -> Job:
    return job(helper.make_node("Pad", ["x", "p"], ["y"]), initializers=[constant("p", [0, 2**36, 0, 2**36])])


@CASES.add("out-of-memory", "model-does-not-run", heavy=True)
def a_picture_blown_up() -> Job:
    scales = constant("s", [1, 1, 1e5, 1e5], np.float32)
    return job(
        helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest"), initializers=[scales], shape=("N", 3, 8, 8)
    )


@CASES.add("out-of-memory", "model-does-not-run", heavy=True)
def one_hot_of_everything() -> Job:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=INT64),
        helper.make_node("OneHot", ["i", "depth", "values"], ["y"]),
    ]
    return job(*nodes, initializers=[constant("depth", 2**40), constant("values", [0, 1], np.float32)])


def loop(body: GraphProto, trips: int = HUGE) -> Job:
    return job(
        helper.make_node("Loop", ["m", "c", "x"], ["y"], body=body),
        initializers=[constant("m", trips), constant("c", True, np.bool_)],
    )


def loop_body(*nodes: NodeProto, level: int | str = "") -> GraphProto:
    """Nodes that make `w` of `v`, with names of their own at each level of loops within loops."""
    inputs = [
        helper.make_tensor_value_info(f"i{level}", INT64, []),
        helper.make_tensor_value_info(f"go{level}", BOOL, []),
        helper.make_tensor_value_info(f"v{level}", FLOAT, [None, None]),
    ]
    outputs = [
        helper.make_tensor_value_info(f"on{level}", BOOL, []),
        helper.make_tensor_value_info(f"w{level}", FLOAT, [None, None]),
    ]
    go_on = helper.make_node("Identity", [f"go{level}"], [f"on{level}"])
    return helper.make_graph([go_on, *nodes], f"body{level}", inputs, outputs)


@CASES.add("out-of-time", heavy=True)
def an_endless_loop() -> Job:
    return loop(loop_body(helper.make_node("Relu", ["v"], ["w"])))


@CASES.add("out-of-memory", "out-of-time", heavy=True)
def a_loop_that_doubles() -> Job:
    return loop(loop_body(helper.make_node("Concat", ["v", "v"], ["w"], axis=1)))


@CASES.add("out-of-memory", "out-of-time", heavy=True)
def a_loop_that_collects() -> Job:
    body = loop_body(helper.make_node("Relu", ["v"], ["w"]), helper.make_node("Relu", ["v"], ["kept"]))
    body.output.append(helper.make_tensor_value_info("kept", FLOAT, [None, None]))
    node = helper.make_node("Loop", ["m", "c", "x"], ["last", "y"], body=body)
    return job(node, initializers=[constant("m", HUGE), constant("c", True, np.bool_)])


@CASES.add("out-of-time", heavy=True)
def loops_within_loops() -> Job:
    inner = loop_body(helper.make_node("Relu", ["v0"], ["w0"]), level=0)
    for depth in range(8):
        v, go, w = (f"{name}{depth + 1}" for name in ("v", "go", "w"))
        again = helper.make_node("Loop", [f"m{depth}", go, v], [w], body=inner)
        many = helper.make_node("Constant", [], [f"m{depth}"], value=constant("", 1000))
        inner = loop_body(many, again, level=depth + 1)
    return loop(inner, 1000)


# Too deep, too many, in circles


def doubling_functions(depth: int) -> onnx.ModelProto:
    """F0 calls F1 twice, F1 calls F2 twice …: 2^depth nodes once they are written out."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own",
            f"F{level}",
            ["x"],
            ["y"],
            [
                helper.make_node(f"F{level + 1}", ["x"], ["h"], domain="own"),
                helper.make_node(f"F{level + 1}", ["h"], ["y"], domain="own"),
            ],
            opsets,
        )
        for level in range(depth)
    ]
    functions.append(
        helper.make_function("own", f"F{depth}", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)
    )
    return proto(graph([helper.make_node("F0", ["x"], ["y"], domain="own")]), functions=functions, own=1)


@CASES.add("model-too-large", of=[12, 13, 20, 40, 200])
def a_billion_laughs(depth: int) -> Job:
    return model(doubling_functions(depth).SerializeToString())


@CASES.add(ACCEPTED, of=[16])
def a_billion_laughs_that_nobody_hears(depth: int) -> Job:
    uncalled = doubling_functions(depth)
    uncalled.graph.node[0].CopyFrom(helper.make_node("Relu", ["x"], ["y"]))
    return model(uncalled.SerializeToString())


@CASES.add("invalid-model", of=[(1, 2), (2, 1), (1, 0)])
def a_call_with_so_many_outputs_of(there: int, called: int) -> Job:
    body = [helper.make_node("Relu", ["x"], [f"y{number}"]) for number in range(there)]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("own", "F", ["x"], [f"y{number}" for number in range(there)], body, opsets)
    call = helper.make_node("F", ["x"], ["h", "g"][:called], domain="own")
    after = helper.make_node("Relu", ["h" if called else "x"], ["y"])
    return model(proto(graph([call, after]), functions=[function], own=1).SerializeToString())


@CASES.add("invalid-model", "recursive-function", of=[1, 3])
def functions_in_a_circle(length: int) -> Job:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own", f"F{i}", ["x"], ["y"], [helper.make_node(f"F{(i + 1) % length}", ["x"], ["y"], domain="own")], opsets
        )
        for i in range(length)
    ]
    call = helper.make_node("F0", ["x"], ["y"], domain="own")
    return model(proto(graph([call]), functions=functions, own=1).SerializeToString())


@CASES.add("model-too-large")
def fifty_thousand_nodes() -> Job:
    names = ["x", *(f"t{i}" for i in range(50_000)), "y"]
    return job(*(helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)))


@CASES.add("not-an-onnx-file", "truncated-model", "invalid-model", "model-too-large", of=[30, 95, 1000])
def branches_within_branches(depth: int) -> Job:
    """Written by hand: the library refuses to serialise so deep a message."""
    inner = graph([helper.make_node("Relu", ["x"], ["y"])]).SerializeToString()
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, inner) + varint(20 << 3) + varint(AttributeProto.GRAPH)
        other = field(1, b"else_branch") + field(6, inner[:0]) + varint(20 << 3) + varint(AttributeProto.GRAPH)
        node = field(1, b"c") + field(2, b"y") + field(4, b"If") + field(5, attribute) + field(5, other)
        output = helper.make_tensor_value_info("y", FLOAT, [None, None]).SerializeToString()
        inner = field(1, node) + field(2, b"g") + field(12, output)
    opset = helper.make_opsetid("", 18).SerializeToString()
    return model(varint(8) + varint(9) + field(7, inner) + field(8, opset))


def varint(number: int) -> bytes:
    more = number >> 7
    return bytes([number & 127 | 128]) + varint(more) if more else bytes([number])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


@CASES.add("truncated-model", "not-an-onnx-file", of=[50, 10_000, 100_000])
def groups_within_groups(depth: int) -> Job:
    """The deprecated way of nesting, which asks nothing of a length."""
    return model(b"\x08\x09" + b"\x0b" * depth)


@CASES.add("invalid-model", of=["circle", "twice", "nowhere", "no-output", "itself"])
def a_graph_that_does_not_hang_together(how: str) -> Job:
    whole = changed()
    nodes = whole.graph.node
    if how == "circle":
        nodes[0].input[0] = nodes[2].output[0]
    elif how == "twice":
        nodes[1].output[0] = nodes[0].output[0]
    elif how == "nowhere":
        nodes[1].input[0] = "nowhere"
    elif how == "itself":
        nodes[0].input[0] = nodes[0].output[0]
    else:
        whole.graph.output[0].name = "nowhere"
    return model(whole.SerializeToString())


@CASES.add("no-outputs", "invalid-model", of=["output", "input", "node"])
def a_graph_without(part: str) -> Job:
    whole = changed()
    whole.graph.ClearField(part)
    return model(whole.SerializeToString())


# Operators of unknown domains, or with nonsense attributes


@CASES.add(
    "unknown-domain",
    "invalid-model",
    "model-optimised-for-one-processor",
    of=["evil", "com.microsoft.nchwc", "ai.onnx.training", "../..", "a\nb"],
)
def an_operator_of_another_domain(domain: str) -> Job:
    whole = changed()
    whole.graph.node[0].domain = domain
    whole.opset_import.append(helper.make_opsetid(domain, 1))
    return model(whole.SerializeToString())


@CASES.add("unknown-domain", "invalid-model")
def an_operator_of_another_domain_without_name_or_output() -> Job:
    whole = changed()
    whole.graph.node.append(helper.make_node("Shell", ["x"], [], domain="evil"))
    whole.opset_import.append(helper.make_opsetid("evil", 1))
    return model(whole.SerializeToString())


@CASES.add("unknown-domain", "invalid-model")
def an_operator_of_another_domain_in_a_branch() -> Job:
    inner = helper.make_graph(
        [helper.make_node("Shell", ["x"], ["y"], domain="evil")],
        "branch",
        [],
        [helper.make_tensor_value_info("y", FLOAT, [None, None])],
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return model(proto(graph([choice], [constant("c", True, np.bool_)]), evil=1).SerializeToString())


@CASES.add(*BROKEN, of=["", "Shell", "Relu\0", "A" * 10_000])
def an_operator_that_is_none(operator: str) -> Job:
    return job(helper.make_node(operator, ["x"], ["y"]))


@CASES.add(*BROKEN, of=["BeamSearch", "CropAndResize", "Tokenizer", "MurmurHash3"])
def an_operator_of_the_runtime_s_own(operator: str) -> Job:
    node = helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")
    return model(proto(graph([node]), com_microsoft=1).SerializeToString())


NONSENSE: dict[str, tuple[Sequence[int | str], Callable[[], tuple[list[NodeProto], list[TensorProto]]]]] = {}


def nonsense(shape: Sequence[int | str] = ("N", 4)) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        NONSENSE[make.__name__] = (shape, make)
        return make

    return register


PICTURE = ("N", 3, 8, 8)


def conv(**attributes: Any) -> tuple[list[NodeProto], list[TensorProto]]:
    return [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)], [
        constant("w", np.ones((3, 3, 3, 3)), np.float32)
    ]


@nonsense(PICTURE)
def strides_of_nothing() -> Any:
    return conv(strides=[0, 0])


@nonsense(PICTURE)
def negative_strides() -> Any:
    return conv(strides=[-1, -1])


@nonsense(PICTURE)
def no_group() -> Any:
    return conv(group=0)


@nonsense(PICTURE)
def huge_dilations() -> Any:
    return conv(dilations=[HUGE, HUGE])


@nonsense(PICTURE)
def negative_pads() -> Any:
    return conv(pads=[-(2**40)] * 4)


@nonsense(PICTURE)
def a_kernel_that_lies() -> Any:
    return conv(kernel_shape=[2**31, 2**31])


@nonsense(PICTURE)
def a_pool_of_nothing() -> Any:
    return [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[0, 0])], []


@nonsense(PICTURE)
def a_pool_past_all_counting() -> Any:
    return [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2**31, 2**31], pads=[2**30] * 4)], []


@nonsense()
def a_slice_without_a_step() -> Any:
    return [helper.make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])], [
        constant("s", [0]),
        constant("e", [4]),
        constant("a", [1]),
        constant("t", [0]),
    ]


@nonsense()
def an_index_out_of_bounds() -> Any:
    return [helper.make_node("Gather", ["x", "i"], ["y"], axis=1)], [constant("i", [2**40])]


@nonsense()
def a_scatter_out_of_bounds() -> Any:
    return [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=1)], [
        constant("i", [[-(2**40)]]),
        constant("u", [[1.0]], np.float32),
    ]


@nonsense()
def a_permutation_that_is_none() -> Any:
    return [helper.make_node("Transpose", ["x"], ["y"], perm=[7, 7])], []


@nonsense()
def an_axis_far_out() -> Any:
    return [helper.make_node("Softmax", ["x"], ["y"], axis=2**40)], []


@nonsense()
def a_reshape_past_all_counting() -> Any:
    return [helper.make_node("Reshape", ["x", "s"], ["y"])], [constant("s", [2**40, 2**40, -1])]


@nonsense()
def a_split_into_nothing() -> Any:
    return [helper.make_node("Split", ["x"], ["y"], axis=1, num_outputs=0)], []


@nonsense()
def an_einsum_of_rubbish() -> Any:
    return [helper.make_node("Einsum", ["x", "x"], ["y"], equation="ij,->->jk" + "..." * 100)], []


@nonsense()
def an_attribute_of_another_type() -> Any:
    return [helper.make_node("Softmax", ["x"], ["y"], axis="one")], []


@nonsense()
def an_attribute_that_is_not_there() -> Any:
    return [helper.make_node("Relu", ["x"], ["y"], secret=1)], []


@nonsense()
def inputs_by_the_thousand() -> Any:
    return [helper.make_node("Relu", ["x"] * 5000, ["y"])], []


@nonsense()
def a_cast_to_nothing() -> Any:
    return [helper.make_node("Cast", ["x"], ["y"], to=77)], []


@CASES.add(*BROKEN, ACCEPTED, of=NONSENSE)
def an_operator_with_nonsense(name: str) -> Job:
    shape, make = NONSENSE[name]
    nodes, initializers = make()
    return job(*nodes, initializers=initializers, shape=shape)


def trees(**changed: Any) -> Job:
    attributes: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "target_treeids": [0, 0],
        "target_nodeids": [1, 2],
        "target_ids": [0, 0],
        "target_weights": [1.0, 2.0],
        "n_targets": 1,
    } | changed
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    return model(proto(graph([node]), ai_onnx_ml=3).SerializeToString())


@CASES.add(
    *BROKEN, "out-of-time", "child-crashed", ACCEPTED, heavy=True, of=["circle", "feature", "target", "lengths", "ids"]
)
def trees_that_lie(how: str) -> Job:
    return {
        "circle": lambda: trees(nodes_truenodeids=[0, 0, 0], nodes_falsenodeids=[0, 0, 0]),
        "feature": lambda: trees(nodes_featureids=[2**40, 0, 0]),
        "target": lambda: trees(target_ids=[2**40, 0]),
        "lengths": lambda: trees(nodes_values=[0.5]),
        "ids": lambda: trees(nodes_nodeids=[0, 2**50, -2]),
    }[how]()


@CASES.add(
    *BROKEN, "child-crashed", ACCEPTED, heavy=True, of=["Scaler", "LinearRegressor", "SVMRegressor", "LabelEncoder"]
)
def a_table_of_numbers_that_is_too_short(operator: str) -> Job:
    attributes: dict[str, Any] = {
        "Scaler": {"offset": [1.0], "scale": [1.0, 2.0]},
        "LinearRegressor": {"coefficients": [1.0], "targets": 1000},
        "SVMRegressor": {
            "coefficients": [1.0],
            "support_vectors": [1.0],
            "n_supports": 1000,
            "rho": [0.0],
            "kernel_type": "RBF",
            "kernel_params": [1.0, 0.0, 3.0],
        },
        "LabelEncoder": {"keys_floats": [1.0, 2.0], "values_floats": [1.0]},
    }[operator]
    node = helper.make_node(operator, ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    return model(proto(graph([node]), ai_onnx_ml=3).SerializeToString())


# Headers, names and bytes


@CASES.add("opset-too-new", "invalid-model", of=[99, 2**40])
def an_opset_of_the_future(version: int) -> Job:
    whole = changed()
    whole.opset_import[0].version = version
    return model(whole.SerializeToString())


@CASES.add("invalid-model", "opset-not-convertible", ACCEPTED, of=[0, -1, 1])
def an_opset_of_the_past(version: int) -> Job:
    whole = changed()
    whole.opset_import[0].version = version
    return model(whole.SerializeToString())


@CASES.add("invalid-model")
def no_opset() -> Job:
    whole = changed()
    whole.ClearField("opset_import")
    return model(whole.SerializeToString())


@CASES.add("invalid-model", ACCEPTED)
def two_opsets_at_once() -> Job:
    whole = changed()
    whole.opset_import.append(helper.make_opsetid("", 7))
    return model(whole.SerializeToString())


@CASES.add("invalid-model", "not-an-onnx-file", of=[0, -1, 10**9])
def a_version_that_is_none(version: int) -> Job:
    whole = changed()
    whole.ir_version = version
    return model(whole.SerializeToString())


@CASES.add(ACCEPTED, of=["../../x", "a\0b", "<script>", "\u202egnp.exe", "name" * 100_000, "%s%n%x", "a\nb"])
def a_layer_called(name: str) -> Job:
    whole = changed()
    before = whole.graph.node[1].output[0]
    for node in whole.graph.node:
        node.input[:] = [name if one == before else one for one in node.input]
        node.output[:] = [name if one == before else one for one in node.output]
    whole.graph.ClearField("value_info")
    return model(whole.SerializeToString())


@CASES.add("truncated-model", "invalid-model", "not-an-onnx-file")
def a_name_that_is_not_utf8() -> Job:
    data = small()
    name = changed().graph.node[0].output[0].encode()
    return model(data.replace(name, b"\xff" * len(name)))


@CASES.add("invalid-model", of=["name", "doc_string"])
def a_graph_whose_text_is_not_utf8(field: str) -> Job:
    whole = changed()
    return _without_text(whole, whole.graph, field)


@CASES.add("invalid-model", of=["name", "doc_string"])
def a_node_whose_text_is_not_utf8(field: str) -> Job:
    whole = changed()
    return _without_text(whole, whole.graph.node[0], field)


@CASES.add("invalid-model", of=["producer_name", "producer_version", "domain", "doc_string"])
def a_text_that_is_not_utf8(field: str) -> Job:
    whole = changed()
    return _without_text(whole, whole, field)


def _without_text(whole: onnx.ModelProto, part: Any, field: str) -> Job:
    mark = "a mark of so many bytes"
    setattr(part, field, mark)
    return model(whole.SerializeToString().replace(mark.encode(), b"\xe9" * len(mark)))


@CASES.add(ACCEPTED)
def five_megabytes_of_remarks() -> Job:
    whole = changed()
    whole.doc_string = "z" * (5 << 20)
    whole.metadata_props.add(key="k" * 1000, value="v" * 1000)
    return model(whole.SerializeToString())


@CASES.add("input-too-large", of=[((2**62, 2**62),), ((1,) * 2000,), ((1, 2**40),)])
@CASES.add(ACCEPTED, of=[((0, 4),), ((-5, 4),)])
def an_input_shaped(shape: tuple[int, ...]) -> Job:
    return job(helper.make_node("Relu", ["x"], ["y"]), shape=shape)


@CASES.add("invalid-model", "model-does-not-run", ACCEPTED)
def shapes_in_between_that_lie() -> Job:
    whole = graph([helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])])
    whole.value_info.append(helper.make_tensor_value_info("h", FLOAT, [2**40, 3, 3]))
    return model(proto(whole).SerializeToString())


@CASES.add(
    "not-an-onnx-file",
    of=[
        b"",
        b"\0",
        b"PK\x03\x04" * 99,
        b"\x89PNG\r\n\x1a\n" * 99,
        b"%PDF-1.7",
        b"\x7fELF" * 99,
        b"{}",
        b"#!/bin/sh\nreboot\n",
    ],
)
def no_model_at_all(data: bytes) -> Job:
    return model(data)


@CASES.add("not-an-onnx-file")
def a_model_in_a_gzip() -> Job:
    return model(gzip.compress(small(), mtime=0))


@CASES.add("truncated-model", "not-an-onnx-file", "invalid-model", of=[1, 10, 50, 90, 99])
def a_model_cut_off_at(percent: int) -> Job:
    return model(small()[: len(small()) * percent // 100])


@CASES.add(
    "truncated-model",
    "not-an-onnx-file",
    *BROKEN,
    "unknown-domain",
    "opset-too-new",
    "nan-weights",
    "external-data",
    "unknown-operator",
    "opset-not-convertible",
    "conversion-changed-the-model",
    "no-inputs",
    ACCEPTED,
    of=range(20),
)
def a_model_with_flipped_bits(seed: int) -> Job:
    rng = np.random.default_rng(seed)
    data = bytearray(small())
    for position in rng.integers(0, len(data), 1 + seed % 5):
        data[position] ^= 1 << int(rng.integers(8))
    return model(bytes(data))


@CASES.add("truncated-model", "not-an-onnx-file")
def a_field_longer_than_the_world() -> Job:
    return model(b"\x08\x09\x3a" + b"\xff" * 9 + b"\x01" + struct.pack("<Q", HUGE))
