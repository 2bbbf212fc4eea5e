"""`caveat visualise`: pictures of what atoms of a layer look for, as files and as a page.

They are no part of a report: the way to a picture is chaotic in the last bit, and a report's bytes are reproducible.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caveat import local
from caveat.auditfile import AuditFile, fetched, resolve
from caveat.outputs import write
from caveat.problems import pointing_into, problem
from caveat.progress import ProgressCallback
from caveat_reports import visualised
from caveat_reports.formatting import slug
from caveat_spec.artifacts import MadePicture, Visualisation
from caveat_spec.base import digest_of_bytes
from caveat_spec.explanations import MOST_VISUALISED
from caveat_spec.jobs import NewVisualisation


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
    with pointing_into(file.positions), tempfile.TemporaryDirectory(prefix="caveat-") as folder:
        resolved = resolve(fetched(file, Path(folder)))
        asked = NewVisualisation(audit=resolved.audit, **wanted)
        return local.make_pictures(asked, resolved, on_progress)


def write_pictures(made: Visualisation, folder: Path) -> list[Path]:
    """Writes each picture that is shown, the page, and `visualised.json`, which names the pictures by digest."""
    document, written = made.model_dump(mode="json"), []
    names = _file_names(made.pictures)
    for name, one, fields in zip(names, made.pictures, document["pictures"], strict=True):
        del fields["picture"]
        if one.withheld is not None:
            continue
        content = base64.b64decode(one.picture)
        fields["file"], fields["digest"] = name, digest_of_bytes(content)
        write(folder / name, content, "write")
        written.append(folder / name)
    for name, content in (
        ("visualised.json", json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"),
        ("index.html", visualised.render(made).encode()),
    ):
        write(folder / name, content, "write")
        written.append(folder / name)
    return written


def _file_names(pictures: list[MadePicture]) -> list[str]:
    """A name for each picture's file; numbered where two would be the same."""
    plain = [slug(one.atom) for one in pictures]
    return [f"{name}.png" if plain.count(name) == 1 else f"{name}-{at}.png" for at, name in enumerate(plain, 1)]
