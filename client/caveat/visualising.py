"""`caveat visualise`: pictures of what atoms of a layer look for, as files and as a page.

They are no part of a report: the way to a picture is chaotic in the last bit, and a report's bytes are reproducible. A
signed statement beside them has the digest of each.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from caveat import local
from caveat.attestation import location
from caveat.auditfile import AuditFile, fetched, resolve
from caveat.outputs import write, writing
from caveat.picture_attestation import ENVELOPE
from caveat.problems import pointing_into, problem
from caveat.progress import ProgressCallback
from caveat_reports import visualised
from caveat_reports.formatting import slug
from caveat_spec.artifacts import MadePicture, PictureFile, Visualisation, VisualisationFile
from caveat_spec.attestation import Run
from caveat_spec.base import digest_of_bytes
from caveat_spec.explanations import MOST_VISUALISED
from caveat_spec.jobs import NewVisualisation
from caveat_storage import attestations
from caveat_storage.attestations import MADE, PAGE
from caveat_storage.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from securesystemslib.signer import Signer


def visualise(file: AuditFile, wanted: Mapping[str, Any], on_progress: ProgressCallback) -> Visualisation:
    """Makes the pictures of `wanted`, by the names of `VisualisationOptions`.

    Raises a `ProblemError` for what the model or the examples do not allow.
    """
    count = sum(len(wanted[kind]) for kind in ("channels", "concepts", "like"))
    if not 1 <= count <= MOST_VISUALISED:
        raise problem(
            "too-many-pictures" if count else "nothing-to-visualise",
            422,
            f"A run makes 1 to {MOST_VISUALISED} pictures, and {count} were asked for.",
            "Pass --channel with a number, --concept with the name of one in the audit file, or --like with an "
            "example's name.",
        )
    with pointing_into(file.positions), temporary_folder() as folder:
        resolved = resolve(fetched(file, folder))
        asked = NewVisualisation(audit=resolved.audit, **wanted)
        return local.make_pictures(asked, resolved, on_progress)


def write_pictures(made: Visualisation, folder: Path) -> dict[Path, bytes]:
    """Writes each picture that is shown, `visualised.json`, which names the pictures by digest, and the page.

    What an earlier run left in the folder is removed: the pictures that its `visualised.json` names, and its statement.
    """
    contents: dict[str, bytes] = {}
    pictures = []
    for name, one in zip(_file_names(made.pictures), made.pictures, strict=True):
        facts = one.model_dump(mode="json", exclude={"picture"})
        if one.withheld is None:
            contents[name] = base64.b64decode(one.picture)
        digest = digest_of_bytes(contents[name]) if name in contents else None
        pictures.append(PictureFile(**facts, file=name if name in contents else None, digest=digest))
    facts = made.model_dump(mode="json", exclude={"pictures"})
    document = VisualisationFile(**facts, pictures=pictures).model_dump(mode="json")
    contents[MADE] = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    contents[PAGE] = visualised.render(made).encode()
    with writing(folder / MADE):
        for path in (*_earlier(folder), folder / ENVELOPE):
            path.unlink(missing_ok=True)
    for name, content in contents.items():
        write(folder / name, content, "write")
    return {folder / name: content for name, content in contents.items()}


def require_room(folder: Path) -> None:
    """Raises a `ProblemError` where a folder has other files: a statement has to name every one."""
    ours = {*_earlier(folder), *(folder / name for name in (MADE, PAGE, ENVELOPE))}
    others = sorted(path for path in folder.iterdir() if path not in ours) if folder.is_dir() else []
    if others:
        raise problem(
            "folder-not-empty",
            422,
            f"{others[0]} is no made picture, and a signed folder holds nothing else.",
            "Give --write a new folder.",
        )


def sign_pictures(written: dict[Path, bytes], started: datetime, keys: Sequence[Signer]) -> Path:
    """Signs a statement about the files that `write_pictures` wrote, and writes it beside them."""
    by_name = {path.name: content for path, content in written.items()}
    run = Run(audit=None, where=location(), started_at=started, finished_at=datetime.now(UTC).replace(microsecond=0))
    page = digest_of_bytes(by_name[PAGE])
    path = next(iter(written)).parent / ENVELOPE
    write(path, attestations.sign(attestations.state_pictures(by_name[MADE], page, run), keys), "write")
    return path


def _earlier(folder: Path) -> list[Path]:
    """The pictures of an earlier run that lie in a folder as that run wrote them."""
    try:
        found = VisualisationFile.model_validate_json((folder / MADE).read_bytes())
    except (OSError, ValidationError):
        return []
    files = {folder / one.file: one.digest for one in found.pictures if one.file is not None}
    return [path for path, digest in files.items() if path.is_file() and digest_of_bytes(path.read_bytes()) == digest]


def _file_names(pictures: list[MadePicture]) -> list[str]:
    """A name for each picture's file; numbered where two would be the same."""
    plain = [slug(one.atom) for one in pictures]
    return [f"{name}.png" if plain.count(name) == 1 else f"{name}-{at}.png" for at, name in enumerate(plain, 1)]
