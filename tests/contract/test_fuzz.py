"""schemathesis asks the API what nobody would, and looks whether every answer is one that was promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from api_spec import openapi
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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The API as it answers outside of tests: a fault of its own is a 500, which is a finding."""
    with api(tmp_path_factory.mktemp("fuzz"), longest_wait=1) as app:
        app.testing = False
        yield app


@schema.parametrize()
@settings(max_examples=8, **QUICK)
def test_every_answer_was_promised(case: schemathesis.Case, served: Flask) -> None:
    case.validate_response(case.call(app=served), checks=CHECKS)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=300, **QUICK)
def test_every_answer_was_promised_at_length(case: schemathesis.Case, served: Flask) -> None:
    case.validate_response(case.call(app=served), checks=CHECKS)
