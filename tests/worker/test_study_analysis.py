"""A study's ratings are analysed in the confined process of a job, with the numbers that this process gets."""

from __future__ import annotations

from caveat.local import _supervised
from caveat_reports.study import dealing
from caveat_reports.study.wording import worded
from caveat_spec.base import digest_of_bytes
from caveat_spec.jobs import sources
from caveat_spec.study import NewFindings, Rating, StudyFindings
from caveat_worker.study_analysis import analyse_study
from tests.client import rated


def test_the_confined_process_gets_the_same_numbers() -> None:
    report = rated.report()
    study, _ = dealing.plan(report, dealing.Design(9, 7, truth={"cab": "image"}))
    ratings = [
        Rating(rater=sheet.rater, task=number, image=1 + (sheet.rater * number) % 10, concept=5, confidence=3)
        for sheet in study.sheets
        for number in range(1, len(sheet.tasks) + 1)
    ]
    new = NewFindings(study=study, digest=digest_of_bytes(b""), ratings=ratings, tests=dealing.tests_of(report, study))
    assert sources(new) == {}, "it reads no file"
    found = StudyFindings.model_validate_json(
        _supervised("findings", new.model_dump(mode="json"), {}, lambda stage, share: None)
    )
    assert found == analyse_study(new)
    assert (found.taken, found.answered, found.missing) == (54, 9, [])
    assert [one.sentence for one in found.questions] == [""] * 3, "sentences are not a worker's"
    assert all(one.sentence for one in worded(study, found).questions)
