from __future__ import annotations

import pytest

from caveat_reports import formatting
from caveat_reports.pages import prose


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (1.49, "1.49"),
        (1.5, "1.5"),
        (2.0, "2"),
        (1490.4, "1490"),
        (-0.0700001, "−0.07"),
        (0.000312, "0.000312"),
        (4.4e-12, "4.4e−12"),
        (0.9999, "1"),
    ],
)
def test_plain_says_no_more_than_three_digits(value: float, words: str) -> None:
    assert formatting.plain(value) == words


def test_signs_are_seen() -> None:
    assert [formatting.signed(value) for value in (1.2, -1.2, 0)] == ["+1.2", "−1.2", "0"]
    assert [formatting.signed_fixed(value) for value in (1.2, -1.2, -0.001)] == ["+1.20", "−1.20", "0.00"]


@pytest.mark.parametrize(
    ("p", "words"), [(0.002, "0.002"), (1.0, "1"), (0.0183, "0.018"), (1e-30, "< 0.0001"), (0.0, "< 0.0001")]
)
def test_p_is_never_rounded_to_zero(p: float, words: str) -> None:
    assert formatting.p_value(p) == words


def test_parts_of_a_whole() -> None:
    assert formatting.of(1, 1, "line") == "the one line"
    assert formatting.of(3, 3, "line") == "all 3 lines"
    assert formatting.of(1, 1200, "line") == "1 of 1,200 lines"


def test_a_path_is_not_shortened_as_a_digest_is() -> None:
    assert formatting.short_digest("sha256:" + "ab" * 32) == "abababababab"
    assert formatting.short_digest("models/a.onnx") == "models/a.onnx"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Name it in `pairs_with`.", "Name it in <code>pairs_with</code>."),
        ("`a` or `b<i>`", "<code>a</code> or <code>b&lt;i&gt;</code>"),
        ("an odd ` stays", "an odd ` stays"),
        ("plain & simple", "plain &amp; simple"),
    ],
)
def test_words_between_backticks_are_code_on_a_page(said: str, shown: str) -> None:
    assert prose(said) == shown
