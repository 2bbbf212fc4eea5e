"""`caveat study read`: takes the ratings of a study, analyses them, and sets them beside the report's own tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caveat.gate import read_report
from caveat.installation import require
from caveat.outputs import write
from caveat.problems import problem
from caveat.study.folder import StudyFolder, open_study
from caveat.study.ratings import Ratings, read_ratings
from caveat_reports import summary
from caveat_reports.canonical import canonical
from caveat_reports.study import findings as page
from caveat_spec.report import Report
from caveat_spec.results import ConceptTest, rounded
from caveat_spec.study import Study, StudyFindings, Tested, Weighed


def read_study(path: Path, files: Sequence[Path], report: Path | None) -> tuple[Study, StudyFindings]:
    """The study in a folder and what its ratings came to; `files` are those of the folder where none is named."""
    require("`caveat study read`", ["numpy", "scipy"], "local")
    from caveat.study.analysis import analyse

    folder = open_study(path)
    tests = [] if report is None else tests_of(_report_of(report, folder.study), folder.study)
    ratings = Ratings()
    for file in files or _files(folder):
        read_ratings(file, folder.study, ratings)
    found = analyse(folder.study, folder.digest, ratings, tests)
    return folder.study, rounded(found)


def write_findings(study: Study, found: StudyFindings, wanted: dict[str, Path]) -> None:
    """Writes what was found in each wanted format (`html`, `json`) to its path."""
    for name, path in wanted.items():
        write(path, page.render(study, found).encode() if name == "html" else canonical(found), name)


def tests_of(report: Report, study: Study) -> list[Tested]:
    """What a report's tests say of each class: about its concept, and about the one that stands for the image."""
    roles: dict[tuple[str, str], Weighed] = {
        **{(concept, of): "concept" for of, concept in study.concepts.items()},
        **{(concept, of): "image" for of, concept in study.image_concepts.items()},
    }
    return [
        _tested(test, roles[pair.concept, pair.target], report.alpha)
        for pair in summary.pairs(report)
        if (pair.concept, pair.target) in roles
        for test in [pair.strongest or pair.intervention]
        if test is not None
    ]


def _tested(test: ConceptTest, role: Weighed, alpha: float) -> Tested:
    return Tested(
        of=test.target,
        concept=test.concept,
        stands_for=role,
        place=test.place,
        score=None if test.score is None else test.score.value,
        score_interval=None if test.score is None else test.score.interval,
        effect_in_sd=test.effect.in_sd,
        effect_interval=test.effect.interval_in_sd,
        p=test.effect.deciding_p,
        significant=test.effect.deciding_p <= alpha,
    )


def _files(folder: StudyFolder) -> list[Path]:
    """The files of ratings that a study's folder has: typed from paper, and left by served forms."""
    return [file for file in (folder.template, folder.answers) if file.exists()]


def _report_of(path: Path, study: Study) -> Report:
    report = read_report(path)
    if report.audit.model != study.model:
        raise problem(
            "other-model",
            422,
            f"{path} is about another model than the study's maps are of.",
            f"Name a report about the model {study.model}.",
        )
    return report
