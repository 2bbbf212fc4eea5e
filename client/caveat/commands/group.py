"""Groups of commands: errors become exit codes, and a command is imported when it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from itertools import chain
from typing import Any

import click


class Commands(click.Group):
    """A group of commands that prints a `ProblemError` and turns it into an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from caveat.problems import ProblemError  # not before: a command starts the engine first of all

            if not isinstance(error, ProblemError):
                raise
            from caveat.terminal import show_problem

            show_problem(error)
            ctx.exit(error.exit_code)


class Sections(Commands):
    """A group whose commands are listed by what they are for."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        """Sections are headings → names of commands; `audit-log` is `audit_log` in `caveat.commands.audit_log`."""
        super().__init__(*args, **kwargs)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, by section."""
        return list(chain.from_iterable(self.sections.values()))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"caveat.commands.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds a command, or says which one was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean `{ctx.command_path} {near[0]}`?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a list of commands for each section."""
        names = self.list_commands(ctx)
        width = max(map(len, names))
        limit = formatter.width - 6 - width
        for heading, some in self.sections.items():
            commands = [(name, self.get_command(ctx, name)) for name in some]
            with formatter.section(heading):
                formatter.write_dl(
                    [(name.ljust(width), one.get_short_help_str(limit)) for name, one in commands if one is not None]
                )
