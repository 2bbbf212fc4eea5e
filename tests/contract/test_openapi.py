"""The OpenAPI document is valid, committed as generated, and describes the routes that the application serves."""

from __future__ import annotations

import re

from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator

from caveat_spec import openapi


def test_the_document_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(openapi.document()).iter_errors()) == []


def test_the_committed_document_is_the_generated_one() -> None:
    assert openapi.main(["--check"]) == 0


def test_every_operation_is_served_and_nothing_else_is(app: Flask) -> None:
    served = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    promised = {(operation.method, operation.path) for operation in openapi.OPERATIONS}
    console = {"/", "/audits/{job_id}", "/audits/{job_id}/history", "/audits/{job_id}/report", "/compare", "/models"}
    console |= {"/examples", "/access", "/sign-in", "/sign-in/oidc", "/sign-in/oidc/callback"}
    console |= {"/studies", "/studies/{study_id}", "/studies/{study_id}/findings", "/studies/{study_id}/forms/{rater}"}
    pages = {("GET", path) for path in (*console, "/docs", "/docs/{name}", "/problems/{code}")}
    assert served - promised == {*pages, ("POST", "/sign-in"), ("POST", "/sign-out")}
    assert promised <= served


def test_a_source_is_a_digest_or_a_url_with_one_and_bounds_are_those_of_json_schema() -> None:
    schemas = openapi.document()["components"]["schemas"]
    digest, url = f"sha256:{'0' * 64}", f"https://models.example/a.onnx#sha256={'0' * 64}"
    assert all(re.search(schemas["Source"]["pattern"], source) for source in (digest, url))
    assert not any(re.search(schemas["Source"]["pattern"], source) for source in ("a.onnx", url[:-1], "file:///a"))
    assert schemas["Preprocess"]["properties"]["resize"]["anyOf"][0]["minimum"] == 1
    assert '"ge":' not in openapi.text()


def test_every_operation_answers_faults_with_a_problem() -> None:
    for path in openapi.document()["paths"].values():
        for operation in path.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
