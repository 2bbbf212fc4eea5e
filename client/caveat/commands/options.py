"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caveat_spec.formats import FORMATS

PATH = click.Path(path_type=Path)

maps = click.option(
    "--maps", type=PATH, help="Write what it keeps as arrays (.npz): `keep: maps` its figures, `keep: cavs` its CAVs."
)
trust_config = click.option(
    "--trust-config", type=PATH, help="A Sigstore of your own (ClientTrustConfig, JSON) instead of the public one."
)
blobs = click.option(
    "--blobs-url",
    envvar="CAVEAT_BLOBS_URL",
    show_envvar=True,
    default=".caveat/blobs",
    show_default=True,
    help="Blob storage of the service.",
)
database = click.option(
    "--database-url",
    envvar="CAVEAT_DATABASE_URL",
    show_envvar=True,
    default="sqlite:///.caveat/caveat.db",
    show_default=True,
    help="Database of the service.",
)


def server(command: Any) -> Any:
    """Adds the options that choose between a service and this machine."""
    for option in (
        click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="Bearer key for the service."),
        click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="Run on the service at this URL."),
        click.option("--local", is_flag=True, help="Run on this machine even if a URL is set."),
    ):
        command = option(command)
    return command


def service(command: Any) -> Any:
    """Adds the options that name a service, for what is done there."""
    for option in (
        click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="Bearer key for the service."),
        click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="URL of the service."),
    ):
        command = option(command)
    return command


def outputs(command: Any) -> Any:
    """Adds an option for each format of a report."""
    for form in reversed(FORMATS):
        text = f"Write the report as {form.words}."
        command = click.option(f"--{form.name}", f"{form.name}_", type=PATH, help=text)(command)
    return command


def _named_numbers(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Parses `NAME=NUMBER` values; the number comes after the last `=`, as a name may hold one."""
    numbers = {}
    for value in values:
        name, _equals, number = value.rpartition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.BadParameter(
                f"'{value}' is not NAME=NUMBER, such as sr=16000: an input of the model and the number that fills it.",
                param=parameter,
            )
    return numbers


constant = click.option(
    "--constant",
    "constants",
    metavar="NAME=NUMBER",
    multiple=True,
    callback=_named_numbers,
    help="Input that holds one number, as under `constants:` of an audit file; repeatable.",
)


def start_engine(local: bool, url: str | None) -> None:
    """Starts the process that will run an audit on this machine, where it runs on this machine."""
    if local or url is None:
        from caveat import local_engine

        local_engine.start_engine()


def paths(wanted: dict[str, Path | None]) -> dict[str, Path]:
    """The files that `outputs` asked for, by format."""
    return {name.removesuffix("_"): path for name, path in wanted.items() if path is not None}
