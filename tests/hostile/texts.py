"""Files that are no texts, and tokenizers that never end."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.hostile.case import ACCEPTED, Cases, Job, examples

CASES = Cases()
LINES = b'{"text": "he is a doctor"}\n{"text": "she is one too"}\n'
TOKENIZER = ("not-a-tokenizer", "tokenizer-fails")


@cache
def plain() -> dict[str, Any]:
    """A valid tokenizer."""
    words = ["[PAD]", "[UNK]", "he", "she", "is", "a", "doctor"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    whole: dict[str, Any] = json.loads(tokenizer.to_str())
    return whole


def tokenizer() -> bytes:
    """The valid tokenizer as a file."""
    return json.dumps(plain()).encode()


def texts(lines: bytes = LINES, tokenizer: bytes | dict[str, Any] | None = None, **declared: Any) -> Job:
    document = tokenizer if isinstance(tokenizer, bytes) else json.dumps(plain() | (tokenizer or {})).encode()
    return examples({"length": 8, **declared}, text=lines, tokenizer=document)


def line(text: str, many: int = 1) -> bytes:
    return (json.dumps({"text": text}) + "\n").encode() * many


@CASES.add(
    "not-json-lines",
    "missing-field",
    "not-text",
    "no-texts",
    of=[
        b"",
        b"\n\n\n",
        b"plain",
        b"[",
        b"{",
        b"null",
        b"1",
        b'"a"',
        b"[1]",
        b"{}",
        b'{"text": null}',
        b'{"text": 1}',
        b'{"text": ["a"]}',
        b'{"body": "a"}',
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"\xff\xfe\0",
        b"\xef\xbb\xbf{",
        b'{"text": "a"',
        b"{'text': 'a'}",
        b"1" * 10_000,
        b'{"text": "\\x"}',
        LINES + b"\0",
    ],
)
def lines_that_are_none(data: bytes) -> Job:
    return texts(data)


@CASES.add(
    ACCEPTED,
    "not-text",
    of=[
        "\0",
        "\u202e",
        "\U0001f600" * 50,
        "\U0010ffff",
        "<script>",
        "a" * 99_000,
        "",
        " " * 99_000,
        "\n\r\t",
        "\u0301" * 5000,
        "\ufdfa" * 5000,
    ],
)
def an_odd_text(text: str) -> Job:
    return texts(line(text))


@CASES.add("not-json-lines", "not-text", "not-a-table", of=[b"[\x01\0\0\xff\0\r\xff\0", b"a\rtext,b", b'"text'])
def a_first_line_that_is_no_header(data: bytes) -> Job:
    return texts(data)


@CASES.add("not-text", of=[b'{"text": "\\ud800"}', b'{"text": "\\udfff\\ud800"}'])
def half_a_character(data: bytes) -> Job:
    return texts(data)


@CASES.add("not-json-lines", "missing-field", ACCEPTED)
def a_field_that_stands_twice() -> Job:
    return texts(b'{"text": "a", "text": "b"}')


@CASES.add("text-too-large")
def a_text_too_long() -> Job:
    return texts(line("a " * 60_000))


@CASES.add("text-too-large", heavy=True)
def texts_too_many() -> Job:
    return texts(line("a " * 1000, 140_000))


@CASES.add("text-too-large", heavy=True)
def millions_of_texts() -> Job:
    return texts(line("", 5_000_000))


@CASES.add(
    *TOKENIZER,
    of=[
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"PK\x03\x04",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x80\x04.",
        b'{"version": "9"}',
    ],
)
def no_tokenizer_at_all(data: bytes) -> Job:
    return texts(tokenizer=data)


@CASES.add(
    *TOKENIZER,
    of=[
        None,
        {"type": "Nothing"},
        {"type": "WordLevel"},
        {"type": "WordLevel", "vocab": [], "unk_token": "[UNK]"},
        {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"},
        {"type": "WordLevel", "vocab": {"a": 2**40}, "unk_token": "a"},
        {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]},
        {"type": "BPE", "vocab": {}, "merges": [["x", "y"]]},
        {"type": "Unigram", "vocab": [], "unk_id": 5},
        {"type": "Unigram", "vocab": [["a", float("nan")]], "unk_id": 0},
        {
            "type": "WordPiece",
            "vocab": {},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": -1,
        },
    ],
)
def a_model_that_is_none(model: Any) -> Job:
    return texts(tokenizer={"model": model})


@CASES.add(*TOKENIZER)
def a_vocabulary_without_the_unknown() -> Job:
    return texts(tokenizer={"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}})


@CASES.add(ACCEPTED)
def ids_without_end() -> Job:
    return texts(tokenizer={"model": {"type": "WordLevel", "vocab": {"[UNK]": 2**32 - 1}, "unk_token": "[UNK]"}})


@CASES.add(*TOKENIZER, ACCEPTED)
def an_empty_vocabulary() -> Job:
    vocab: dict[str, int] = {}
    return texts(tokenizer={"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": []})


def replacing(pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x" * 10}


@CASES.add(
    *TOKENIZER, "out-of-time", ACCEPTED, of=["(", "[", "(?P<", "a{99999999}", "(?<=a*)b", "\\", "(a" * 5000, "(?R)"]
)
def a_pattern_that_is_none(pattern: str) -> Job:
    return texts(tokenizer={"normalizer": replacing(pattern)})


@CASES.add(
    *TOKENIZER,
    "out-of-time",
    ACCEPTED,
    heavy=True,
    of=["(a+)+$", "(a|a)*b", "(.*)*x", "(a*)*\\1b", "((a{1,9}){1,9}){1,9}b"],
)
def a_pattern_that_never_ends(pattern: str) -> Job:
    return texts(line("a" * 50_000), {"normalizer": replacing(pattern)})


@CASES.add(*TOKENIZER, "out-of-time", ACCEPTED, heavy=True)
def a_split_that_never_ends() -> Job:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    return texts(line("a" * 50_000 + "b"), {"pre_tokenizer": split})


@CASES.add("out-of-memory", "child-crashed", heavy=True)
def a_normalizer_that_bursts() -> Job:
    steps = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 10
    return texts(line("a"), {"normalizer": {"type": "Sequence", "normalizers": steps}})


@CASES.add(*TOKENIZER, ACCEPTED, of=[20, 1000, 50_000])
def sequences_within_sequences(depth: int) -> Job:
    inner = '{"type":"Sequence","normalizers":[' * depth + "]}" * depth
    return texts(tokenizer=json.dumps(plain()).replace('"normalizer": null', f'"normalizer": {inner}').encode())


@CASES.add(ACCEPTED, *TOKENIZER, of=[2**32, -1, 2**63, 2**31])
def a_padding_past_all_counting(number: int) -> Job:
    padding = {
        "strategy": {"Fixed": number},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": number,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    return texts(tokenizer={"padding": padding})


@CASES.add(ACCEPTED, *TOKENIZER, of=[0, 2**62])
def a_truncation_of_its_own(length: int) -> Job:
    settings = {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 2**40}
    return texts(tokenizer={"truncation": settings})


@CASES.add(*TOKENIZER, ACCEPTED, of=["[SEP]", "$A:999999999999", "$Z"])
def a_template_that_lies(item: str) -> Job:
    single = [{"SpecialToken": {"id": item, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 2**31}}]
    settings = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {}}
    return texts(tokenizer={"post_processor": settings})


@CASES.add(*TOKENIZER, ACCEPTED)
def a_template_longer_than_the_text_may_be() -> Job:
    special = {"[CLS]": {"id": "[CLS]", "ids": [1] * 100, "tokens": ["[UNK]"] * 100}}
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    settings = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    return texts(tokenizer={"post_processor": settings})


@CASES.add(ACCEPTED, *TOKENIZER, "out-of-time", heavy=True)
def a_million_words() -> Job:
    vocab = {f"w{i}": i for i in range(10**6)} | {"[UNK]": 10**6}
    return texts(tokenizer={"model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}})


@CASES.add("tokenizer-too-large", heavy=True)
def words_without_end() -> Job:
    return texts(tokenizer=json.dumps(plain()).encode() + b" " * (65 << 20))


@CASES.add(*TOKENIZER, ACCEPTED, heavy=True)
def a_hundred_thousand_added_tokens() -> Job:
    settings = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return texts(tokenizer={"added_tokens": [{"id": 7 + i, "content": f"w{i}", **settings} for i in range(100_000)]})


@CASES.add(*TOKENIZER, ACCEPTED, of=range(16))
def a_tokenizer_with_flipped_bits(seed: int) -> Job:
    rng = np.random.default_rng(seed)
    data = bytearray(json.dumps(plain()).encode())
    for position in rng.integers(0, len(data), 1 + seed % 3):
        data[position] ^= 1 << int(rng.integers(7))
    return texts(tokenizer=bytes(data))
