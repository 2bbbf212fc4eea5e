"""Words and tables fit the screen, and nothing of them is lost."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caveat.console_output import BAR_WIDTH, Bar, Console, Table, Text, breadth

WORDS = st.text(st.sampled_from("ab→模\u0301 \n"), max_size=60)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.lists(st.tuples(WORDS, st.sampled_from(["", "dim"]))), st.integers(1, 30))
def test_a_text_breaks_between_words_and_loses_none(runs: list[tuple[str, str]], width: int) -> None:
    text = Text.assemble(*runs)
    lines = [str(line) for line in text.broken(width)]
    assert all(breadth(line) <= max(width, 2) for line in lines)
    assert "".join(lines).replace(" ", "") == str(text).replace(" ", "").replace("\n", "")
    if not any(breadth(word) > width for word in str(text).split()):
        assert " ".join(lines).split() == str(text).split()


def test_styles_stay_with_their_words() -> None:
    text = Text.assemble(("red words", "bold red"), " and plain ones").styled("dim")
    first, second = text.broken(13)
    assert [run for run in first.runs if run[0]] == [("red words", "bold red"), (" and", "dim")]
    assert [run for run in second.runs if run[0]] == [("plain ones", "dim")]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4), st.integers(32, 80))
def test_a_table_fits_and_loses_nothing(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Table(("one", "two", "three"), right=frozenset({1}))
    for row in rows:
        table.add_row(*(" ".join(cell.split()) for cell in row))
    lines = [str(line) for line in table.lines(width)]
    assert all(breadth(line) <= width for line in lines)
    kept = sorted(re.sub(r"\s", "", "".join(lines)))
    assert kept == sorted(re.sub(r"\s", "", "onetwothree" + "".join(map("".join, rows))))


def test_columns_stand_below_their_heads() -> None:
    table = Table(("figure", "change"), right=frozenset({1}))
    table.add_row("effect", "+1.5")
    table.add_row("a longer one", "−12.25")
    assert [str(line).rstrip() for line in table.lines(80)] == [
        "figure        change",
        "effect          +1.5",
        "a longer one  −12.25",
    ]


def test_wide_characters_do_not_push_the_columns_behind_them() -> None:
    table = Table(("concept", "change"), right=frozenset({1}))
    for name in ("水印", "cafe\u0301", "縞模様 🦓", "ｗide", "plain"):
        table.add_row(name, "+1.5")
    head, *lines = [str(line) for line in table.lines(80)]
    assert {breadth(line) for line in (head, *lines)} == {len("ninewide.  change")}
    assert all(line.endswith("   +1.5") for line in lines)


@pytest.mark.parametrize(
    ("words", "columns"), [("水印", 4), ("e\u0301", 1), ("🦓", 2), ("ｱ", 1), ("→ ±−×", 5), ("👩\u200d🔬", 4), ("", 0)]
)
def test_how_many_columns_words_take(words: str, columns: int) -> None:
    assert breadth(words) == columns


def test_a_log_gets_a_line_however_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    log, terminal = io.StringIO(), Terminal()
    for file in (log, terminal):
        Console(file).print("a sentence that is longer than the screen", style="dim")
    assert log.getvalue() == "a sentence that is longer than the screen\n"
    assert terminal.getvalue().count("\n") == 3


def test_a_terminal_that_knows_no_styles_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    Console(terminal).print(Text("words", "bold"))
    assert terminal.getvalue() == "words\n"


def test_a_bar_fills_and_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    bar = Bar(Console(terminal := Terminal()))
    bar.show("collecting", 0.5)
    bar.show("testing", 1.0)
    bar.clear()
    drawn = terminal.getvalue().split("\r\x1b[K")
    assert [line.count("━") for line in drawn] == [0, BAR_WIDTH // 2, BAR_WIDTH, 0]
    assert re.fullmatch(r"collecting ━+ +50% 0:0\d", drawn[1])
    assert drawn[-1] == ""
