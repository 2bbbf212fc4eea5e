"""The console's pages: audits, versions over time, two audits side by side, studies, lists of what is registered.

The service and `caveat view` show the same pages: each function here takes plain values and returns a page that needs
no script. Where a service runs, a script that the policy allows by its hash keeps a page up to date while audits run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from caveat_reports import diff, formatting, summary
from caveat_reports.canonical import digest
from caveat_reports.chart import UNIT, Scale, Span, symmetric
from caveat_reports.pages import environment, policy_hash, styled
from caveat_spec.base import Interval
from caveat_spec.problem_codes import Kind
from caveat_spec.report import Outcome, Report
from caveat_spec.results import Estimate
from caveat_spec.studies import StudyRecord

MOST_VERSIONS = 20
"""Audits that a history shows, the newest."""
Measured = Mapping[str, tuple[str, Estimate]]
"""The figures of a report that a history follows: by title, with unit, value and interval."""
LIVE = """\
const main = () => document.querySelector('main[data-live]');
const look = async () => {
  if (!main()) return;
  try {
    const answer = await fetch(location.href, {headers: {Accept: 'text/html'}});
    const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html').querySelector('main');
    if (answer.ok && fresh && !main().contains(document.activeElement)) main().replaceWith(fresh);
  } catch { /* the service is away; the next look may find it */ }
  setTimeout(look, 3000);
};
setTimeout(look, 3000);
"""
"""Asks for the page again while something on it runs; never takes the keyboard's focus away."""
LIVE_HASH = policy_hash(LIVE)


@dataclass(frozen=True)
class Viewer:
    """Who looks: whether anybody signed in, what they may see, and the token that their forms carry."""

    tenant: str | None = None
    signed_in: bool = False
    admin: bool = False
    token: str = ""
    served: bool = True
    """Whether a service shows the page; files have no models, keys or webhooks to list."""


@dataclass(frozen=True)
class ShownAudit:
    """One audit in a list."""

    id: str
    title: str
    model: str
    state: str
    stage: str | None = None
    progress: float = 0.0
    outcome: Outcome | None = None
    at: datetime | None = None
    asked: int = 0
    """Lines of its gate."""
    problem: str | None = None
    """Why it failed, with the remedy."""

    @property
    def running(self) -> bool:
        """Whether its state will still change."""
        return self.state in ("queued", "running")


@dataclass(frozen=True)
class Figure:
    """One figure of one version."""

    audit: ShownAudit
    value: float
    interval: Interval
    at: float
    span: Span
    words: str


@dataclass(frozen=True)
class History:
    """How one figure went over the versions, on one scale."""

    title: str
    unit: str
    scale: Scale
    zero: float
    figures: list[Figure]


@dataclass(frozen=True)
class Listing:
    """A table of what is registered."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str
    """What is said where there is nothing."""
    more: str | None = None
    """Where the next page is."""


def measured(report: Report) -> Measured:
    """What each concept changes, measured where it was, and every metric of groups."""
    found: dict[str, tuple[str, Estimate]] = {}
    for pair in summary.pairs(report):
        test = pair.leading
        place = "measured" if test is pair.intervention else f"at {test.place}"
        title = f"{pair.concept} → {pair.target}, {place}"
        found[title] = ("sd", Estimate(value=test.effect.in_sd, interval=test.effect.interval_in_sd))
    for one in report.comparisons:
        for name, metric in one.metrics.items():
            found[f"{summary.metric_words(name)} of {one.name}"] = ("", metric)
    return found


def audits(viewer: Viewer, shown: Sequence[ShownAudit], *, state: str | None = None, more: str | None = None) -> str:
    """The list of audits, newest first."""
    live = any(one.running for one in shown)
    return _page("audits.html", viewer, title="Audits", audits=shown, state=state, more=more, live=live)


def audit(viewer: Viewer, shown: ShownAudit, report: Report | None) -> str:
    """One audit: where it is, or what came of it."""
    return _page(
        "audit.html", viewer, title=shown.title, audit=shown, report=report, live=shown.running,
        lines=[] if report is None else summary.worst_first(report),
    )  # fmt: skip


def history(viewer: Viewer, of: ShownAudit, versions: Sequence[tuple[ShownAudit, Measured]]) -> str:
    """How the figures of the audits of the same question went, oldest first."""
    return _page(
        "history.html", viewer, title=f"{of.title}: history", of=of, histories=histories(versions), versions=versions
    )


def histories(versions: Sequence[tuple[ShownAudit, Measured]]) -> list[History]:
    """Each figure over the versions that have it, in the order of their first mention."""
    titles = dict.fromkeys(title for _, found in versions for title in found)
    return [_history(title, versions) for title in titles]


def _history(title: str, versions: Sequence[tuple[ShownAudit, Measured]]) -> History:
    found = [(shown, *measured[title]) for shown, measured in versions if title in measured]
    unit = found[0][1]
    ends = [end for _, _, estimate in found for end in (estimate.value, *estimate.interval)]
    scale = UNIT if not unit and all(0 <= end <= 1 for end in ends) else symmetric(ends)
    return History(
        title=title,
        unit=unit,
        scale=scale,
        zero=scale.at(0),
        figures=[
            Figure(
                audit=shown,
                value=estimate.value,
                interval=estimate.interval,
                at=scale.at(estimate.value),
                span=scale.span(estimate.interval),
                words=_words(estimate, unit),
            )
            for shown, unit, estimate in found
        ],
    )


def _words(estimate: Estimate, unit: str) -> str:
    number = formatting.signed if unit else formatting.plain
    low, high = estimate.interval
    return f"{number(estimate.value)}{f' {unit}' if unit else ''} ({number(low)} to {number(high)})"


def comparison(viewer: Viewer, now: tuple[ShownAudit, Report], before: tuple[ShownAudit, Report]) -> str:
    """Two audits side by side: the lines of their gates, and what moved from `before` to `now`."""
    lines: dict[str, list[summary.Line | None]] = {}
    for column, (_, report) in enumerate((before, now)):
        for line in summary.lines(report):
            lines.setdefault(line.subject, [None, None])[column] = line
    found = diff.shown_diff(now[1], before[1])
    return _page(
        "comparison.html", viewer, title="Two audits side by side", now=now[0], before=before[0],
        sentences=diff.sentences(now[1], before[1]), lines=lines, moved=found,
        digests=[digest(report) for _, report in (before, now)],
    )  # fmt: skip


def listing(viewer: Viewer, listings: Sequence[Listing], title: str) -> str:
    """Tables of what is registered."""
    return _page("listing.html", viewer, title=title, listings=listings)


def studies(viewer: Viewer, shown: Sequence[StudyRecord], more: str | None = None) -> str:
    """The list of studies with people, newest first."""
    live = any(is_analysed_now(one) for one in shown)
    return _page("studies.html", viewer, title="Studies", studies=shown, more=more, live=live)


def study(viewer: Viewer, shown: StudyRecord) -> str:
    """One study: how far it is, its forms to print, and the way to what it came to."""
    return _page("study.html", viewer, title=f"Study {shown.id[-6:]}", study=shown, live=is_analysed_now(shown))


def is_analysed_now(study: StudyRecord) -> bool:
    """Whether a worker has the answers of a closed study."""
    return study.analysis in ("queued", "running")


def sign_in(viewer: Viewer, fault: str | None = None, *, issuer: str | None = None) -> str:
    """The form that takes a key, and the way to an issuer of that name."""
    return _page("sign-in.html", viewer, title="Sign in", fault=fault, issuer=issuer)


def fault(viewer: Viewer, title: str, detail: str, remedy: str) -> str:
    """A page that says what is wrong, and what to do."""
    return _page("fault.html", viewer, title=title, detail=detail, remedy=remedy)


def problem(kind: Kind) -> str:
    """What a kind of problem is about, for anybody."""
    return _page("problem.html", Viewer(), title=kind.title, kind=kind)


def policy() -> str:
    """The content security policy of these pages: our style, our script, and pictures inside the page."""
    return (
        f"default-src 'none'; style-src 'sha256-{styled('console.css').hash}'; script-src 'sha256-{LIVE_HASH}'; "
        "connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def _page(template: str, viewer: Viewer, *, title: str, live: bool = False, **values: object) -> str:
    shown = environment().get_template(f"console/{template}")
    return shown.render(
        viewer=viewer,
        title=title,
        live=live,
        style=styled("console.css").text,
        script=Markup(LIVE) if live and viewer.served else None,  # noqa: S704 - our own script
        formatting=formatting,
        summary=summary,
        **values,
    )
