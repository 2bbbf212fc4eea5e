"""The story of `caveat init`: look, draft, try, leave out what does not run, and write what does."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from caveat.auditfile import AuditFile, read_audit, resolve
from caveat.console_output import out
from caveat.inspection import inspect
from caveat.positions import Positions
from caveat.problems import ProblemError, problem
from caveat.progress import ProgressCallback
from caveat.scaffold.arrays import paired_rows, propose_arrays
from caveat.scaffold.beside import Beside, described
from caveat.scaffold.draft import Draft
from caveat.scaffold.features import ORDER
from caveat.scaffold.labelled_pictures import propose_labelled_pictures
from caveat.scaffold.missing import what_to_put_where
from caveat.scaffold.pictures import CHECK_PIXELS, propose_pictures
from caveat.scaffold.tables import propose_tables
from caveat.scaffold.target import Question, choose_question
from caveat.scaffold.texts import propose_texts
from caveat.terminal import progress
from caveat_spec.audit import Audit, ConceptLine
from caveat_spec.cautions import SCANNER_BITS, own_scaling, stored_bits, unlike_pairs
from caveat_spec.power import amount, plan_audit
from caveat_spec.report import Report
from caveat_storage.temporary_folders import temporary_folder

MOST_TRIES = 12
LONGEST_REASON = 1_000
LARGEST_TOLERANCE = 0.5
"""In standard deviations of the target; a draft does not call more than that harmless."""
QUICK = {"runs": 2, "permutations": 19, "bootstrap": 19}
"""Settings of a trial: it computes everything that an audit computes, with the fewest resamples."""
PIXEL_UNITS = (1.0, 255.0)
"""Deviations by which pixels of 0 to 255 are what a model expects that scales them itself."""
OF_THE_AUDIT = ("internal", "child-died")
"""Problems with a status of 500 that another draft may not have."""

Run = Callable[[Audit, Path], Report]
"""Runs an audit whose paths are relative to a folder."""


def write_first_audit(model: Path, write: Path, force: bool, server: str | None, key: str | None) -> None:
    """Writes an audit of `model` that has been tried, and prints what to check and to do next.

    Raises a `ProblemError`, and writes nothing, where the data beside the model are not enough for one.
    """
    if write.exists() and not force:
        raise problem(
            "file-exists",
            422,
            f"{write} exists already.",
            "Choose another name with --write, or replace it with --force.",
        )
    inspection = inspect(model, server, key)
    beside = Beside(model, write.parent, inspection)
    question = choose_question(inspection, lambda output: inspect(model, server, key, output))
    write.parent.mkdir(parents=True, exist_ok=True)
    with progress() as on_progress:
        draft = first_draft(beside, question, lambda audit, place: _run(audit, place, server, key, on_progress))
    write.write_text(_text(beside, draft), encoding="utf-8")
    console = out()
    console.print(f"Wrote {write}, after a trial run with few resamples: it runs.")
    for sentence in draft.to_check:
        console.print(f"  Please check: {sentence}")
    console.print(f"Next: caveat gate {write} --html report.html")


def first_draft(beside: Beside, question: Question | None, run: Run) -> Draft:
    """The first draft that runs, of all that the data suggest; raises a `ProblemError` if none does."""
    if question is None:
        raise _nothing_to_measure(beside)
    first: ProblemError | None = None
    intended: tuple[str, ...] = ()
    tries = 0
    for proposed in _proposals(beside, question):
        draft: Draft | None = proposed
        while draft is not None and tries < MOST_TRIES:
            tries += 1
            try:
                report = _trial(beside, draft, run)
                better = draft
                for mend in (_without_unlike_pairs, _with_own_scaling, _with_stored_bits):
                    better = mend(better, report)
                if better is not draft:
                    draft = better
                    continue
                if first is not None and set(proposed.concepts) != set(intended):
                    draft = _instead(draft, intended, first)
                tested = _with_doubts(_with_tolerances(_without_untested(draft, report), report), report)
                return _with_a_class(beside, tested, question, report, run)
            except ProblemError as error:
                if not _concerns_the_audit(error):
                    raise
                if first is None:
                    first, intended = error, tuple(proposed.concepts)
                draft = _reduced(draft, error)
    raise _refusal(beside, first)


def _instead(draft: Draft, intended: Sequence[str], error: ProblemError) -> Draft:
    """The draft with a sentence about the one that was tried before it, and asked something else."""
    sentence = f"an audit of {', '.join(intended) or 'groups'} does not run: {_reason(error)} {error.problem.remedy}"
    return replace(draft, to_check=(*draft.to_check, sentence))


def _reduced(draft: Draft, error: ProblemError) -> Draft | None:
    """The draft without the part that an error points to, and with a sentence that says so."""
    rest = draft.without(_pointer(error))
    if rest is None:
        return None
    lost = [*(draft.concepts.keys() - rest.concepts.keys()), *(draft.groups.keys() - rest.groups.keys())]
    sentence = f"{', '.join(sorted(lost))} left out, because an audit of it does not run: {_reason(error)}"
    return replace(rest, to_check=(*rest.to_check, sentence))


def _proposals(beside: Beside, question: Question) -> Iterator[Draft]:
    for propose in (propose_labelled_pictures, propose_pictures, propose_texts, propose_tables, propose_arrays):
        yield from (_with_constants(draft, beside.constants) for draft in propose(beside, question))


def _with_constants(draft: Draft, constants: Mapping[str, int]) -> Draft:
    """The draft with numbers for the inputs that no example feeds, and with sentences that say so."""
    sentences = [f"input '{name}' is held at {number} in `constants`." for name, number in constants.items()]
    return replace(draft, constants=constants, to_check=(*draft.to_check, *sentences))


def _without_untested(draft: Draft, report: Report) -> Draft:
    """The draft without concepts that nothing could test: the model has no layers, and they have no pairs."""
    tested = {test.concept for test in report.tests}
    untested = [name for name in draft.concepts if name not in tested]
    rest = draft
    for name in untested:
        rest = rest.without(f"/concepts/{name}") or rest
    if rest is draft:
        return draft
    sentence = (
        f"no audit asks for {' or '.join(untested)}: the model has no layer that can be audited, and does not take "
        f"{'that column' if len(untested) == 1 else 'those columns'}, so that no edit can show what it changes."
    )
    return replace(rest, to_check=(*rest.to_check, sentence))


def _without_unlike_pairs(draft: Draft, report: Report) -> Draft:
    """The draft without pairs whose examples have their names in common, and nothing else."""
    sets, said, kept = dict(draft.sets), [], draft.to_check
    for name, fields in draft.sets.items():
        base = fields.get("pairs_with")
        if base is not None and any(each.startswith(unlike_pairs(name, base)) for each in report.warnings):
            sets[name] = {key: value for key, value in fields.items() if key != "pairs_with"}
            if paired_rows(name, base) in kept:
                kept = tuple(each for each in kept if each != paired_rows(name, base))
                continue
            said.append(
                f"{name} and {base} have examples of the same names that are no more alike than others, so they are "
                "compared as two sets. The same examples without and with the concept would measure its change itself; "
                f"if they are that, as pictures and the same ones turned are, add `pairs_with: {base}` to {name}."
            )
    return replace(draft, sets=sets, to_check=(*kept, *said)) if sets != draft.sets else draft


def _with_own_scaling(draft: Draft, report: Report) -> Draft:
    """The draft with pixels that are not scaled twice, where the report says that the model scales them itself."""
    for std in PIXEL_UNITS:
        begins = own_scaling(draft.at, std)
        if any(each.startswith(begins) for each in report.warnings):
            base = draft.sets[draft.at]["preprocess"]["mean"]
            sets = _preprocessed(draft, partial(_unscaled, base=base, std=std))
            sentence = (
                f"`preprocess` has mean 0 and std {std:g}, because the model's first steps scale pixels themselves."
            )
            kept = tuple(each for each in draft.to_check if each != CHECK_PIXELS)
            return replace(draft, sets=sets, to_check=(*kept, sentence))
    return draft


def _preprocessed(draft: Draft, changed: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The draft's sets with another preprocessing of each."""
    return {name: {**fields, "preprocess": changed(fields["preprocess"])} for name, fields in draft.sets.items()}


def _unscaled(how: Mapping[str, Any], base: Any, std: float) -> dict[str, Any]:
    """A preprocessing for a model that scales pixels itself; what makes them brighter than those of the base stays."""
    first = [one[0] if isinstance(one, list) else one for one in (base, how["mean"])]
    return {**how, "mean": first[1] - first[0], "std": std}


def _with_stored_bits(draft: Draft, report: Report) -> Draft:
    """The draft with the bits that a scanner stores, where the report says that its pictures have no more."""
    told = [bits for bits in SCANNER_BITS if any(stored_bits(bits) in each for each in report.warnings)]
    if not told:
        return draft
    sets = _preprocessed(draft, lambda how: {**how, "bit_depth": max(told)})
    sentence = (
        f"`bit_depth` is {max(told)}, because no grey of the 16-bit pictures that were looked at takes more. It should "
        "be what their scanner stores."
    )
    return replace(draft, sets=sets, to_check=(*draft.to_check, sentence))


def _with_doubts(draft: Draft, report: Report) -> Draft:
    """The draft with a sentence where guessed columns make the model say what no model that was trained on them would.

    It gives every row the same answer, or selects those with the outcome no more often than those without it.
    """
    rows = [row for one in report.comparisons for row in one.rows]
    if ORDER not in draft.to_check or not rows:
        return draft
    label = next((str(group["label"]) for group in draft.groups.values() if "label" in group), "")
    known = [
        (row.true_positive_rate.value, row.false_positive_rate.value)
        for row in rows
        if row.true_positive_rate is not None and row.false_positive_rate is not None
    ]
    selected = sum(row.selected or 0 for row in rows)
    if selected in (0, sum(row.n for row in rows)):
        what = f"selects {'all' if selected else 'none'} of the rows"
    elif known and all(right <= wrong for right, wrong in known):
        what = f"selects rows with `{label}` no more often than rows without it"
    else:
        return draft
    sentence = f"the model {what}, which is rare where `features` are those of its training. Correct them first."
    return replace(draft, to_check=(*draft.to_check, sentence))


def _with_tolerances(draft: Draft, report: Report) -> Draft:
    """The draft with the smallest tolerances that its examples can settle, by the intervals of the trial.

    None is under the convention, a tenth of a standard deviation, and none over half of one: more examples are the
    better answer there.
    """
    settles, assumed = _settled(report, report), _settled(report, None)
    concepts, said = dict(draft.concepts), []
    for name, concept in draft.concepts.items():
        settled = min(settles.get(name, 0.0), LARGEST_TOLERANCE)
        if settled > concept.tolerance:
            tolerance = math.ceil(100 * settled) / 100
            concepts[name] = replace(concept, tolerance=tolerance)
            said.append(_about_tolerance(name, tolerance, settles[name], assumed.get(name)))
    return replace(draft, concepts=concepts, to_check=(*draft.to_check, *said))


def _settled(report: Report, spread: Report | None) -> dict[str, float]:
    """Each concept's smallest tolerance that the examples settle, by the spread of a report or by an assumed one."""
    planned = plan_audit(report.audit, {one.name: one.count for one in report.plan.examples}, spread)
    return {
        line.concept: plan.settles
        for line, plan in zip(report.audit.gate, planned.lines, strict=True)
        if isinstance(line, ConceptLine) and plan.settles is not None
    }


def _about_tolerance(concept: str, tolerance: float, settles: float, assumed: float | None) -> str:
    """Why a concept's tolerance is what it is, whether its examples can settle that, and what `caveat plan` says."""
    if settles <= LARGEST_TOLERANCE:
        why = (
            f"the tolerance of {concept} is {tolerance:g} sd: by the spread in the trial, its examples settle no "
            "smaller one."
        )
    else:
        why = (
            f"the examples of {concept} settle no tolerance below {amount(settles, 'sd')}, by the spread in the trial. "
            f"The draft has {tolerance:g} sd all the same, as more would call too much harmless: give more examples, "
            "or the gate may be inconclusive."
        )
    other = "none" if assumed is None else amount(assumed, "sd")
    return (
        f"{why} `caveat plan`, which runs no model and assumes a spread, says {other}; with the gate's "
        "report (`--report`) it says how many examples a smaller tolerance needs."
    )


def _with_a_class(beside: Beside, draft: Draft, question: Question, report: Report, run: Run) -> Draft:
    """The draft about the class that the model gives most examples, where nothing says which class is meant."""
    if "class_axis" in question.fields:
        sentence = (
            f"`index: {question.fields['index']}` is the first number after the place of each box: whether there is "
            "anything, or the first class; change it to the class that the audit is about."
        )
        return replace(draft, to_check=(*draft.to_check, sentence))
    commonest = report.plan.targets[0].commonest_class if report.plan.targets else None
    if question.classes <= 2 or draft.class_is_known or commonest is None:
        return draft
    sentence = (
        f"`index: {commonest}` is the commonest of {question.classes:,} classes at these examples; change it to the "
        "class that the audit is about."
    )
    chosen = replace(draft, target=question.of_class(commonest).fields, to_check=(*draft.to_check, sentence))
    if commonest != question.fields.get("index"):
        _trial(beside, chosen, run)
    return chosen


def _trial(beside: Beside, draft: Draft, run: Run) -> Report:
    """The report of a draft, run as the audit file that it would be."""
    with temporary_folder() as scratch:
        path = scratch / "audit.yaml"
        path.write_text(_text(beside, draft), encoding="utf-8")
        audit = read_audit(path).audit
    quick = audit.method.model_copy(update=QUICK)
    return run(audit.model_copy(update={"method": quick}), beside.folder)


def _run(audit: Audit, folder: Path, server: str | None, key: str | None, on_progress: ProgressCallback) -> Report:
    """Runs an audit where `caveat gate` would."""
    resolved = resolve(AuditFile(audit, Positions(folder / "audit.yaml")))
    if server is None:
        from caveat import local

        return Report.model_validate_json(local.run_audit(resolved, on_progress, show_faults=False))
    from caveat import remote

    return Report.model_validate_json(remote.run_audit(server, key, resolved, on_progress)[0])


def _text(beside: Beside, draft: Draft) -> str:
    inspection = beside.inspection
    model = os.path.relpath(beside.model, beside.folder)
    heading = [f"An audit of {model}; run it with `caveat gate`. `caveat layers` lists the layers of the model."]
    heading += [f"Input:  {described(one)}" for one in inspection.inputs]
    heading += [f"Output: {described(one)}" for one in inspection.outputs]
    return draft.text(model, [" ".join(line.split()) for line in heading])


def _concerns_the_audit(error: ProblemError) -> bool:
    """Whether another draft may fare better; a server that does not answer will not."""
    return error.exit_code == 2 or error.problem.type.rpartition(":")[2] in OF_THE_AUDIT


def _pointer(error: ProblemError) -> str:
    return next((fault.pointer for fault in error.problem.errors if fault.pointer), "")


def _reason(error: ProblemError) -> str:
    """What is wrong, in one sentence or a few."""
    faults = dict.fromkeys(fault.detail for fault in error.problem.errors)
    return ("; ".join(faults) or error.problem.detail)[:LONGEST_REASON]


def _nothing_to_measure(beside: Beside) -> ProblemError:
    outputs = ", ".join(described(one) for one in beside.inspection.outputs)
    return problem(
        "no-first-audit",
        422,
        f"{beside.model} has no output with scores, so no audit can measure what moves it; its outputs: {outputs}.",
        "Export the model with its probabilities or scores as an output.",
    )


def _refusal(beside: Beside, last: ProblemError | None) -> ProblemError:
    """Why no audit was written: that of the best draft, or that there are no data for one."""
    if last is None:
        detail, remedy = what_to_put_where(beside)
        return problem("no-first-audit", 422, detail, remedy)
    if last.exit_code != 2:
        return last
    return problem(
        "no-first-audit",
        422,
        f"No audit of {beside.model} with the data beside it runs, so none was written: {_reason(last)}",
        last.problem.remedy,
    )
