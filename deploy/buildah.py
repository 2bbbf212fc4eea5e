"""Asks buildah: about images, and for their files."""

# ruff: noqa: S603 - it runs our programs
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def tag(target: str) -> str:
    """What the image of a target is called."""
    return f"localhost/caveat-{target}:dev"


def configuration(target: str) -> dict[str, Any]:
    """What an image says of itself."""
    told: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", tag(target)))["Docker"]
    return told


@contextmanager
def mounted(target: str) -> Iterator[Path]:
    """The files of an image."""
    reference = target if ":" in target else tag(target)
    container = buildah("from", "--pull-never", reference).strip()
    try:
        yield Path(buildah("mount", container).strip())
    finally:
        buildah("rm", container)


def say(words: str) -> None:
    """Tells what comes next."""
    print(f"== {words}", flush=True)


def buildah(*arguments: str) -> str:
    """What buildah answers."""
    return run("buildah", *arguments)


def run(*command: str, **environment: str) -> str:
    """What a program prints; one that fails ends everything, with its last words."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout
