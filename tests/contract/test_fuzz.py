"""schemathesis sends unusual requests to the API and checks that the contract permits every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy, nothing
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.errors import InvalidSchema
from schemathesis.generation.jsonschema import strategy
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from caveat_spec import openapi
from tests.api import api

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    unsupported_method,
]
QUICK: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}


schema = schemathesis.openapi.from_dict(openapi.document())
REPEATED = strategy._repeated


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The API as outside of tests: an internal error is answered with 500, which is a finding."""
    with api(tmp_path_factory.mktemp("fuzz"), longest_wait=1) as app, pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy, "_repeated", _repeated_or_nothing)
        app.testing = False
        yield app


def _repeated_or_nothing(*arguments: Any, **named: Any) -> SearchStrategy[Any]:
    """Makes schemathesis skip schemas, broken on purpose, whose arrays cannot be filled, as it intends to.

    It asks whether the elements' strategy is empty, and hypothesis sees that only once the array's is built.
    """
    try:
        return REPEATED(*arguments, **named)
    except InvalidSchema:
        return nothing()


@schema.parametrize()
@settings(max_examples=8, **QUICK)
def test_every_answer_was_promised(case: schemathesis.Case, served: Flask) -> None:
    case.validate_response(case.call(app=served), checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=300, **QUICK)
def test_every_answer_was_promised_at_length(case: schemathesis.Case, served: Flask) -> None:
    case.validate_response(case.call(app=served), checks=CHECKS)


def test_a_broken_schema_that_nothing_fits_is_passed_over(served: Flask) -> None:
    """The seed makes schemathesis fail by itself; once it is fixed, `_repeated_or_nothing` can be removed."""
    drawn = 0

    @seed(3)
    @settings(max_examples=40, database=None, **QUICK)
    @given(schema["/v1/audits"]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def draw(case: schemathesis.Case) -> None:
        nonlocal drawn
        drawn += 1

    draw()
    assert drawn > 20
