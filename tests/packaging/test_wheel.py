"""What an installation puts beside other people's packages: Caveat's own names, and nothing generic."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.client.models import write_audit

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "caveat",
    "caveat_reports",
    "caveat_service",
    "caveat_spec",
    "caveat_storage",
    "caveat_telemetry",
    "caveat_worker",
}
GENERIC = sorted({path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier()} | {"vault"})
"""Folders of the repository, whose names other projects have too."""


def build(kind: str, into: Path) -> Path:
    """A wheel of this checkout, made by the build backend without a network."""
    script = f"import hatchling.build; print(hatchling.build.build_{kind}({str(into)!r}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def unpack(wheel: Path, into: Path) -> Path:
    with ZipFile(wheel) as archive:
        archive.extractall(into)
    return into


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_manual_page_is_where_man_looks(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (page,) = [name for name in archive.namelist() if name.endswith("data/data/share/man/man1/caveat.1")]
        assert archive.read(page) == (ROOT / "docs" / "man" / "caveat.1").read_bytes()


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and the dependencies from this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/*/site-packages")
    unpack(wheel, packages)
    dependencies = [entry for entry in sys.path if entry.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    return folder / "bin" / "python"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose own packages have the names of Caveat's folders, and do not want to be imported by others."""
    for name in GENERIC:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('{name} is another project')\n")
    return tmp_path


def test_the_wheel_takes_no_generic_name(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    beside = (".dist-info/", ".data/data/share/man/")
    assert {name.partition("/")[0] for name in names if not any(one in name for one in beside)} == PACKAGES


def test_every_package_says_that_it_is_typed(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        typed = {name.partition("/")[0] for name in archive.namelist() if name.endswith("/py.typed")}
    assert typed == PACKAGES


def test_the_licence_goes_with_it(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        licences = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def caveat(python: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command in that project, whose folder is on the path before Caveat's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAVEAT_")}
    return subprocess.run(
        [python, "-m", "caveat", *arguments],
        cwd=project,
        env={**environment, "PYTHONPATH": str(project), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_runs_in_a_project_with_packages_of_those_names(python: Path, project: Path) -> None:
    help_ = caveat(python, project, "--help")
    assert (help_.returncode, help_.stderr) == (0, "")
    schema = caveat(python, project, "schema")
    assert (schema.returncode, schema.stderr) == (0, "")
    write_audit(project)
    gate = caveat(python, project, "gate", "audit.yaml", "--html", "report.html")
    assert gate.returncode == 1, "this audit fails by its gate\n" + gate.stderr
    assert "first must not matter to yes" in gate.stdout
    assert (project / "report.html").read_text().startswith("<!doctype html>")


def test_an_editable_installation_exposes_no_generic_name(tmp_path: Path) -> None:
    site = unpack(build("editable", tmp_path), tmp_path / "site")
    script = (
        "import importlib.util, site, sys\n"
        "site.addsitedir(sys.argv[1])\n"
        "print(*[name for name in sys.argv[2:] if importlib.util.find_spec(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, site, *GENERIC, *PACKAGES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == PACKAGES


def test_each_folder_holds_one_package(tmp_path: Path) -> None:
    """An editable installation puts these folders on the path, and with them all that lies in them."""
    site = unpack(build("editable", tmp_path), tmp_path / "site")
    (paths,) = site.glob("*.pth")
    held = {one.name for line in paths.read_text().split() for one in Path(line).iterdir()}
    assert held - {"__pycache__"} == PACKAGES
