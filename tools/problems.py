"""Lists every kind of problem that the sources can raise: `python tools/problems.py`; `--check` only compares.

Writes `api_spec/caveat_spec/problem_codes.json`, from which the service's `/problems/<code>` and the command
`caveat explain-error` are made: for each code its statuses, and each sentence with its remedy. `…` stands for what is
filled in when it happens.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("api_spec", "storage", "reports", "service", "worker", "client")
PAGE = ROOT / "api_spec" / "caveat_spec" / "problem_codes.json"
GAP = "…"
Texts = dict[str, list[str]]
"""What names stand for."""


def main(arguments: list[str]) -> int:
    """Writes the list, or says that it is out of date."""
    text = json.dumps(listed(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if "--check" not in arguments:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print(f"{PAGE.name} is not what the sources say: run `.venv/bin/python tools/problems.py`.", file=sys.stderr)
        return 1
    return 0


def listed() -> dict[str, dict[str, list[object]]]:
    """Code → its statuses, and its sentences with their remedies, in the order of the sources."""
    found: dict[str, dict[str, list[object]]] = defaultdict(lambda: {"statuses": [], "said": []})
    constants: Texts = {}
    calls: list[tuple[ast.Call, Texts]] = []
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        module = ast.parse(path.read_text())
        nodes = list(ast.walk(module))
        constants |= _constants(module)
        parameters = _parameters(nodes, constants)
        calls += [(node, parameters) for node in nodes if isinstance(node, ast.Call) and _makes_problem(node)]
    for call, parameters in calls:
        for code, status, detail, remedy in _raised(call, constants | parameters):
            entry = found[code]
            said = [detail, remedy]
            entry["said"] += [said] if said not in entry["said"] and detail.strip(GAP) else []
            entry["statuses"] += [status] if status is not None and status not in entry["statuses"] else []
    return {code: {"statuses": sorted(one["statuses"]), "said": one["said"]} for code, one in found.items()}  # type: ignore[type-var]


def _constants(module: ast.Module) -> Texts:
    """The texts that a module's constants are, and that its types allow."""
    return {
        target.id: texts
        for line in module.body
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None
        for target in (line.targets if isinstance(line, ast.Assign) else [line.target])
        if isinstance(target, ast.Name) and (texts := _codes(line.value, {}))
    }


def _parameters(nodes: list[ast.AST], types: Texts) -> Texts:
    """The texts that parameters may be whose types say so."""
    return {
        node.arg: texts
        for node in nodes
        if isinstance(node, ast.arg) and node.annotation is not None and (texts := _codes(node.annotation, types))
    }


def _makes_problem(call: ast.Call) -> bool:
    """Whether a call has a code, and a sentence for it."""
    called = ast.unparse(call.func)
    makes = called.rpartition(".")[2] in ("refuse", "problem", "InvalidInput") or called.endswith("ProblemDetails.of")
    return makes and len(call.args) >= 3


def _raised(call: ast.Call, known: Texts) -> Iterator[tuple[str, int | None, str, str]]:
    """Code, status, sentence and remedy of a call that makes a problem."""
    code, *rest = call.args
    status = 422 if ast.unparse(call.func).endswith("InvalidInput") else _number(rest.pop(0))
    for one in _codes(code, known):
        yield one, status, _words(rest[0], known), _words(rest[1], known) if len(rest) > 1 else ""


def _codes(node: ast.expr, known: Texts) -> list[str]:
    """The codes that an expression can be; none where that is not written out."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Name(id=name):
            return known.get(name, [])
        case ast.IfExp(body=one, orelse=other):
            return _codes(one, known) + _codes(other, known)
        case ast.JoinedStr(values=parts):
            return ["".join(texts) for texts in product(*(_codes(part, known) for part in parts))]
        case ast.FormattedValue(value=value):
            return _codes(value, known)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=values)):
            return [text for value in values for text in _codes(value, known)]
    return []


def _number(node: ast.expr) -> int | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, int) else None


def _words(node: ast.expr, known: Texts) -> str:
    """Text as it is written, with a gap for each value but a module's constant."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) if name.isupper() and len(known.get(name, [])) == 1:
            return known[name][0]
        case ast.JoinedStr(values=parts):
            return "".join(_words(part, known) for part in parts)
        case ast.FormattedValue(value=ast.Name() as value):
            return _words(value, known)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _words(left, known) + _words(right, known)
    return GAP


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
