"""The command line: which commands there are, and how they end."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

from caveat.commands.group import Sections

SECTIONS = {
    "Audit a model": ("init", "layers", "plan", "gate", "explain"),
    "Look closer, and act": ("visualise", "study", "edit", "monitor", "differentiate"),
    "Show and prove": ("view", "annex", "keygen", "verify", "audit-log"),
    "Run a service": ("up", "keys", "erase", "collect", "scrub"),
    "Look up": ("schema", "explain-error"),
}
"""All commands, in the order of their help; each is a module of `caveat.commands`."""


@click.group(
    cls=Sections,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="caveat")
def cli() -> None:
    """Audit ONNX models: does a model rely on a concept that it must not use?

    Start with `caveat init model.onnx`, which writes an audit file, and `caveat gate audit.yaml`, which runs it.
    """


def main() -> None:
    """Runs the command; exits with 130 when interrupted."""
    import signal

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        code = cli.main(standalone_mode=False)
    except click.Abort:
        click.echo("Stopped.", err=True)
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception:  # 1 means that a gate failed, so nothing else may exit with it
        from caveat.console_output import show_traceback

        show_traceback(traceback.format_exc())
        click.echo("Error: this is a bug in Caveat; please report it with the lines above.", err=True)
        code = 3
    sys.exit(code)
