"""Console output: styled text and aligned tables on a terminal, plain lines elsewhere.

It does what the command needs of `rich`, which would be a third of what a client installs. Whatever is shown is one
line, without control characters, and no CI system finds a command in it: it may come from a model.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest
from typing import Any, TextIO

import click

from caveat_spec.sanitize import log_lines, one_line, without_command

STYLES: dict[str, dict[str, Any]] = {
    "bold": {"bold": True},
    "dim": {"dim": True},
    "green": {"fg": "green"},
    "yellow": {"fg": "yellow"},
    "bold red": {"fg": "red", "bold": True},
}
GAP = "  "
"""Between two columns of a table."""
NARROWEST = 8
"""The least width of a column when a table is squeezed."""
BAR_WIDTH = 40

Runs = list[tuple[str, str]]
"""Pieces of text, each with its style."""


def breadth(words: str) -> int:
    """The width of a text in columns: wide characters (UAX #11: CJK, most emoji) take two, combining ones none."""
    return sum(map(_breadth, words))


def _breadth(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


class Text:
    """Styled text on one line, without control characters."""

    def __init__(self, words: str, style: str = "") -> None:
        self.runs: Runs = [(one_line(words), style)]

    @classmethod
    def assemble(cls, *parts: str | tuple[str, str] | Text) -> Text:
        """Joins strings, strings with a style, and texts."""
        whole = cls("")
        for part in parts:
            match part:
                case str():
                    whole.runs.append((one_line(part), ""))
                case Text():
                    whole.runs.extend(part.runs)
                case (words, style):
                    whole.runs.append((one_line(words), style))
        return whole

    def __str__(self) -> str:
        return "".join(words for words, _ in self.runs)

    def styled(self, style: str) -> Text:
        """The same text, with `style` where it has none."""
        return Text.assemble(*((words, own or style) for words, own in self.runs))

    def broken(self, width: int) -> list[Text]:
        """Its lines, wrapped between words; a word wider than `width` is broken."""
        return [self._cut(begin, end) for begin, end in _spans(str(self), width)]

    def _cut(self, begin: int, end: int) -> Text:
        part, at = Text(""), 0
        for words, style in self.runs:
            part.runs.append((words[max(begin - at, 0) : max(end - at, 0)], style))
            at += len(words)
        return part


@dataclass(frozen=True)
class Table:
    """A table with an optional head; the columns whose numbers are in `right` are aligned to the right."""

    head: tuple[str, ...] = ()
    right: frozenset[int] = frozenset()
    rows: list[list[Text]] = field(default_factory=list)

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """Adds a row; `style` applies to cells without one."""
        self.rows.append([(Text(cell) if isinstance(cell, str) else cell).styled(style) for cell in cells])

    def lines(self, width: int) -> Iterator[Text]:
        """The table as lines: columns as wide as their content, as far as `width` allows."""
        head = [Text(title, "dim") for title in self.head]
        rows = [head, *self.rows] if head else self.rows
        wide = [max(breadth(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
        while sum(wide) + len(GAP) * (len(wide) - 1) > width and max(wide) > NARROWEST:
            wide[wide.index(max(wide))] -= 1
        for row in rows:
            broken = [cell.broken(columns) for cell, columns in zip(row, wide, strict=True)]
            for line in zip_longest(*broken, fillvalue=Text("")):
                yield self._aligned(line, wide)

    def _aligned(self, cells: tuple[Text, ...], wide: list[int]) -> Text:
        parts: list[str | Text] = []
        for number, (cell, columns) in enumerate(zip(cells, wide, strict=True)):
            pad = " " * (columns - breadth(str(cell)))
            parts += [GAP * bool(number), pad, cell] if number in self.right else [GAP * bool(number), cell, pad]
        return Text.assemble(*parts)


class Console:
    """A stream, and what can be shown on it; NO_COLOR and FORCE_COLOR are heeded."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.is_terminal = file.isatty() or bool(os.environ.get("FORCE_COLOR"))
        self._styled = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def width(self) -> int:
        """Columns of a line; where it is no terminal, lines are as long as they have to be."""
        return shutil.get_terminal_size().columns if self.is_terminal else sys.maxsize

    def print(self, shown: str | Text | Table, style: str = "") -> None:
        """Shows a text, broken between words where a terminal's line ends, or a table."""
        if isinstance(shown, Table):
            lines = list(shown.lines(self.width))
        else:
            text = (Text(shown) if isinstance(shown, str) else shown).styled(style)
            lines = text.broken(self.width) if self.is_terminal else [text]
        for line in lines:
            self._write(line)

    def _write(self, line: Text) -> None:
        words = str(line).rstrip()
        plain = without_command(words)
        if not self._styled or plain != words:
            click.echo(plain, file=self.file, color=False)
            return
        styled = (click.style(part, **STYLES[style]) if style and part else part for part, style in line.runs)
        click.echo("".join(styled).rstrip(), file=self.file, color=True)


class Bar:
    """A progress bar on one line of a terminal."""

    def __init__(self, console: Console) -> None:
        self._file, self._began = console.file, time.monotonic()

    def show(self, stage: str, share: float) -> None:
        """Draws the bar."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        full = int(BAR_WIDTH * min(max(share, 0.0), 1.0))
        self._draw(f"{one_line(stage):<10} {'━' * full}{' ' * (BAR_WIDTH - full)} {share:4.0%} {minutes}:{seconds:02}")

    def clear(self) -> None:
        """Erases the bar."""
        self._draw("")

    def _draw(self, line: str) -> None:
        room = shutil.get_terminal_size().columns - 1
        reached = accumulate(map(_breadth, line))
        fitting = "".join(character for character, end in zip(line, reached, strict=True) if end <= room)
        self._file.write(f"\r\x1b[K{fitting}")
        self._file.flush()


def _spans(words: str, width: int) -> Iterator[tuple[int, int]]:
    """Start and end of each wrapped line."""
    at = 0
    for paragraph in words.split("\n"):
        begin = end = 0
        for start, stop in _words(paragraph, width):
            if breadth(paragraph[begin:stop]) > width:
                if end > begin:
                    yield at + begin, at + end
                begin = start
            end = stop
        yield at + begin, at + end
        at += len(paragraph) + 1


def _words(paragraph: str, width: int) -> Iterator[tuple[int, int]]:
    """Start and end of each word, and of each part of a word wider than `width`."""
    for word in re.finditer(r"\S+", paragraph):
        begin, end = word.span()
        while breadth(paragraph[begin:end]) > width:
            reached = accumulate(map(_breadth, paragraph[begin:end]))
            part = max(sum(reach <= width for reach in reached), 1)
            yield begin, begin + part
            begin += part
        if begin < end:
            yield begin, end


def out() -> Console:
    """Standard output."""
    return Console(sys.stdout)


def err() -> Console:
    """Standard error."""
    return Console(sys.stderr)


def show_traceback(text: str) -> None:
    """A traceback, on standard error."""
    click.echo(log_lines(text), err=True)


def show_note(note: str) -> None:
    """Something worth knowing, on standard error."""
    err().print(Text(note, style="dim"))
