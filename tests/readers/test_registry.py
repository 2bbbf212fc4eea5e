"""The registry has a reader for every kind of examples, and loads none of them early."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature
from typing import get_args

from caveat_spec.audit import ExampleKind, Examples
from caveat_worker.readers.registry import READERS, reader_of

MEMBERS = {get_args(member)[1].tag: get_args(member)[0] for member in get_args(get_args(Examples)[0])}
SLOW = ("pandas", "pyarrow", "PIL", "tokenizers")


def test_every_member_of_the_union_has_a_reader() -> None:
    assert list(MEMBERS) == list(get_args(ExampleKind)) == list(READERS)
    for kind, declared in MEMBERS.items():
        assert next(iter(declared.SOURCES)) == kind
        parameters = signature(reader_of(kind)).parameters.values()
        required = [one for one in parameters if one.default is one.empty]
        assert len(required) == len(declared.SOURCES) + 2
        assert any(one.name == "lots" for one in parameters) == (kind != "images")


def test_the_registry_imports_no_reader() -> None:
    program = f"import sys, caveat_worker.readers.registry; print([n for n in {SLOW} if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_an_audit_loads_no_library_that_it_may_not_need() -> None:
    """What keeps a small audit by `caveat gate` quick: its pipeline waits for no library of one method alone."""
    slow = [
        "scipy.stats",
        "scipy.optimize",
        "pandas",
        "sklearn",
        "pyarrow",
        "sympy.core",
        "numpy.f2py.rules",
    ]
    program = f"import sys, caveat_worker.sharding; print([n for n in {slow} if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
