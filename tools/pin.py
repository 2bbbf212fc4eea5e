"""Pins what a build or an installation downloads: GitHub actions by commit, images by digest.

`python tools/pin.py` looks up every reference by a tag, with `git ls-remote` and `skopeo inspect`, and writes what it
finds beside the tag; it needs the network. `--check` only lists the references that are not pinned, and exits with 1 if
there are some; the release workflow runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = (
    "Dockerfile", "docker-compose.yaml", "helm/caveat/values.yaml", ".github/workflows/*.yml",
    "examples/ci/github/*.yml", "examples/ci/gitlab/*.yml",
)  # fmt: skip
ACTION = re.compile(r"(?m)^(\s*(?:- )?uses: )([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)@(v[\w.-]+)$")
"""Indentation, repository, folder in it, tag."""
IMAGE = re.compile(r"(?m)^((?:\s*image:|ARG BASE_IMAGE=) ?)([\w./-]+:[\w.-]+)$")
CHART_IMAGE = re.compile(r'(\{repository: )([\w./-]+)(, tag: ")([\w.-]+)(", digest: ")("\})')


def main(arguments: list[str], root: Path = ROOT, host: str = "https://github.com") -> int:
    """Pins every reference, or lists those that are not pinned."""
    ways: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
        (ACTION, lambda found: _pinned_action(found, host)),
        (IMAGE, lambda found: f"{found.group()}@{_digest(found.group(2))}"),
        (CHART_IMAGE, lambda found: found.expand(rf"\1\2\3\4\5{_digest(f'{found.group(2)}:{found.group(4)}')}\6")),
    )
    left = 0
    for file in sorted(path for pattern in FILES for path in root.glob(pattern)):
        text = file.read_text()
        for pattern, pinned in ways:
            if "--check" in arguments:
                for found in pattern.findall(text):
                    left += 1
                    print(
                        f"{file.relative_to(root)}: {''.join(found).strip()} is not pinned: run `python tools/pin.py`."
                    )
            else:
                text = pattern.sub(pinned, text)
        if "--check" not in arguments:
            file.write_text(text)
    return 1 if left else 0


def _pinned_action(found: re.Match[str], host: str) -> str:
    before, repository, folder, tag = found.groups()
    return f"{before}{repository}{folder}@{_commit(f'{host}/{repository}', tag)}  # {tag}"


def _commit(repository: str, tag: str) -> str:
    """The commit of a tag; of an annotated one the commit that it names."""
    listed = _run("git", "ls-remote", repository, f"refs/tags/{tag}", f"refs/tags/{tag}^{{}}").splitlines()
    if not listed:
        sys.exit(f"{repository} has no tag {tag}.")
    return listed[-1].split()[0]


def _digest(image: str) -> str:
    """The digest of an image's index, of all platforms."""
    return _run("skopeo", "inspect", "--format", "{{.Digest}}", f"docker://{image}").strip()


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - our own programs
    except FileNotFoundError:
        sys.exit(f"{command[0]} is missing: apt-get install {command[0]}")
    except subprocess.CalledProcessError as fault:
        sys.exit(f"{' '.join(command)} failed: {fault.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
