"""A report as GitHub-flavoured Markdown: for a job summary or a comment."""

from __future__ import annotations

import re

from caveat_reports.canonical import digest
from caveat_reports.diff import sentences, shown_diff
from caveat_reports.explanations import all_findings, of_atoms, withheld_words
from caveat_reports.formatting import count, fixed, p_value, share, short_digest
from caveat_reports.glossary import GLOSSARY
from caveat_reports.summary import (
    CORRECTION_WORDS,
    FLAG_WORDS,
    OUTCOME_NOUN,
    OUTCOME_SIGN,
    Line,
    Pair,
    about,
    cell_words,
    comparison_notes,
    comparison_title,
    cross_table,
    effect_words,
    estimate_words,
    explanation,
    finite_step_words,
    flags,
    given_words,
    headline,
    intervention_sentences,
    lines,
    looks,
    metric_words,
    pairs,
    questions,
    score_words,
    title,
    unit_of,
)
from caveat_reports.versions import LAYER_HEAD, ShownVersion, shown_versions
from caveat_spec.explained import Explained
from caveat_spec.report import Report, SequentialSummary
from caveat_spec.results import Comparison, ShownPairs
from caveat_spec.sanitize import one_line, sanitized

_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_LINKS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)")


def render(report: Report, baseline: Report | None = None) -> str:
    """The verdict and its lines, what moved since a `baseline`, then every figure folded away."""
    outcome = report.verdict.outcome
    sign = f"{OUTCOME_SIGN[outcome]} " if outcome else ""
    parts = [f"## {sign}{headline(report)}: {_text(_lower(title(report)))}", _text(explanation(report))]
    if sequential := looks(report):
        parts.append(f"**Sequential.** {_text(sequential)}")
    parts += [f"- **{word}.** {_text(said)}" for word, said in about(report)]
    if asked := questions(report):
        parts.append(f"**What was asked.** {_text(' '.join(asked))}")
    if report.verdict.lines:
        parts.append(_verdict(report))
    parts += [_next_steps(line) for line in lines(report) if line.next_steps]
    if baseline is not None:
        parts += _moves(report, baseline)
    if report.warnings:
        parts.append("\n".join(f"- **Warning.** {_text(warning)}" for warning in report.warnings))
    parts += [_pair(report, pair) for pair in pairs(report)]
    parts += [_comparison(one) for one in report.comparisons]
    parts += [_version(one) for one in shown_versions(report)]
    parts += [_explained(one, found) for one, found in all_findings(report)]
    if found := flags(report.associations):
        parts.append(
            "**Flags**\n\n"
            + "\n".join(
                f"- {FLAG_WORDS[flag.code]}{', blocks a verdict' if flag.blocking else ''}: "
                f"{_text(flag.sentence)} ({_places(places)})"
                for flag, places in found
            )
        )
    if report.sequential is not None:
        parts.append(_details("Looks", _looks(report.sequential)))
    parts.append(_provenance(report))
    parts.append(
        _details("Glossary", "\n".join(f"- **{_text(term)}**: {_text(said)}" for term, said in GLOSSARY.items()))
    )
    return "\n\n".join(parts) + "\n"


def _verdict(report: Report) -> str:
    rows = [
        [
            str(line.number),
            f"{OUTCOME_SIGN[line.outcome]} {OUTCOME_NOUN[line.outcome]}",
            _text(line.subject),
            _text(line.finding or "–"),
            _text(" ".join(filter(None, (line.people, line.reason, line.decided_by)))),
        ]
        for line in lines(report)
    ]
    return _table(["#", "Outcome", "Asked", "Finding", "Why"], rows)


def _looks(found: SequentialSummary) -> str:
    """What each look had and settled."""
    rows = [
        [
            share(one.share),
            f"{one.alpha:.3g}",
            count(one.passes.total),
            _numbers(one.settled),
            _numbers(one.out_of_reach),
        ]
        for one in found.looks
    ]
    return _table(["Examples", "Alpha spent", "Passes so far", "Lines settled", "Out of reach"], rows)


def _numbers(positions: list[int]) -> str:
    return ", ".join(str(position + 1) for position in positions) or "–"


def _next_steps(line: Line) -> str:
    steps = "\n".join(f"{number}. {_text(step)}" for number, step in enumerate(line.next_steps, 1))
    return f"**What to do next** about {_text(line.subject)}:\n\n{steps}"


def _moves(report: Report, baseline: Report) -> list[str]:
    """What moved beyond noise, and the rest folded away."""
    said = _text(" ".join(sentences(report, baseline)))
    found = shown_diff(report, baseline)
    shown, folded = (
        [
            [_text(one.figure), one.before, one.after, one.change, one.noise, one.verdict]
            for one in found
            if one.beyond_noise is wanted
        ]
        for wanted in (True, False)
    )
    head = ["Figure", "Before", "Now", "Change", "Noise", ""]
    parts = [said]
    if shown:
        parts.append(_table(head, shown))
    if folded:
        parts.append(_details(f"Within noise: {count(len(folded))}", _table(head, folded)))
    return parts


def _pair(report: Report, pair: Pair) -> str:
    unit = unit_of(report, pair.target)
    head = f"{_html(pair.concept)} → {_html(pair.target)}"
    body = []
    if pair.tests:
        body.append(
            _table(
                ["Layer", "Effect", "Finite step", "p", "p corrected", "TCAV score", "Null score", "Held-out accuracy"],
                [
                    [
                        _code(row.place),
                        _text(effect_words(row, unit)),
                        _text(finite_step_words(row)),
                        _text(p_value(row.effect.p)),
                        _text(p_value(row.effect.deciding_p)),
                        _text(score_words(row)),
                        "–" if row.score is None else f"{fixed(row.score.null.mean)} ± {fixed(row.score.null.sd)}",
                        "–" if row.accuracy is None else fixed(row.accuracy.held_out),
                    ]
                    for row in pair.tests
                ],
            )
        )
    body += [_shown(one) for one in report.pairs if one.concept == pair.concept and one.shown]
    if pair.notes:
        body.append(_text(" ".join(pair.notes)))
    if pair.intervention:
        body.append(_text(" ".join(intervention_sentences(pair.intervention, unit))))
    else:
        body.append("Association only: no change was measured on matched pairs.")
    return _details(head, "\n\n".join(body))


def _shown(pairs: ShownPairs) -> str:
    """The concept in a few matched pairs: what differs in each, or its two names."""
    rows = []
    for one in pairs.shown:
        changes = "; ".join(
            f"{each.what}: {each.without or '–'} → {each.with_concept or '–'}" for each in one.differences
        )
        rows.append([_text(one.without), _text(one.with_concept), _text(changes or "–")])
    return _table(["Without", "With the concept", "What differs"], rows)


def _comparison(group: Comparison) -> str:
    rates = {
        "Selection rate": "selection_rate",
        "True positive rate": "true_positive_rate",
        "False positive rate": "false_positive_rate",
    }
    if (given := given_words(group)) is not None:
        rates[f"Selection rate {_text(given)}"] = "standardised_rate"
    people = _table(
        ["Group", "n", *rates],
        [
            [
                _text(row.group) + (" (small)" if row.small else ""),
                count(row.n),
                *(estimate_words(getattr(row, rate), as_share=True) for rate in rates.values()),
            ]
            for row in group.rows
        ],
    )
    metrics = "\n".join(f"- {_text(metric_words(name))}: {estimate_words(one)}" for name, one in group.metrics.items())
    notes = _text(" ".join(comparison_notes(group)))
    parts = [_cross_table(group), people, notes, metrics]
    return _details(_html(comparison_title(group)), "\n\n".join(filter(None, parts)))


def _cross_table(group: Comparison) -> str:
    """Selection rates by two sensitive columns; nothing for any other number of columns."""
    cross = cross_table(group)
    if cross is None:
        return ""
    return _table(
        [_text(f"{cross.across[0]}, by {cross.across[1]}"), *map(_text, cross.columns)],
        [
            [_text(row), *(_text(cell_words(cross.cells.get((row, column)))) for column in cross.columns)]
            for row in cross.rows
        ],
    )


def _explained(one: Explained, found: list[str]) -> str:
    """What an explanation found, in words; its figures are on the HTML page."""
    said = "\n".join([f"- {_text(sentence)}" for sentence in found] + [f"  - {_text(each)}" for each in of_atoms(one)])
    head = f"**Explanation: {_text(one.name.replace('_', ' '))}**"
    return f"{head}\n\n{_text(' '.join(filter(None, [one.selection, withheld_words(one)])))}\n\n{said}"


def _version(one: ShownVersion) -> str:
    """What another version does otherwise: sentences, and a table of layers."""
    said = "\n".join(f"- {_text(sentence)}" for sentence in [*one.sentences, *one.notes])
    layers = _table(list(LAYER_HEAD), [[_text(cell) for cell in row] for row in one.layers]) if one.layers else ""
    return "\n\n".join(filter(None, [f"**{_text(one.title)}** ({_text(short_digest(one.model))})", said, layers]))


def _provenance(report: Report) -> str:
    method = report.audit.method
    items = [
        f"Model `{sanitized(report.audit.model)}`"
        if report.audit.model.startswith("sha256:")
        else _code(report.audit.model),
        f"Report `{digest(report)}`",
        f"Caveat {_text(report.engine.caveat)}, {_text(report.engine.provider)}, seed {method.seed}, "
        f"{count(method.permutations)} permutations, {count(method.runs)} runs, alpha {method.alpha:g}, "
        f"{CORRECTION_WORDS[method.correction]}",
    ]
    if report.engine.sandbox_lacks:
        items.append(f"The sandbox lacked {_text(', '.join(report.engine.sandbox_lacks))}")
    return "\n".join(f"- {item}" for item in items)


def _places(places: list[str], most: int = 4) -> str:
    """The first few places, and how many more there are."""
    more = f" and {count(len(places) - most)} more" if len(places) > most else ""
    return ", ".join(map(_code, places[:most])) + more


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _one_line(text: str) -> str:
    return " ".join(one_line(text).split())


def _html(text: str) -> str:
    """`text` inside a raw HTML element."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(character, entity)
    return _text_links(_one_line(text))


def _text(text: str) -> str:
    """`text` as running words: no markup, no HTML, no links."""
    escaped = _SPECIAL.sub(r"\\\1", _one_line(text).replace("&", "&amp;").replace("<", "&lt;"))
    return _text_links(escaped)


def _text_links(text: str) -> str:
    return _LINKS.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text)


def _code(text: str) -> str:
    """`text` in a code span that may stand in a table."""
    line = _one_line(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
