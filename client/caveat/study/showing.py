"""What a person sees of a study on a terminal."""

from __future__ import annotations

from pathlib import Path

from caveat.console_output import Table, Text, out
from caveat.study.folder import LINKS
from caveat.study.making import Made
from caveat_reports.formatting import fixed, signed
from caveat_spec.studies import StudyRecord
from caveat_spec.study import Cell, Study, StudyFindings

MOST_REFUSED = 50
"""Refused rows that are printed one by one; JSON and page have all."""


def show_made(made: Made) -> None:
    """What was written, and what to do with it."""
    study, console = made.study, out()
    tasks = len(study.sheets[0].tasks)
    pictures = sum(len(one.pictures) for one in study.classes)
    console.print(
        Text.assemble(
            ("Made", "bold"),
            f" {made.path} for {len(study.sheets)} raters, each with {tasks} tasks "
            f"({len(study.classes)} classes x {len(study.maps)} kinds of map) of {study.pictures} pictures.",
        )
    )
    console.print(
        f"Raters weigh the {study.concept.replace('_', ' ')} against the image, in {pictures} pictures with "
        f"{pictures * len(study.maps)} maps: {', '.join(kind.title for kind in study.maps)}."
    )
    if not study.truth:
        console.print("No --truth was given: whether ratings are right will not be said.")
    if tasks != 6:
        console.print(f"The article's protocol has 6 tasks, of 3 classes and 2 kinds of map; this one has {tasks}.")
    console.print(f"On paper: print {made.path / 'forms'}, type what raters mark into {made.path / 'ratings.csv'}.")
    console.print(f"In a browser: caveat study serve {made.path}. Then: caveat study read {made.path}.")


def show_made_remotely(made: StudyRecord, path: Path) -> None:
    """What the service has now, and what to do with it."""
    console = out()
    console.print(
        Text.assemble(
            ("Made", "bold"),
            f" the study {made.id} on the service for {made.raters} raters, each with {made.tasks // made.raters} "
            f"tasks ({len(made.classes)} classes x {len(made.maps)} kinds of map).",
        )
    )
    console.print(f"Links of raters: {path / LINKS}, shown this once. Whoever has one answers for its rater.")
    console.print(f"When they have answered: caveat study read {made.id} --close.")


def show_progress(record: StudyRecord) -> None:
    """How far an open study is."""
    console = out()
    console.print(
        f"{record.taken} of {record.tasks} tasks were answered by {record.answered} of {record.raters} raters. The "
        "study is open."
    )
    console.print(f"It is analysed once, when it takes no more answers: caveat study read {record.id} --close.")


def show_findings(study: Study, found: StudyFindings) -> None:
    """Refused rows, what was asked of all raters, the classes, right and wrong, and the orders side by side."""
    console = out()
    for one in found.refused[:MOST_REFUSED]:
        console.print(Text(f"{one.file}, line {one.line}: not taken: {one.reason}.", style="yellow"))
    if len(found.refused) > MOST_REFUSED:
        console.print(Text(f"{len(found.refused) - MOST_REFUSED} more rows were not taken.", style="yellow"))
    console.print(
        Text.assemble(
            (f"{found.taken} of {found.tasks} tasks", "bold"),
            f" were answered by {found.answered} of {found.raters} raters; {len(found.refused)} rows were not taken.",
        )
    )
    partly = [one for one in found.missing if len(one.tasks) < len(study.sheets[one.rater - 1].tasks)]
    for rater in partly[:MOST_REFUSED]:
        tasks = ", ".join(map(str, rater.tasks))
        console.print(f"  Rater {rater.rater} has not answered task{'s' if len(rater.tasks) > 1 else ''} {tasks}.")
    for question in found.questions:
        decided = question.p_corrected is not None and question.p_corrected <= found.alpha
        console.print(Text(question.sentence, style="bold" if decided else ""))
    console.print(_cells(found))
    for right in found.correctness:
        console.print(right.sentence)
    if found.tests or study.truth:
        console.print(_orders(study, found))
        for order in found.orders:
            if found.tests:
                console.print(Text(f"  {order.of}: {order.tests_sentence}", style="dim"))
    for note in found.notes:
        console.print(Text(note, style="dim"))


def _cells(found: StudyFindings) -> Table:
    table = Table(
        ("class", "map", "image", found.concept, "difference", "sure", "raters"), right=frozenset({2, 3, 4, 5, 6})
    )
    for one in found.cells:
        table.add_row(
            one.of, one.map, _mean(one.image), _mean(one.concept), difference_words(one), _mean(one.confidence),
            str(one.raters),
        )  # fmt: skip
    return table


def _orders(study: Study, found: StudyFindings) -> Table:
    kinds = [kind.name for kind in study.maps]
    tests = ("by the report's tests",) if found.tests else ()
    table = Table(("matters more for", *(f"to raters, {name}" for name in kinds), *tests, "in truth"))
    words = {"image": "image", "concept": found.concept, None: "undecided"}
    for one in found.orders:
        truth = "not said" if one.truth is None else words[one.truth]
        said = [words[one.tests]] if tests else []
        table.add_row(one.of, *(words[one.raters[name]] for name in kinds), *said, truth)
    return table


def difference_words(one: Cell) -> str:
    """By how much the concept is rated above the image, with its interval."""
    if one.difference is None:
        return ""
    ends = "" if one.interval is None else f" ({signed(one.interval[0], 2)} to {signed(one.interval[1], 2)})"
    return f"{signed(one.difference, 2)}{ends}"


def _mean(value: float | None) -> str:
    return "" if value is None else fixed(value, 1)
