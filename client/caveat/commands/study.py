"""`caveat study`: asks people what the maps of a report tell them."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands import options
from caveat.commands.options import PATH


@click.group(short_help="Ask people what a report's maps tell them.")
def study() -> None:
    """Ask people what a report's maps tell them: the experiment with people of the TCAV article.

    Each rater sees pictures with their maps, and says how important the image and a concept in it are to the model, and
    how sure the answer is (Kim et al. 2018, section 4.3). No rater sees the name of a method, or what is right.
    """


def _truth(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Parses `CLASS=WHAT` values."""
    pairs = [value.rpartition("=") for value in values]
    if any(not (name and said) for name, _, said in pairs):
        raise click.BadParameter("use CLASS=WHAT, such as zebra=image or cab=caption.", param=parameter)
    return {name: said for name, _, said in pairs}


@study.command(short_help="Make forms for raters from a report's maps.")
@click.argument("report", type=PATH)
@click.option("--output", "-o", type=PATH, default=Path("study"), show_default=True, help="New folder of the study.")
@click.option("--raters", type=click.IntRange(1, 1000), default=50, show_default=True, help="Number of raters.")
@click.option(
    "--seed", type=click.IntRange(0, 2**53 - 1), default=0, show_default=True, help="Seed of order and pictures."
)
@click.option("--pictures", type=click.IntRange(1, 8), default=4, show_default=True, help="Pictures that a task shows.")
@click.option(
    "--concept",
    metavar="NAME",
    help="Concept to weigh against the image, or the beginning of NAME-CLASS; by default the report's only one.",
)
@click.option(
    "--image-concept",
    metavar="NAME",
    help="Concept that stands for the image in the report's tests, or the beginning of NAME-CLASS.",
)
@click.option(
    "--target", "targets", metavar="NAME", multiple=True, help="Class to ask about; repeatable. All by default."
)
@click.option("--map", "maps", metavar="NAME", multiple=True, help="Kind of map to show; repeatable. All by default.")
@click.option(
    "--truth", metavar="CLASS=WHAT", multiple=True, callback=_truth,
    help="What matters more for a class, where you know: `image` or the concept's name; repeatable.",
)  # fmt: skip
@click.option("--consent", type=PATH, help="File of plain text that raters read before they begin.")
@options.service
def make(
    report: Path,
    output: Path,
    raters: int,
    seed: int,
    pictures: int,
    concept: str | None,
    image_concept: str | None,
    targets: tuple[str, ...],
    maps: tuple[str, ...],
    truth: dict[str, str],
    consent: Path | None,
    url: str | None,
    key: str | None,
) -> None:
    """Make a study of the maps in the file REPORT, which `caveat gate --json` or `caveat explain --json` wrote.

    With the id of an audit in place of a file, the study is made on the service at --url, which serves the forms
    itself: the folder then has the protocol, and each rater's link in `links.csv`, which is secret.

    Each rater has a task for every class and kind of map, in an order of their own. Writes a form to print for each
    rater, a table to type answers into, and `study.json`, which has the seed, the design, and the digest of everything
    that raters see. The folder's `tokens.csv` is secret: a token lets its holder answer for a rater.
    """
    from caveat.study.making import consent_in, make_study
    from caveat.study.remote import is_on_service, make_remote
    from caveat.study.showing import show_made, show_made_remotely
    from caveat_reports.study.dealing import Design

    text = None if consent is None else consent_in(consent)
    design = Design(raters, seed, pictures, concept, image_concept, targets, maps, truth, text)
    if is_on_service(report):
        show_made_remotely(make_remote(url, key, str(report), design, output), output)
    else:
        show_made(make_study(report, design, output))


@study.command(short_help="Let raters fill their forms in a browser.")
@click.argument("folder", metavar="STUDY", type=PATH)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port to listen on; 0 for any free port.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--url", help="Address under which raters reach it, such as that of a proxy; for their links.")
def serve(folder: Path, port: int, host: str, url: str | None) -> None:
    """Serve the forms of the study in the folder STUDY, without script, until Ctrl-C.

    Writes each rater's link into `links.csv`; whoever has a link answers for its rater. Each answer is on the disk in
    `answers.csv` before the rater is told so, and does not change afterwards. A rater who comes back sees what is
    missing.
    """
    from caveat.study.serving import open_server

    with open_server(folder, host, port, url) as forms:
        click.echo(f"Serving the forms at {forms.url}/ until Ctrl-C. Links of raters: {forms.links}.")
        try:
            forms.serve_forever(0.1)
        except KeyboardInterrupt:
            click.echo("Stopped.")


@study.command(short_help="Analyse what raters answered.")
@click.argument("folder", metavar="STUDY", type=PATH)
@click.argument("ratings", type=PATH, nargs=-1)
@click.option("--report", type=PATH, help="Set the ratings beside the tests of this report (--json) of the same model.")
@click.option("--html", "html_", type=PATH, help="Write a page.")
@click.option("--json", "json_", type=PATH, help="Write everything as JSON.")
@click.option("--close", is_flag=True, help="On a service: first end the study, so that it takes no more answers.")
@options.service
def read(
    folder: Path,
    ratings: tuple[Path, ...],
    report: Path | None,
    html_: Path | None,
    json_: Path | None,
    close: bool,
    url: str | None,
    key: str | None,
) -> None:
    """Analyse the files RATINGS of the study in the folder STUDY; by default those in the folder.

    With the id of a study in place of a folder, reads what the service at --url has. It analyses a study once, when
    that is closed.

    Names every row that is not taken, with its line and the reason. The unit is the rater: p-values come from flipping
    the signs of raters' means, with Holm's correction over the questions.

    Exit codes: 0 every row was taken, 1 some were not, 2 a file cannot be read.
    """
    from caveat.study.findings import read_study, write_findings
    from caveat.study.remote import is_on_service, read_remote
    from caveat.study.showing import show_findings, show_progress

    if is_on_service(folder):
        if ratings or report is not None:
            raise click.UsageError("RATINGS and --report are of a study on this machine; the service has its own.")
        record, about, findings = read_remote(url, key, str(folder), close=close)
        if findings is None:
            show_progress(record)
            return
        found = findings
    elif close:
        raise click.UsageError("--close ends a study on a service; pass its id.")
    else:
        about, found = read_study(folder, ratings, report)
    show_findings(about, found)
    write_findings(about, found, {name: path for name, path in (("html", html_), ("json", json_)) if path is not None})
    click.get_current_context().exit(1 if found.refused else 0)
