"""An annex as one page that prints on paper: a cover, then each field with its clause and its source."""

from __future__ import annotations

from caveat_reports.annexes.form import BY_THE_FILER, NOT_RECORDED, Annex
from caveat_reports.pages import environment, styled


def render(annex: Annex) -> str:
    """The whole page; it needs no network and no script."""
    style = styled("annex.css")
    template = environment().get_template("annex.html")
    return template.render(
        annex=annex,
        form=annex.form,
        style=style,
        not_recorded=NOT_RECORDED,
        by_the_filer=BY_THE_FILER,
    )
