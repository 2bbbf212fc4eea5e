"""Studies on a service: made of an audit's report there, and read once they are closed."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from pathlib import Path

from caveat.client import Client
from caveat.outputs import writing
from caveat.problems import ProblemError, problem
from caveat.study.folder import LINKS, STUDY, by_rater, require_new, write_secret
from caveat_reports.study.dealing import Design
from caveat_spec.studies import NewStudy, StudyRecord
from caveat_spec.study import Study, StudyFindings

_ID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
POLL_SECONDS = 0.5


def is_on_service(named: Path) -> bool:
    """Whether an argument is the id of something on a service, and no file or folder of that name is here."""
    return _ID.fullmatch(str(named)) is not None and not named.exists()


def make_remote(url: str | None, key: str | None, audit: str, design: Design, path: Path) -> StudyRecord:
    """Makes a study on the service; writes its protocol, and the links of its raters, into a new folder."""
    require_new(path)
    asked = {name: value for name, value in asdict(design).items() if value not in (None, (), {})}
    with Client(_service(url), key) as client:
        made = client.make_study(NewStudy.model_validate({"audit": audit, **asked}))
        links = [f"{client.url.rstrip('/')}{one.path}" for one in made.links]
        with writing(path / STUDY, "Give --output a folder that you may write to."):
            write_secret(path / LINKS, by_rater("link", links))
            (path / STUDY).write_bytes(client.protocol(made.study.id))
    return made.study


def read_remote(
    url: str | None, key: str | None, study: str, *, close: bool
) -> tuple[StudyRecord, Study, StudyFindings | None]:
    """The study, its protocol, and what its ratings came to; no findings while it is open.

    With `close` it takes no more answers, and is analysed.
    """
    with Client(_service(url), key) as client:
        record = client.close_study(study) if close else client.study(study)
        protocol = Study.model_validate_json(client.protocol(study))
        if record.state == "open":
            return record, protocol, None
        while record.analysis in ("queued", "running"):
            time.sleep(POLL_SECONDS)
            record = client.study(study)
        if record.problem is not None:
            raise ProblemError(record.problem)
        return record, protocol, client.findings(study)


def _service(url: str | None) -> str:
    if url is None:
        raise problem(
            "no-service",
            422,
            "The name is an id on a service, and no service is named.",
            "Set $CAVEAT_URL or pass --url; or name a file or folder of this machine.",
        )
    return url
