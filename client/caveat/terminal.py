"""What a person sees: progress, verdicts, problems, layers; plain lines where there is no terminal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caveat.console_output import Bar, Console, Table, Text, err, out
from caveat.positions import Positions
from caveat.problems import ProblemError
from caveat.progress import ProgressCallback
from caveat_reports import diff, explanations, summary, versions
from caveat_reports.formatting import p_value
from caveat_spec.power import amount
from caveat_spec.report import Outcome, Report, Verdict
from caveat_spec.sanitize import json_text, one_line

if TYPE_CHECKING:
    from caveat.attestation import Check, Checked
    from caveat.editing import EditedFile, MonitorFile
    from caveat.gradient import Written
    from caveat.keyless import CheckedReport
    from caveat_reports.annexes.form import Annex
    from caveat_spec.artifacts import Inspection, Visualisation
    from caveat_spec.attestation import PicturesStatement
    from caveat_spec.power import AuditPlan
    from caveat_storage.hash_chain import Account
    from caveat_storage.keys import KeyRecord

STYLE: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


@contextmanager
def progress() -> Iterator[ProgressCallback]:
    """Shows how far the work is, on standard error."""
    console = err()
    if console.is_terminal:
        bar = Bar(console)
        try:
            yield bar.show
        finally:
            bar.clear()
        return
    told = [""]

    def watch(stage: str, share: float) -> None:
        if stage != told[0]:
            told[0] = stage
            console.print(f"{share:4.0%} {stage}")

    yield watch


def show_verdict(report: Report) -> None:
    """The verdict, a table of the gate's lines, and one sentence for each."""
    console = out()
    outcome = report.verdict.outcome
    heading = Text(summary.headline(report), style=STYLE[outcome] if outcome else "bold")
    for warning in report.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    console.print(Text.assemble(heading, ": ", summary.explanation(report)))
    if report.sequential is not None:
        console.print(Text(summary.looks(report)))
    for word, told in summary.about(report):
        console.print(Text(f"{word}: {told}", style="dim"))
    lines = summary.lines(report)
    if not lines:
        _show_figures(console, report)
    if lines and console.is_terminal:
        table = Table(("", "line of the gate", "finding", "verdict"))
        for line in lines:
            style = STYLE[line.outcome]
            sign = Text(summary.OUTCOME_SIGN[line.outcome], style=style)
            verdict = Text(summary.OUTCOME_WORD[line.outcome], style=style)
            table.add_row(sign, Text(line.subject), line.finding or "", verdict)
        console.print(table)
    elif lines:
        table = Table()
        for line in lines:
            table.add_row(f"{summary.OUTCOME_WORD[line.outcome]:<12}", line.subject, line.finding or "")
        console.print(table)
    for line in lines:
        sign = Text(summary.OUTCOME_SIGN[line.outcome], style=STYLE[line.outcome])
        console.print(Text.assemble(sign, f" {line.subject}: {line.reason}"))
        if line.people:
            console.print(Text(f"  {line.people} {line.decided_by}", style="dim"))
        for number, step in enumerate(line.next_steps, 1):
            console.print(Text(f"  {'What to do next: ' if number == 1 else ''}{number}. {step}"))
    show_versions(report)
    show_explanations(report)


def show_explanations(report: Report) -> None:
    """What each explanation found, in words: at most three findings."""
    console = out()
    for one, found in explanations.all_findings(report):
        console.print(Text.assemble((one.name.replace("_", " "), "bold"), f": {one.selection}"))
        for sentence in filter(None, [*found, explanations.withheld_words(one)]):
            console.print(Text(f"  {sentence}"))
        for sentence in explanations.of_atoms(one):
            console.print(Text(f"    {sentence}"))


def _show_figures(console: Console, report: Report) -> None:
    """The figures of an audit without a gate: effects by layer, measured changes, and metrics of groups."""
    table = Table(("of", "at", "effect, with its interval", "p"))
    for pair in summary.pairs(report):
        unit = summary.unit_of(report, pair.target)
        for test in (*pair.tests, *([] if pair.intervention is None else [pair.intervention])):
            table.add_row(
                f"{pair.concept} → {pair.target}",
                "matched pairs" if test is pair.intervention else test.place,
                summary.effect_words(test, unit),
                p_value(test.effect.deciding_p),
            )
    for group in report.comparisons:
        for name, estimate in group.metrics.items():
            table.add_row(group.name, summary.metric_words(name), summary.estimate_words(estimate), "")
    if table.rows:
        console.print(table)
    for group in report.comparisons:
        if group.conditional is not None:
            console.print(Text(f"{group.name}: {group.conditional.sentence}"))


MOST_DIFFERENCES = 12
"""Figures shown of those that moved since a baseline."""


def show_diff(report: Report, baseline: Report) -> None:
    """What moved since the baseline, and whether beyond noise."""
    console = out()
    for sentence in diff.sentences(report, baseline):
        console.print(Text(sentence))
    found = diff.shown_diff(report, baseline)
    head = ("figure", "before", "now", "change", "noise", "")
    rows = [(one.figure, one.before, one.after, one.change, one.noise, one.verdict) for one in found[:MOST_DIFFERENCES]]
    if rows:
        table = Table(head, right=frozenset(range(1, 5)))
        for row, one in zip(rows, found, strict=False):
            table.add_row(*row, style="" if one.beyond_noise else "dim")
        console.print(table)
    if len(found) > MOST_DIFFERENCES:
        console.print(Text(f"… and {len(found) - MOST_DIFFERENCES} more, in --markdown.", style="dim"))


def show_plan(planned: AuditPlan, *, as_json: bool) -> None:
    """What the examples can settle: a table of the gate's lines, then what to do about those out of reach."""
    console = out()
    if as_json:
        console.print(planned.model_dump_json(indent=2))
        return
    table = Table(("line", "evidence", "tolerance", "can settle", "finds", "examples", "needed"))
    for line in planned.lines:
        figures = (line.tolerance, line.settles, line.finds)
        shown = [amount(value, line.unit) if value is not None and line.unit else None for value in figures]
        has, needs = (", ".join(f"{count:,} {name}" for name, count in sets.items()) for sets in (line.has, line.needs))
        cells = [text or "–" for text in (*shown, has, needs)]
        table.add_row(line.subject, line.evidence, *cells, style="yellow" if line.reachable is False else "")
    if table.rows:
        console.print(table)
    else:
        console.print("The audit has no gate, so that nothing has to be settled.")
    if planned.looks:
        looks = ", ".join(f"{one.share:.0%} (alpha {one.alpha:.3g})" for one in planned.looks)
        console.print(Text(f"Looks at {looks} of the examples; figures above are of the last."))
        if planned.left_out:
            shares = ", ".join(f"{share:.0%}" for share in planned.left_out)
            console.print(Text(f"Left out: {shares}, where some kind has fewer than `method.min_examples` examples."))
        for line in planned.lines:
            if line.first_look is not None:
                said = f"{line.subject}: settled at {line.first_look:.0%} of the examples if the concept does nothing."
                console.print(Text(said[:1].upper() + said[1:]))
    for sentence in planned.unreachable:
        console.print(Text(sentence, style="yellow"))
    console.print(Text(planned.assumed, style="dim"))


def show_annex(annex: Annex) -> None:
    """How many fields of a form are filled, and what would fill the others."""
    console = out()
    filled = len(annex.entries) - len(annex.missing)
    console.print(Text(f"{annex.form.title}: {filled} of {len(annex.entries)} fields recorded.", "bold"))
    for line in annex.cover:
        if line.value is None:
            console.print(Text(f"  not recorded: {line.title}. {line.remedy}"))
    for entry in annex.missing:
        console.print(Text(f"  not recorded: {entry.field.title} ({entry.field.clause}). {entry.remedy}"))


def show_checks(checked: Checked) -> None:
    """What came of an envelope: each check, and in words what was audited."""
    console = out()
    _show_each(console, checked.checks)
    if checked.statement is None:
        return
    said = checked.statement.predicate
    run, digests = said.run, {one.name: one.digest.sha256 for one in checked.statement.subject}
    where = f"{run.where}, as audit {run.audit}" if run.audit else run.where
    console.print("")
    console.print(Text(f"The model {digests['model'][:12]} was audited by Caveat {said.engine.caveat} at {where},"))
    console.print(Text(f"from {run.started_at:%Y-%m-%d %H:%M:%S} to {run.finished_at:%Y-%m-%d %H:%M:%S} UTC."))
    sets = [f"{name.partition('/')[2]} {one[:12]}" for name, one in digests.items() if "/" in name]
    console.print(Text(f"Example sets: {', '.join(sets) or 'none'}. Report: {digests['report'][:12]}."))
    if said.baseline:
        console.print(Text(f"It was compared with the earlier report {said.baseline.removeprefix('sha256:')[:12]}."))
    _show_decided(console, said.verdict)


def show_picture_checks(checks: list[Check], statement: PicturesStatement | None) -> None:
    """What came of the statement about made pictures: each check, and in words how they were made."""
    console = out()
    _show_each(console, checks)
    if statement is None:
        return
    said, digests = statement.predicate, {one.name: one.digest.sha256 for one in statement.subject}
    run, engine = said.run, said.engine
    console.print("")
    console.print(Text(f"Pictures of what {said.layer} of the model {digests['model'][:12]} looks for were made by"))
    console.print(Text(f"Caveat {engine.caveat} at {run.where},"))
    console.print(Text(f"from {run.started_at:%Y-%m-%d %H:%M:%S} to {run.finished_at:%Y-%m-%d %H:%M:%S} UTC."))
    where = ", of the middle of the layer" if said.centre else ""
    console.print(
        Text(f"Asked for: {', '.join(said.atoms)}{where}; {said.steps} steps, side {said.side}, seed {said.seed}.")
    )
    sets = [f"{name.partition('/')[2]} {one[:12]}" for name, one in digests.items() if "/" in name]
    console.print(Text(f"Example sets: {', '.join(sets)}. Beside the pictures stand examples of {said.set}."))
    versions = ", ".join(f"{name} {one}" for name, one in engine.versions.items())
    console.print(Text(f"Computed with {versions} on {engine.provider}."))


def show_signed_report(checked: CheckedReport) -> None:
    """What came of a report's bundle: each check, and in words what was audited."""
    console = out()
    _show_each(console, checked.checks)
    if (report := checked.report) is None:
        return
    console.print("")
    model = report.audit.model.removeprefix("sha256:")[:12]
    console.print(Text(f"The model {model} was audited by Caveat {report.engine.caveat}."))
    sets = [f"{one.name} {one.source.removeprefix('sha256:')[:12]}" for one in report.plan.examples]
    console.print(Text(f"Example sets: {', '.join(sets) or 'none'}."))
    _show_decided(console, report.verdict)


def _show_decided(console: Console, verdict: Verdict) -> None:
    outcome = verdict.outcome
    console.print(Text(_GATE[outcome], style=STYLE[outcome] if outcome else "bold"))
    for line in verdict.lines:
        sign = Text(summary.OUTCOME_SIGN[line.outcome], style=STYLE[line.outcome])
        console.print(Text.assemble(sign, f" {line.subject}: {line.explanation}"))


def show_log(told: Account | None, checks: list[Check]) -> None:
    """What came of a log: each check, and in words what it tells."""
    console = out()
    _show_each(console, checks)
    if told is None or told.tenant is None:
        return
    console.print("")
    console.print(Text(f"The log of {told.tenant} has {told.length} entries, from {told.first_at} to {told.last_at}."))
    steps = ", ".join(f"{count} {what}" for what, count in sorted(told.steps.items()))
    console.print(Text(f"Steps: {steps}."))
    if told.principals:
        console.print(Text(f"Asked by {', '.join(sorted(told.principals))}."))
    if told.outcomes:
        verdicts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(told.outcomes.items()))
        console.print(Text(f"Verdicts of {told.outcomes.total()} audits: {verdicts}."))
    if told.erased:
        console.print(Text(f"What {told.erased} entries said was erased later; that they were there still stands."))


def show_keys(keys: Sequence[KeyRecord], *, as_json: bool) -> None:
    """Keys and how they stand."""
    if as_json:
        told = [{**asdict(key), "state": key.state} for key in keys]
        click.echo(json_text(json.dumps(told, default=lambda moment: moment.isoformat(), indent=2)))
        return
    table = Table(("id", "tenant", "name", "scopes", "made", "ends", "state"))
    for key in keys:
        ends = key.revoked_at or key.expires_at
        row = [key.id, key.tenant, key.name, " ".join(key.scopes), f"{key.created_at:%Y-%m-%d}"]
        table.add_row(*row, f"{ends:%Y-%m-%d %H:%M}" if ends else "never", key.state)
    out().print(table)


def _show_each(console: Console, checks: list[Check]) -> None:
    signs = {True: Text("✓", "green"), False: Text("✗", "bold red"), None: Text("·", "dim")}
    for check in checks:
        console.print(Text.assemble(signs[check.holds], f" {check.sentence}"))


_GATE: dict[Outcome | None, str] = {
    "pass": "The gate passes.",
    "fail": "The gate fails.",
    "inconclusive": "The gate is inconclusive.",
    None: "There was no gate.",
}


def annotate(report: Report, positions: Positions | None) -> None:
    """GitHub's annotations, beside the lines of the audit file that did not hold."""
    for line in report.verdict.lines:
        if line.outcome == "pass":
            continue
        level = "error" if line.outcome == "fail" else "warning"
        place = ""
        if positions is not None:
            at = positions.of(f"/gate/{line.line}")
            file = os.path.relpath(positions.path)
            place = f"file={_property(file)},line={at.line},col={at.column},"
        print(f"::{level} {place}title={_property(line.subject)}::{_data(line.explanation)}")


def show_problem(error: ProblemError) -> None:
    """What is wrong, where, and what to do about it."""
    console, told = err(), error.problem
    where = error.positions.where if error.positions else str
    lines = dict.fromkeys(f"{where(fault.pointer)}: {fault.detail}".removeprefix(": ") for fault in told.errors)
    only = next(iter(lines)) if [fault.detail for fault in told.errors] == [told.detail] else None
    console.print(Text.assemble(("Error: ", "bold red"), only or told.detail))
    for line in () if only else lines:
        console.print(Text(f"  {line}"))
    if told.remedy:
        console.print(Text.assemble(("Remedy: ", "bold"), told.remedy))


def show_inspection(inspection: Inspection, *, every: bool) -> None:
    """A model's inputs and outputs, and a table of its layers; without `every` only those that can be audited."""
    console = out()
    for kind, tensors in (("input", inspection.inputs), ("output", inspection.outputs)):
        for tensor in tensors:
            console.print(f"{kind:<7} {tensor.name}  {tensor.dtype} {_shape(tensor.shape)}")
    console.print(f"target  {inspection.target}")
    layers = [layer for layer in inspection.layers if every or layer.auditable]
    rows = [
        ("auto" if layer.auto else "", layer.tensor, layer.operator, _shape(layer.shape), layer.reason or "")
        for layer in layers
    ]
    table = Table(("", "tensor", "operator", "shape", "why not") if console.is_terminal else ())
    for row in rows:
        table.add_row(*row, style="dim" if row[4] else "")
    console.print(table)
    auditable = sum(layer.auditable for layer in inspection.layers)
    auto = sum(layer.auto for layer in inspection.layers)
    console.print(
        f"{auditable} of {len(inspection.layers)} layers can be audited; `layers: auto` picks {auto}."
        + ("" if every or auditable == len(inspection.layers) else " See the others, and why not, with --all.")
    )
    for warning in inspection.warnings:
        console.print(Text(f"Note: {warning}", style="dim"))


def show_repair(file: EditedFile, before: Report, after: Report) -> None:
    """Both verdicts, what moved between them, and what else the edit did."""
    console = out()
    if file.unchanged:
        console.print(f"Wrote {file.path}: a scale of 1 changes nothing, so it has the original's bytes.")
    else:
        console.print(f"Wrote {file.path}; the edited layer agrees with its formula on noise, to {file.residual:.1e}.")
    if file.found_in is not None:
        console.print(
            f"The direction was found in {file.found_in}; these figures are of the other half of the examples."
        )
    console.print(Text.assemble(("Before: ", "bold"), summary.explanation(before)))
    for line in summary.lines(before):
        console.print(Text(f"  {summary.OUTCOME_SIGN[line.outcome]} {line.subject}: {line.reason}", style="dim"))
    console.print(Text("After:", style="bold"))
    show_verdict(after)
    show_diff(after, before)


def show_versions(report: Report) -> None:
    """What another version of the model does otherwise: sentences, and a table of layers."""
    console = out()
    for one in versions.shown_versions(report):
        console.print(Text(one.title, style="bold"))
        for sentence in one.sentences:
            console.print(Text(f"  {sentence}"))
        if one.layers:
            table = Table(versions.LAYER_HEAD, right=frozenset(range(1, 5)))
            for row in one.layers:
                table.add_row(*row)
            console.print(table)
        for note in one.notes:
            console.print(Text(f"  {note}", style="yellow"))


def show_monitor(written: MonitorFile) -> None:
    """What a monitoring model reads and gives, and how near it is to the audit."""
    console = out()
    console.print(f"Wrote {written.path}: {written.path.stat().st_size:,} bytes.")
    for kind, tensors in (("reads", written.inputs), ("yields", written.outputs)):
        for tensor in tensors:
            dtype = "string" if tensor.dtype == "object" else tensor.dtype
            console.print(f"{kind:<7} {tensor.name}  {dtype} {_shape(tensor.shape)}")
    check = written.check
    sensitivities = "" if written.scores_only else f", sensitivities to {check.sensitivity_error:.1e} of the largest"
    console.print(
        f"At {check.examples} target examples its numbers are the audit's own: scores to {check.score_error:.1e} sd"
        f"{sensitivities}."
    )
    for warning in written.warnings:
        console.print(Text(f"Note: {warning}", style="dim"))


def show_pictures(made: Visualisation, written: Sequence[Path]) -> None:
    """What each made picture shows in words, and where it is."""
    from caveat_reports import visualised  # with the templates of pages, which no other command prints

    console = out()
    for one in made.pictures:
        console.print(visualised.sentence(one))
    for warning in made.warnings:
        console.print(Text(f"Note: {warning}", style="dim"))
    console.print(f"Wrote {', '.join(map(str, written))}.")


def show_gradient(written: Written) -> None:
    """What a gradient model reads and yields, and how well it agrees with finite differences."""
    console = out()
    size = written.path.stat().st_size
    console.print(f"Wrote {written.path}: {written.nodes} nodes, {size:,} bytes.")
    for kind, tensors in (("reads", written.inputs), ("yields", written.outputs)):
        for tensor in tensors:
            console.print(f"{kind:<7} {tensor.name}  {tensor.dtype} {_shape(tensor.shape)}")
    for sentence in written.sentences:
        console.print(sentence)
    if written.residual is None:
        console.print("It was not compared with finite differences: the model runs on no noise.")
    else:
        console.print(f"It agrees with finite differences on noise: to {written.residual:.1e}.")
    for warning in written.warnings:
        console.print(Text(f"Note: {warning}", style="dim"))


def _shape(shape: Sequence[int | str | None]) -> str:
    return "×".join("?" if size is None or _UNTELLING.fullmatch(str(size)) else str(size) for size in shape) or "scalar"


_UNTELLING = re.compile(r".{25,}|unk__\d+|.*DynamicDimension\S*")
"""Sizes that exporters name by long formulas of the input's, by numbers, or by nothing but their being free."""


def _data(text: str) -> str:
    """Text as GitHub's workflow commands want it."""
    return one_line(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
