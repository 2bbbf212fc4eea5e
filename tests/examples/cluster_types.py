"""Documents against the types that Argo Workflows and KServe publish for Python, which are made of their own schemas.

Neither package has a schema as JSON. Hera has Argo's types, and those of Kubernetes, as models of pydantic that ignore
fields which they do not know; what they keep is compared with what they were given. KServe's distribution has a table
of fields and types for each kind, which is read as text: to import it would take fifty further packages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from tests.needed import package

PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def faults_of_argo(document: Any, kind: str) -> list[str]:
    """What is wrong with a document of a kind of Argo Workflows."""
    return list(_faults_of_model(getattr(import_module("hera.workflows.models"), kind), document, "", "Argo"))


def faults_of_kserve(document: Any, kind: str) -> list[str]:
    """What is wrong with a document of one of KServe's kinds."""
    return list(_faults(document, kind, ""))


def _faults_of_model(model: Any, document: Any, path: str, owner: str) -> Iterator[str]:
    try:
        kept = model.model_validate(document).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        yield from (f"{path}/{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return
    yield from _lost(document, kept, path, owner)


def _lost(given: Any, kept: Any, path: str, owner: str) -> Iterator[str]:
    """Fields that a model did not keep."""
    if isinstance(given, dict):
        for name, value in given.items():
            if name not in kept:
                yield f"{path}/{name}: {owner} has no such field"
            else:
                yield from _lost(value, kept[name], f"{path}/{name}", owner)
    elif isinstance(given, list):
        for position, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}/{position}", owner)


def _faults(document: Any, kind: str, path: str) -> Iterator[str]:
    if kind in PLAIN:
        if not isinstance(document, PLAIN[kind]):  # type: ignore[arg-type]
            yield f"{path}: {document!r} is no {kind}"
    elif found := re.fullmatch(r"list\[(.*)]", kind):
        for position, one in enumerate(document):
            yield from _faults(one, found[1], f"{path}/{position}")
    elif found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        for name, one in document.items():
            yield from _faults(one, found[1], f"{path}/{name}")
    elif re.match(r"V1[A-Z]", kind):
        yield from _faults_of_model(_of_kubernetes(kind.removeprefix("V1")), document, path, "Kubernetes")
    else:
        types = _fields_of_kserve(kind)
        for name, one in document.items():
            if name in types:
                yield from _faults(one, types[name], f"{path}/{name}")
            else:
                yield f"{path}/{name}: KServe has no such field"


def _of_kubernetes(name: str) -> Any:
    """Hera's model of a type of Kubernetes."""
    core, meta = (
        import_module(f"hera.workflows.models.io.k8s.{where}")
        for where in ("api.core.v1", "apimachinery.pkg.apis.meta.v1")
    )
    return getattr(core, name, None) or getattr(meta, name)


@cache
def _fields_of_kserve(kind: str) -> dict[str, str]:
    """The type of each field of a kind, by its name in YAML."""
    file = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    source = package("kserve", "test").locate_file(f"kserve/models/{file}.py").read_text()  # type: ignore[attr-defined]
    (model,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
    }
    return {tables["attribute_map"][name]: type_ for name, type_ in tables["openapi_types"].items()}
