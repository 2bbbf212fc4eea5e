"""Audits whose sources are URLs: what the API accepts, what it refuses at once, and in which queue they wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api import api
from tests.worker.live import MODEL, TABLE, audit, digest

END = f"#sha256={digest(MODEL).partition(':')[2]}"
ALLOWED = {"source_allow": "https://models.example/onnx/"}


def submitted(folder: Path, source: str, *, upload: bool = False, **settings: Any) -> Any:
    """The answer to an audit whose model is `source`; its table is uploaded, the model only with `upload`."""
    with api(folder, **settings) as app:
        client = app.test_client()
        for data in (TABLE, MODEL) if upload else (TABLE,):
            assert client.put(f"/v1/blobs/{digest(data)}", data=data).status_code == 201
        return client.post("/v1/audits", json=audit() | {"model": source})


def test_a_url_that_is_allowed_is_accepted_as_it_is(tmp_path: Path) -> None:
    source = f"https://models.example/onnx/a.onnx{END}"
    answer = submitted(tmp_path, source, **ALLOWED)
    assert (answer.status_code, answer.json["audit"]["model"]) == (202, source)


@pytest.mark.parametrize(
    ("source", "settings", "word"),
    [
        (f"https://models.example/onnx/a.onnx{END}", {}, "fetches no URLs (CAVEAT_SOURCE_ALLOW is empty)"),
        (f"https://models.example/other/a.onnx{END}", ALLOWED, "does not fetch from there"),
        (f"https://models.example/onnx/a.onnx?key=x{END}", ALLOWED, "must not hold a query"),
        (f"models:/detector/1{END}", ALLOWED, "begins with https://"),
        ("https://models.example/onnx/a.onnx", ALLOWED, "ends in '#sha256='"),
        ("https://models.example/onnx/a.onnx#sha256=12", ALLOWED, "ends in '#sha256='"),
    ],
)
def test_other_urls_are_refused_with_their_place(
    tmp_path: Path, source: str, settings: dict[str, str], word: str
) -> None:
    answer = submitted(tmp_path, source, **settings)
    assert (answer.status_code, answer.json["type"]) == (422, "urn:caveat:problem:source-not-allowed")
    (fault,) = answer.json["errors"]
    assert fault["pointer"] == "/model"
    assert word in fault["detail"]


@pytest.mark.parametrize(("upload", "queue"), [(True, "default"), (False, "large")])
def test_a_model_that_is_still_to_be_fetched_counts_as_large(tmp_path: Path, upload: bool, queue: str) -> None:
    source = f"https://models.example/onnx/a.onnx{END}"
    answer = submitted(tmp_path, source, upload=upload, large_model_bytes=1000, **ALLOWED)
    assert answer.json["queue"] == queue
