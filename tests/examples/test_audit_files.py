"""The demo's audit files hold to the contract, and name what the build scripts write."""

from __future__ import annotations

from pathlib import Path

import pytest

from caveat.auditfile import read_audit
from examples.loans.build import FOLDER as LOANS
from examples.loans.build import MODELS
from examples.mnist_patch.build import FOLDER as MNIST_PATCH
from examples.upside_down.build import FOLDER as UPSIDE_DOWN
from examples.watermark.build import FOLDER as WATERMARK

ROOT = Path(__file__).parents[2]
AUDITS = sorted((ROOT / "examples").glob("*/*.yaml"))


@pytest.mark.parametrize("path", AUDITS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_audit_file_names_what_is_built(
    path: Path, watermark_folder: Path, loans_folder: Path, mnist_patch_folder: Path, upside_down_folder: Path
) -> None:
    built = {
        WATERMARK: watermark_folder,
        LOANS: loans_folder,
        MNIST_PATCH: mnist_patch_folder,
        UPSIDE_DOWN: upside_down_folder,
    }
    for source in read_audit(path).audit.sources().values():
        relative = (path.parent / source).resolve().relative_to(ROOT)
        folder = next(folder for folder in built if relative.is_relative_to(folder))
        assert (built[folder] / relative.relative_to(folder)).exists(), source


@pytest.mark.parametrize("name", sorted(MODELS))
def test_declared_features_are_those_of_the_model(name: str) -> None:
    audit = read_audit(ROOT / "examples/loans" / f"{name.removeprefix('loans-')}.yaml").audit
    for examples in audit.examples.values():
        assert list(examples.features) == MODELS[name]  # type: ignore[union-attr]
