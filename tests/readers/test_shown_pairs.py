"""What differs between two texts, in words, by any of three ways in which tokenizers divide them."""

from __future__ import annotations

import pytest

from caveat_worker.readers.shown_pairs import _words
from caveat_worker.readers.source import ExampleSource


def text(tokens: str) -> ExampleSource:
    """A set of one text that is divided into these tokens, with a space between them here."""
    return ExampleSource("text", ("line 1",), {}, load=lambda _: {}, parts=lambda _: {"ids": tokens.split()})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("he sold the pi ##ano", "he sold the gui ##tar", id="WordPiece"),
        pytest.param("▁he ▁sold ▁the ▁pi ano", "▁he ▁sold ▁the ▁gui tar", id="SentencePiece"),
        pytest.param("he Ġsold Ġthe Ġpi ano", "he Ġsold Ġthe Ġgui tar", id="bytes"),
    ],
)
def test_pieces_of_a_word_are_put_together(before: str, after: str) -> None:
    (difference,) = _words(text(before), 0, text(after), 0)
    assert (difference.what, difference.without, difference.with_concept) == ("after “sold the”", "piano", "guitar")
