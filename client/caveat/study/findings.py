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
from caveat_reports.canonical import canonical
from caveat_reports.study import findings as page
from caveat_reports.study.dealing import tests_of
from caveat_reports.study.wording import worded
from caveat_spec.report import Report
from caveat_spec.study import NewFindings, Rating, Study, StudyFindings


def read_study(path: Path, files: Sequence[Path], report: Path | None) -> tuple[Study, StudyFindings]:
    """The study in a folder and what its ratings came to; `files` are those of the folder where none is named."""
    require("`caveat study read`", ["numpy", "scipy"], "local")
    from caveat_worker.study_analysis import analyse_study

    folder = open_study(path)
    tests = [] if report is None else tests_of(_report_of(report, folder.study), folder.study)
    ratings = Ratings()
    for file in files or _files(folder):
        read_ratings(file, folder.study, ratings)
    answers = [
        Rating(rater=rater, task=task, **answer.model_dump()) for (rater, task), answer in ratings.answers.items()
    ]
    new = NewFindings(study=folder.study, digest=folder.digest, ratings=answers, refused=ratings.refused, tests=tests)
    return folder.study, worded(folder.study, analyse_study(new))


def write_findings(study: Study, found: StudyFindings, wanted: dict[str, Path]) -> None:
    """Writes what was found in each wanted format (`html`, `json`) to its path."""
    for name, path in wanted.items():
        write(path, page.render(study, found).encode() if name == "html" else canonical(found), name)


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
