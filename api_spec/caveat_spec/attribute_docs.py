"""Descriptions of fields in a JSON Schema: the docstring under each field, read where a schema is asked for.

Pydantic's own `use_attribute_docstrings` reads sources whenever a model is imported, which takes as long as everything
else in the contract together; a process that audits never asks for a schema.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class DescribedModel(BaseModel):
    """A model whose schema describes each field with the docstring under it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        """The JSON Schema of the model, with the description of each field that has no other."""
        found = handler(schema)
        properties = handler.resolve_ref_schema(found).get("properties", {})
        for field, text in field_docs(cls).items():
            info = cls.model_fields[field]
            for name in {field, info.alias, info.validation_alias, info.serialization_alias} & properties.keys():
                properties[name].setdefault("description", text)
        return found


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Field → its docstring; a field that a subclass declares again has that subclass's, or none."""
    docs: dict[str, str | None] = {}
    for kind in reversed(model.__mro__):
        own = _docs_in(kind.__module__).get(kind.__qualname__, {}) if issubclass(kind, DescribedModel) else {}
        docs |= {name: own.get(name) for name in inspect.get_annotations(kind)}
    return {name: text for name, text in docs.items() if text is not None and name in model.model_fields}


@cache
def _docs_in(module: str) -> dict[str, dict[str, str]]:
    """Class → attribute → docstring, for all classes of a module."""
    return dict(_classes(ast.parse(inspect.getsource(import_module(module))), ""))


def _classes(tree: Any, within: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The qualified name of each class in some code, and the docstrings of its attributes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            name = f"{within}{node.name}"
            yield name, dict(_docstrings(node))
            yield from _classes(node, f"{name}.")


def _docstrings(kind: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Each attribute of a class that a string follows, with that string."""
    for node, after in zip(kind.body, kind.body[1:], strict=False):
        match node, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
