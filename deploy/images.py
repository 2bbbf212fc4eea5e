"""Builds Caveat's images, inspects them, runs them and reports their sizes: `python -m deploy.images`, as root.

No daemon is needed: buildah builds in chroot isolation, on a base that mmdebstrap makes from Debian's packages.
"""

# ruff: noqa: S607 - calls git
from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deploy.buildah import buildah, configuration, mounted, run, say, tag
from deploy.trial import USER, audit_through

ROOT = Path(__file__).parents[1]
BASE = "localhost/caveat-base:bookworm"
EPOCH = "315532800"
"""The first second of 1980, the earliest time that a zip file can hold; every file in an image gets it."""

BASE_PACKAGES = ("ca-certificates", "python3-venv", "usr-is-merged")
PURGE = 'chroot "$1" apt-get purge --quiet --yes --autoremove usrmerge perl "perl-modules-*" "libperl5*"'
"""Removes usrmerge, done once the base is made, and Perl, which it depends on: a third of the base."""
LEFT_OUT_OF_BASE = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")

COMPILERS = ("cc", "gcc", "g++", "clang", "make", "pip", "pip3")
ABSENT = {
    "cli": ("celery", "flask", "numpy", "onnx", "onnxruntime", "pip", "setuptools", "sqlalchemy"),
    "api": ("numpy", "onnx", "onnxruntime", "pandas", "pip", "scikit-learn", "scipy", "setuptools", "torch"),
    "worker": ("flask", "flask-swagger-ui", "gunicorn", "jinja2", "pip", "stamina", "torch"),
    "worker-gpu": (
        "flask",
        "flask-swagger-ui",
        "gunicorn",
        "jinja2",
        "onnxruntime",
        "pip",
        "rich",
        "stamina",
        "torch",
    ),
}
"""Packages that must not be in an image, because its process does not use them."""

OWN = {
    "cli": {"caveat_spec", "caveat_storage", "caveat_reports", "caveat"},
    "api": {"caveat_spec", "caveat_storage", "caveat_telemetry", "caveat_reports", "caveat_service", "caveat"},
    "worker": {"caveat_spec", "caveat_storage", "caveat_telemetry", "caveat_worker"},
    "worker-gpu": {"caveat_spec", "caveat_storage", "caveat_telemetry", "caveat_worker"},
}
"""The packages of Caveat in each image; the API's has the client for `caveat keys`, with which operators issue keys."""


FINDS_CUDA = """
import ctypes
from caveat_worker.engine.onnx.session import installed, why_not
assert installed("cuda")
why_not("cuda")
for library in ("libcublasLt.so.13", "libcudart.so.13", "libcudnn.so.9"):
    ctypes.CDLL(library)
"""
"""Fails unless trying to use a GPU loads the libraries from their wheels, where the loader does not look."""


@dataclass(frozen=True)
class Figure:
    """The size of an image in bytes of its files, and its number of Python packages."""

    image: str
    whole: int
    added: int
    packages: int


def main() -> int:
    """Builds, checks and starts the images, audits through them, and prints a summary at the end."""
    wanted = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    wanted.add_argument("--base", help="a base image to use instead of one made from Debian's packages")
    wanted.add_argument("--gpu", action="store_true", help="also build worker-gpu, which takes several gigabytes")
    options = wanted.parse_args()
    _check_tools(needs_base=options.base is None)
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")
    base = options.base or make_base()
    targets = ["cli", "api", "worker", *(["worker-gpu"] if options.gpu else [])]
    with snapshot() as sources:
        for target in targets:
            say(f"building {target}")
            build(target, base, sources)
        say("building cli again, to check that the result is the same")
        assert build("cli", base, sources, again=True) == layers("cli"), "two builds of the same sources differ"
    figures = []
    for target in targets:
        say(f"inspecting {target}")
        figures.append(inspect(target, base))
    with ExitStack() as stack:
        findings = audit_through(stack, gpu=options.gpu)
    print(summary(figures, findings))
    return 0


# ---- building --------------------------------------------------------------------------------------------------------


def make_base() -> str:
    """Makes an image of Debian's Python, unless it was made before; returns its name."""
    if buildah("images", "--quiet", "--filter", f"reference={BASE}").strip():
        return BASE
    say("making the base from Debian's packages")
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "base.tar"
        without = [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT_OF_BASE]
        how = ["--quiet", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", f"--customize-hook={PURGE}"]
        run("mmdebstrap", *how, *without, "bookworm", str(tar), SOURCE_DATE_EPOCH=EPOCH)
        container = buildah("from", "scratch").strip()
        buildah("add", "--quiet", container, str(tar), "/")
        buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        buildah("commit", "--quiet", "--rm", "--format", "docker", "--timestamp", EPOCH, container, BASE)
    return BASE


@contextmanager
def snapshot() -> Iterator[Path]:
    """Copies what the Dockerfile copies, so that an edit during the run does not make two builds differ."""
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder)
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        for name in ["Dockerfile", ".dockerignore", *(line[1:] for line in ignored if line.startswith("!"))]:
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, sources / name)
        yield sources


def build(target: str, base: str, sources: Path, *, again: bool = False) -> list[str]:
    """Builds one target and returns the digests of its layers; `again` builds without the cache, under another name."""
    here = {"pip-conf": Path("/etc/pip.conf"), "ca-bundle": Path("/etc/ssl/certs/ca-certificates.crt")}
    given = [f"--secret=id={name},src={path}" for name, path in here.items() if path.exists()]
    labels = [f"--build-arg=BASE_IMAGE={base}", f"--label=org.opencontainers.image.revision={_revision()}"]
    how = ["--format=docker", "--network=host", f"--timestamp={EPOCH}", "--layers" if not again else "--no-cache"]
    name = f"{target}-again" if again else target
    buildah("bud", "--quiet", *how, *given, *labels, f"--target={target}", f"--tag={tag(name)}", str(sources))
    return layers(name)


def layers(target: str) -> list[str]:
    """The digests of an image's layers; its configuration holds a random host name, so it cannot be compared."""
    found: list[str] = configuration(target)["rootfs"]["diff_ids"]
    return found


@cache
def _revision() -> str:
    """The commit of the sources, looked up once, since someone may commit while images are built."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"


# ---- looking inside --------------------------------------------------------------------------------------------------


def inspect(target: str, base: str) -> Figure:
    """Checks what an image must contain and must not contain; returns its size."""
    config = configuration(target)["config"]
    assert config["User"] == f"{USER}:{USER}", f"{target} runs as {config['User']!r}"
    assert "Healthcheck" in config, f"{target} has no health check"
    assert config["Labels"]["org.opencontainers.image.revision"] == _revision(), f"{target} has no revision"
    with mounted(target) as root, mounted(base) as below:
        for program in COMPILERS:
            found = [
                folder
                for folder in ("usr/bin", "usr/local/bin", "opt/caveat/bin")
                if (root / folder / program).exists()
            ]
            assert not found or (below / found[0] / program).exists(), f"{target} has {program}"
        packages = {
            _plain(folder.name.partition("-")[0]) for folder in root.glob("opt/caveat/lib/*/site-packages/*.dist-info")
        }
        listed = {
            _plain(part["name"]) for part in json.loads((root / "opt/caveat/sbom.cdx.json").read_bytes())["components"]
        }
        assert listed >= packages, f"the SBOM of {target} does not know {packages - listed}"
        assert not packages & set(ABSENT[target]), f"{target} has {packages & set(ABSENT[target])}"
        own = {folder.name for folder in root.glob("opt/caveat/lib/*/site-packages/*")} & set().union(*OWN.values())
        assert own == OWN[target], f"{target} has {own} of Caveat's packages"
        writable = [
            path for path in root.glob("opt/caveat/**/*") if not path.is_symlink() and path.stat().st_mode & 0o022
        ]
        assert not writable, f"{target} has a file that everybody may write: {writable[0]}"
        if target == "worker-gpu":
            run("chroot", str(root), "/opt/caveat/bin/python", "-c", FINDS_CUDA)
        return Figure(target, _bytes(root), _bytes(root) - _bytes(below), len(packages))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _bytes(folder: Path) -> int:
    return int(run("du", "--summarize", "--block-size=1", "--one-file-system", str(folder)).split()[0])


# ---- the rest --------------------------------------------------------------------------------------------------------


def summary(figures: list[Figure], findings: list[str]) -> str:
    """A table of the images' sizes, followed by the findings."""
    rows = [
        f"| `caveat-{figure.image}` | {figure.whole / 1e6:,.0f} MB | {figure.added / 1e6:,.0f} MB | {figure.packages} |"
        for figure in figures
    ]
    head = ["| image | whole | beyond its base | Python packages |", "| --- | ---: | ---: | ---: |"]
    return "\n".join(["", *head, *rows, "", *(f"- {line}" for line in findings)])


def _check_tools(*, needs_base: bool) -> None:
    if os.geteuid() != 0:
        sys.exit("Building without a daemon needs root, because buildah uses chroot isolation.")
    needed = ["buildah", "setpriv", "unshare", *(["mmdebstrap"] if needs_base else [])]
    if missing := [program for program in needed if shutil.which(program) is None]:
        sys.exit(f"{', '.join(missing)} is missing: apt-get install buildah mmdebstrap util-linux")


if __name__ == "__main__":
    sys.exit(main())
