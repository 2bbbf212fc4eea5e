"""The manual page says what the page about the command says, and nothing that changes from day to day."""

from __future__ import annotations

import re

import click

from caveat.cli import cli
from tests.client.test_docs import commands
from tools.manual import PAGE, manual

TEXT = PAGE.read_text(encoding="utf-8")


def test_it_is_made_of_the_page_about_the_command() -> None:
    assert manual() == TEXT, "run `.venv/bin/python tools/manual.py`"


def test_it_has_every_command_and_every_exit_code() -> None:
    assert isinstance(cli, click.Group)
    for command in commands(cli):
        assert f"$ caveat {' '.join(command)} --help".replace("-", r"\-") in TEXT
    assert re.search(r"^\.SH EXIT CODES$", TEXT, re.MULTILINE)


def test_it_has_no_date_and_no_empty_link() -> None:
    (title,) = re.findall(r"^\.TH .*$", TEXT, re.MULTILINE)
    assert title == '.TH "CAVEAT" "1" "" "Caveat" "Caveat"'
    assert "<>" not in TEXT
