"""Backward rules broken one at a time, and networks that use the operator of each: does the gradient check notice?

Every rule is broken in its results (sign, factor, zero, order, arguments exchanged, a mean in place of a sum) and in
its source, where a term, a factor or a sign is left out or a comparison is turned round, also in helpers that it calls.
"""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import os
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from caveat_worker.engine.autodiff.builder import Tensor, op
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import VJP, Rule
from caveat_worker.engine.autodiff.shapes import reshape_like
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.session import open_session
from tests.engine.oracles import Row
from tests.engine.ordinary import Case

TARGET = Target("t", index=0)
TOLERANCE = 0.01
"""What an audit allows by default; a broken rule whose gradient is nearer than this to the right one is not wrong."""
NO_CHANGE = 1e-5
"""What float32 leaves between two graphs of the same gradient."""
AMONG_KINKS = (1, 4, 8, 9, 10, 14)
"""The ordinary networks in which rules are broken: convolutional, normalised, residual, mobile, dense, attention."""
MOST_NETWORKS = 4
"""For one operator."""
Function = Callable[..., Any]
Feeds = dict[str, Any]
Network = tuple[Model, Feeds, Any]
"""A model, its examples, and its right gradient."""
Outcome = Literal["caught", "missed", "within the tolerance", "no change", "does not run"]


@dataclass(frozen=True)
class Mutant:
    """A rule that is broken in one way."""

    way: str
    rule: Rule
    place: str = ""
    """The broken expression's place in the source, where it is one."""


@dataclass(frozen=True)
class Judged:
    """What the check made of a mutant; `difference` is how far its gradient is from the right one."""

    operator: str
    way: str
    outcome: Outcome
    difference: float
    in_source: bool


def mutants(rule: Rule) -> Iterator[Mutant]:
    """The rule, broken in every way."""
    inputs = len([p for p in inspect.signature(rule.function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD])
    several = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(rule.function).parameters.values())
    for way, change in _RESULTS.items():
        for i in range(1 if rule.derivative else 2 if several else max(inputs - 2, 1)):
            yield Mutant(f"{way} of input {i}", _changed(rule, i, change))
    if not rule.derivative:
        yield Mutant("inputs 0 and 1 exchanged", _exchanged(rule))
    for way, function in _source_mutants(rule.function, frozenset()):
        yield Mutant(way, replace(rule, function=function), place=way)


def _reversed(r: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return op.Slice(r, [-1], [np.iinfo(np.int64).min], [-1], [-1])


def _transposed(r: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return reshape_like(op.Transpose(r, perm=[*range(r.rank - 2), r.rank - 1, r.rank - 2]), r)


def _averaged(r: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A mean over the axes along which x was broadcast; where it was not, this is no change."""
    return r * op.Cast(op.Size(x), to=int(r.dtype)) / op.Cast(op.Size(y), to=int(r.dtype))


_RESULTS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "sign": lambda r, x, y: -r,
    "factor 0.9": lambda r, x, y: 0.9 * r,
    "factor 2": lambda r, x, y: 2.0 * r,
    "zero": lambda r, x, y: 0.0 * r,
    "reversed order": _reversed,
    "transposed": _transposed,
    "mean in place of sum": _averaged,
}


def _wrapped(rule: Rule, change: Callable[[list[Any], Any, Sequence[Any]], Sequence[Any]]) -> Rule:
    def broken(g: Any, y: Any, *inputs: Any, **attributes: Any) -> Sequence[Any]:
        return change(list(rule(g, y, *inputs, **attributes)), y[0] if rule.several else y, inputs)

    broken.__signature__ = inspect.signature(rule.function)  # type: ignore[attr-defined]
    return replace(rule, function=broken, derivative=False)


def _changed(rule: Rule, i: int, change: Callable[[Any, Any, Any], Any]) -> Rule:
    def result(results: list[Any], y: Any, inputs: Sequence[Any]) -> Sequence[Any]:
        if i < len(results) and results[i] is not None:
            results[i] = change(results[i], inputs[i], y)
        return results

    return _wrapped(rule, result)


def _exchanged(rule: Rule) -> Rule:
    def result(results: list[Any], y: Any, inputs: Sequence[Any]) -> Sequence[Any]:
        if len(results) > 1 and results[0] is not None and results[1] is not None:
            results[:2] = results[1], results[0]
        return results

    return _wrapped(rule, result)


_RULES = Rule.__module__.rpartition(".")[0]


def _source_mutants(function: Function, inside: frozenset[Function]) -> Iterator[tuple[str, Function]]:
    """The function with one expression broken: its own, or one of a function of the rules that it calls."""
    tree = _definition(function)
    if tree is None:
        return
    for way, node, changed in _broken(tree):
        place = f"{Path(function.__code__.co_filename).stem}.py, line {getattr(node, 'lineno', 0)}"
        yield f"{way} ({place})", _compiled(function, changed)
    for name, called in _calls(function):
        if called in inside or called is function:
            continue
        for way, changed in _source_mutants(called, inside | {function}):
            yield way, _with(function, name, changed)


def _definition(function: Function) -> ast.FunctionDef | ast.Lambda | None:
    """The function's own syntax tree, found in its module by its first line."""
    code = function.__code__
    for node in ast.walk(_tree(code.co_filename)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if node.name == code.co_name and first == code.co_firstlineno:
                return node
        if isinstance(node, ast.Lambda) and code.co_name == "<lambda>" and node.lineno == code.co_firstlineno:
            return node
    return None


@cache
def _tree(path: str) -> ast.Module:
    with open(path) as source:
        return ast.parse(source.read())


_TURNED = {ast.Gt: ast.Lt, ast.Lt: ast.Gt, ast.GtE: ast.LtE, ast.LtE: ast.GtE}


def _broken(tree: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Copies of the tree with one expression changed, each with a description and the expression."""
    for number, node in enumerate(ast.walk(tree)):
        for way, change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(one for i, one in enumerate(ast.walk(changed)) if i == number)
            yield f"{way} of `{ast.unparse(node)}`", node, _Replace(target, change(target)).visit(changed)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], ast.AST]]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
        yield "right missing", lambda one: one.left
        yield "left missing", lambda one: one.right
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Pow):
        yield "right missing", lambda one: one.left
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "sign missing", lambda one: one.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _TURNED:
        yield "turned", lambda one: ast.Compare(one.left, [_TURNED[type(one.ops[0])]()], one.comparators)


class _Replace(ast.NodeTransformer):
    """Puts one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _compiled(function: Function, tree: ast.AST) -> Function:
    """The changed tree as a function with the globals and the closure of the unchanged one."""
    free = function.__code__.co_freevars
    value: ast.expr
    if isinstance(tree, ast.FunctionDef):
        tree.decorator_list = []
        body: list[ast.stmt] = [tree, ast.Return(ast.Name(tree.name, ast.Load()))]
    else:
        value = tree  # type: ignore[assignment]
        body = [ast.Return(value)]
    arguments = ast.arguments([], [ast.arg(name) for name in free], None, [], [], None, [])
    maker = ast.FunctionDef("make", arguments, body, [], None, type_params=[])
    module = ast.fix_missing_locations(ast.Module([maker], []))
    scope: dict[str, Any] = {}
    exec(compile(module, function.__code__.co_filename, "exec"), function.__globals__ | {}, scope)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    made: Function = scope["make"](*cells)
    return made


def _calls(function: Function) -> Iterator[tuple[str, Function]]:
    """The functions of the rules that a function reads by name, from its module or from its closure."""
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    found = {name: value for name, value in function.__globals__.items() if name in names}
    free = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found |= {name: cell.cell_contents for name, cell in free}
    for name, value in sorted(found.items()):
        if isinstance(value, types.FunctionType) and value.__module__.startswith(f"{_RULES}."):
            yield name, value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _with(function: Function, name: str, value: Function) -> Function:
    """The function with another one under a name that it reads."""
    assert isinstance(function, types.FunctionType)
    cells = tuple(
        types.CellType(value) if free == name else cell
        for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    )
    scope = {**function.__globals__, name: value, "__builtins__": builtins}
    changed = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, cells)
    changed.__kwdefaults__ = function.__kwdefaults__
    return changed


def around(row: Row) -> Model:
    """A network [1, d] → parts of x, bent → the row's operator → a dense layer with three outputs.

    The operator's inputs stay near the row's, so that they stay in its domain.
    """
    rng = np.random.default_rng(5)
    nodes, weights, start = [], [], 0

    def constant(name: str, array: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    names = []
    for i, x in enumerate(row.inputs):
        array = None if x is None else x.astype(np.float32) if x.dtype == np.float64 else x
        if array is None:
            names.append("")
            continue
        base = constant(f"base{i}", array)
        if i not in row.differentiated:
            names.append(base)
            continue
        bounds = [
            constant(f"{end}{i}", np.asarray([at])) for end, at in (("start", start), ("end", start + array.size))
        ]
        part = node("Slice", ["x", *bounds, constant(f"axis{i}", np.asarray([1]))], f"part{i}")
        bent = node("Mul", [node("Tanh", [part], f"bent{i}"), constant(f"small{i}", np.float32(0.1))], f"near{i}")
        shaped = node("Reshape", [bent, constant(f"shape{i}", np.asarray(array.shape, np.int64))], f"shaped{i}")
        names.append(node("Add", [base, shaped], f"input{i}"))
        start += array.size
    results = [f"y{i}" for i in range(row.outputs)]
    nodes.append(helper.make_node(row.op, names, results, name="operator", domain=row.domain, **row.attributes))
    shape = constant("flat", np.asarray([1, -1]))
    floats = results if row.op not in ("TopK",) else results[:1]
    flat = [
        node("Reshape", [node("Cast", [result], f"{result}/cast", to=1), shape], f"{result}/flat") for result in floats
    ]
    joined = node("Concat", flat, "joined", axis=1)
    size = _sizes(nodes, weights, start, row)
    dense = node("MatMul", [joined, constant("dense", rng.standard_normal((size, 3)).astype(np.float32))], "logits")
    return load(_proto(nodes, weights, start, row, dense).SerializeToString())


def _proto(nodes: Any, weights: Any, d: int, row: Row, output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "around", [helper.make_tensor_value_info("x", 1, [1, d])],
        [helper.make_tensor_value_info(output, 1, [1, "m"])], weights,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", row.opset)]
    if row.domain:
        opsets.append(helper.make_opsetid(row.domain, 1 if row.domain != "ai.onnx.ml" else 3))
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def _sizes(nodes: Any, weights: Any, d: int, row: Row) -> int:
    """How many numbers the operator yields."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    content = _proto(nodes, weights, d, row, "joined").SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return int(session.run(["joined"], {"x": np.zeros((1, d), np.float32)})[0].size)


def judge(operator: tuple[str, str], mutant: Mutant, networks: Sequence[Network]) -> Judged:
    """Runs the check with the mutant on the first network at which its gradient is not within the tolerance."""
    rules = dict(VJP) | {operator: mutant.rule}
    outcome: Outcome = "does not run"
    largest = 0.0
    for model, feeds, right in networks:
        entry = model.inputs[0].name
        try:
            wrong = _gradient(model, feeds, rules)
            difference = float(np.linalg.norm(wrong - right) / max(float(np.linalg.norm(right)), 1e-30))
            if difference <= TOLERANCE:
                largest = max(largest, difference)
                outcome = "no change" if largest <= NO_CHANGE else "within the tolerance"
                continue
            checks = check_gradients(
                model, [entry], [TARGET], feeds, seed=0, tolerance=TOLERANCE, rules=rules,
                claimed={f"gradient/t/{entry}": wrong},
            )  # fmt: skip
        except Exception:  # the mutant builds no graph that runs: an error, and not a wrong figure
            continue
        ok = all(check.ok for check in checks)
        return Judged(
            "::".join(filter(None, operator)), mutant.way, "missed" if ok else "caught", difference, bool(mutant.place)
        )
    return Judged("::".join(filter(None, operator)), mutant.way, outcome, largest, bool(mutant.place))


def _feeds(model: Model) -> dict[str, Any]:
    tensor = model.inputs[0]
    shape = [d if isinstance(d, int) else 4 for d in tensor.shape]
    return {tensor.name: np.random.default_rng(3).standard_normal(shape).astype(np.float32)}


def _gradient(model: Model, feeds: dict[str, Any], rules: Any) -> np.ndarray[Any, Any]:
    graph = differentiate(model, [model.inputs[0].name], [TARGET], rules=rules)
    found: Feeds = open_session(graph, threads=1, optimise=False).run(feeds)
    return found[f"gradient/t/{model.inputs[0].name}"]


def networks_of(operator: tuple[str, str], rows: Sequence[Row]) -> list[Network]:
    """A few networks around an operator, for the rows that ONNX Runtime runs in float32."""
    found: list[Network] = []
    for row in rows:
        if row.operator == operator and len(found) < MOST_NETWORKS:
            try:
                model = around(row)
                feeds = _feeds(model)
                found.append((model, feeds, _gradient(model, feeds, VJP)))
            except Exception:  # ONNX Runtime's exceptions share no base class
                continue
    return found


def judged(rows: Sequence[Row]) -> Iterator[Judged]:
    """Every mutant of every rule, on networks around its operator; a helper of several rules is broken once."""
    seen: set[str] = set()
    for operator, rule in sorted(VJP.items()):
        networks = networks_of(operator, rows)
        for mutant in mutants(rule) if networks else ():
            if mutant.place not in seen:
                yield judge(operator, mutant, networks)
            if mutant.place:
                seen.add(mutant.place)


def judged_among_kinks(cases: Sequence[Case]) -> Iterator[Judged]:
    """The mutants of results on ordinary networks, for every operator that a network has."""
    for case in cases:
        model = load(case.content)
        feeds = {"x": case.x}
        network = model, feeds, _gradient(model, feeds, VJP)
        for operator in sorted({(node.domain, node.op_type) for node in model.ir.graph} & VJP.keys()):
            for mutant in mutants(VJP[operator]):
                if not mutant.place:
                    found = judge(operator, mutant, [network])
                    yield replace(found, way=f"{found.way}, in network {case.name}")


@contextmanager
def quiet() -> Iterator[None]:
    """Discards what ONNX Runtime writes about mutants that do not run."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
