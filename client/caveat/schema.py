"""The JSON Schema of an audit file."""

from __future__ import annotations

import json

from caveat_spec.audit import Audit


def audit_schema() -> str:
    """JSON Schema 2020-12, as text."""
    schema = Audit.model_json_schema()
    heading = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A Caveat audit"}
    return json.dumps({**heading, **{key: item for key, item in schema.items() if key != "title"}}, indent=2)
