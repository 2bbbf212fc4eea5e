"""Schemas describe fields by the docstrings under them, which nothing reads before a schema is asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from caveat_spec.attribute_docs import field_docs
from caveat_spec.base import Document


class Base(Document):
    """A document with fields of every kind."""

    plain: int = 0
    """A number of
    two lines."""
    bare: int = 0
    said: Annotated[int, Field(description="Said in the field.")] = 0
    """Said under the field."""
    named: int = Field(0, alias="as")
    """Has another name in JSON."""
    inherited: int = 0
    """Of the base."""
    redeclared: int = 0
    """Of the base, and lost."""

    class Inner(Document):
        """A class in a class."""

        deep: int = 0
        """Inside."""

    inner: Inner = Inner()
    """A document."""


class Derived(Base):
    """A document that declares a field again."""

    redeclared: int = 1
    own: int = 0
    """Of the derived."""


def descriptions(model: type[Document]) -> dict[str, str | None]:
    """Property → its description in the schema."""
    return {name: one.get("description") for name, one in model.model_json_schema()["properties"].items()}


def test_each_field_is_described_by_its_own_docstring() -> None:
    assert descriptions(Base) == {
        "plain": "A number of\ntwo lines.",
        "bare": None,
        "said": "Said in the field.",
        "as": "Has another name in JSON.",
        "inherited": "Of the base.",
        "redeclared": "Of the base, and lost.",
        "inner": "A document.",
    }
    assert descriptions(Base.Inner) == {"deep": "Inside."}


def test_a_field_that_is_declared_again_loses_the_docstring_of_the_base() -> None:
    assert field_docs(Derived)["own"] == "Of the derived."
    assert field_docs(Derived)["inherited"] == "Of the base."
    assert "redeclared" not in field_docs(Derived)


def test_importing_a_model_reads_no_source() -> None:
    assert not Document.model_config.get("use_attribute_docstrings")
    assert Base.model_fields["plain"].description is None
