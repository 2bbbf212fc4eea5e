"""Made pictures as one page: each beside the examples of a set that its atom responds to most, and least."""

from __future__ import annotations

from importlib.metadata import version

from caveat_reports.figures.icons import ordered
from caveat_reports.formatting import plain
from caveat_reports.pages import environment, styled
from caveat_spec.artifacts import MadePicture, Visualisation


def render(made: Visualisation) -> str:
    """The whole page; it needs no network and no script."""
    style = styled("report.css")
    template = environment().get_template("visualised.html")
    return template.render(
        made=made,
        sentences=[sentence(one) for one in made.pictures],
        examples=[ordered(one.spectrum) for one in made.pictures],
        version=version("caveat"),
        style=style,
    )


def sentence(one: MadePicture) -> str:
    """What a picture shows, in words."""
    if one.withheld is not None:
        return one.withheld
    unit = "" if one.unit == "activation" else f" {one.unit}"
    made, highest = (f"{plain(value)}{unit}" for value in (one.response, one.highest))
    return (
        f"The response of {one.atom} is {made} to this picture, and {highest} to {one.spectrum.icons[0].example}, the "
        "highest of the examples."
    )
