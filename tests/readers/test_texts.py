"""Texts in JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from caveat_spec.audit import Text
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.registry import open_examples

WORDS = ["[PAD]", "[UNK]", "he", "she", "is", "a", "doctor"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer"))
    (tmp_path / "text").write_text('{"text": "he is a doctor"}\n\n{"text": "she is a nurse and more"}\n')
    return tmp_path


def declared(**fields: object) -> Text:
    return Text.model_validate({"text": "text", "tokenizer": "tokenizer", "length": 5, **fields})


def test_texts_become_tokens_of_one_length(place: Path) -> None:
    source = open_examples(declared(), place.joinpath, 0)
    found = source.load([0, 1])
    assert found["input_ids"].tolist() == [[2, 4, 5, 6, 0], [3, 4, 5, 1, 1]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert found["token_type_ids"].tolist() == [[0] * 5, [0] * 5]
    assert source.names == ("line 1", "line 2")
    assert source.shapes["input_ids"] == (5,)


def test_the_model_s_inputs_may_be_called_otherwise(place: Path) -> None:
    assert set(open_examples(declared(inputs={"tokens": "ids"}), place.joinpath, 0).load([0])) == {"tokens"}


def test_decoders_take_the_positions_of_the_tokens(place: Path) -> None:
    source = open_examples(declared(inputs={"ids": "ids", "position_ids": "positions"}), place.joinpath, 0)
    assert source.load([0, 1])["position_ids"].tolist() == [[0, 1, 2, 3, 3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("", "no-texts", "no text"),
        ('{"text": "a"}\n{"body": "b"}', "missing-field", "Line 2 has no text in 'text'; it has: body"),
        ('{"text": "a"}\n["b"]', "missing-field", "Line 2"),
        ('{"text": "a"}\nplain', "not-json-lines", "Line 2 is not JSON"),
        ("[" * 100_000, "not-json-lines", "Line 1 is not JSON"),
        (json.dumps({"text": "a" * 200_000}), "text-too-large", "Line 1 has 200,000 characters"),
    ],
)
def test_what_is_no_text_is_refused(place: Path, text: str, code: str, sentence: str) -> None:
    (place / "text").write_text(text)
    with pytest.raises(InvalidInput, match=sentence) as caught:
        open_examples(declared(), place.joinpath, 0)
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"model": {"type": "BPE"}}', b"\xff\xfe"])
def test_what_is_no_tokenizer_is_refused(place: Path, data: bytes) -> None:
    (place / "tokenizer").write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        open_examples(declared(), place.joinpath, 0)
    assert caught.value.code == "not-a-tokenizer"


def test_text_that_is_not_utf8_is_refused(place: Path) -> None:
    (place / "text").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(InvalidInput, match="not UTF-8"):
        open_examples(declared(), place.joinpath, 0)
