"""A fault points at what is wrong in the document, whatever pydantic calls the alternatives on the way."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from caveat_spec.audit import Audit
from caveat_spec.problem import faults_of
from tests.api_spec.handmade import AUDIT


def pointers(path: str, value: Any) -> set[str]:
    """Where the faults are, once the audit has `value` at `path`."""
    document: Any = copy.deepcopy(AUDIT)
    *parents, last = path.split("/")
    here = document
    for parent in parents:
        here = here[parent]
    here[last] = value
    with pytest.raises(ValidationError) as caught:
        Audit.model_validate_json(json.dumps(document), strict=True)
    return {fault.pointer for fault in faults_of(caught.value, document)}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("examples/photos/preprocess/mean", "x", {"/examples/photos/preprocess/mean"}),
        (
            "examples/photos/preprocess/mean",
            [1, "x", 2],
            {"/examples/photos/preprocess/mean", "/examples/photos/preprocess/mean/1"},
        ),
        ("examples/photos/preprocess/sise", 8, {"/examples/photos/preprocess/sise"}),
        ("examples/photos/preprocess", {}, {"/examples/photos/preprocess/size"}),
        ("examples/photos", {"images": "x", "a/b~": 1}, {"/examples/photos/preprocess", "/examples/photos/a~1b~0"}),
        ("concepts/mark/against", 5, {"/concepts/mark/against"}),
        ("concepts/mark/against", ["photos", "!"], {"/concepts/mark/against", "/concepts/mark/against/1"}),
        ("layers", [3], {"/layers", "/layers/0"}),
        ("layers", [{"tensor": ""}], {"/layers", "/layers/0/tensor"}),
        ("gate", [{"concept": "mark"}], {"/gate/0/target", "/gate/0/must"}),
        ("gate", [{"concept": "mark", "target": "carton", "must": "x"}], {"/gate/0/must"}),
        ("gate", [{"concept": 5, "target": "carton", "must": "matter"}], {"/gate/0/concept"}),
        ("model", "", {"/model"}),
    ],
)
def test_a_fault_points_into_the_document(path: str, value: Any, expected: set[str]) -> None:
    assert pointers(path, value) == expected
