"""Calls buildah to build images, to read their configuration and to mount their files."""

# ruff: noqa: S603 - runs our own programs
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
    """The name of a target's image."""
    return f"localhost/caveat-{target}:dev"


def configuration(target: str) -> dict[str, Any]:
    """The configuration of an image."""
    image: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", tag(target)))["Docker"]
    return image


@contextmanager
def mounted(target: str) -> Iterator[Path]:
    """Mounts the files of an image."""
    reference = target if ":" in target else tag(target)
    container = buildah("from", "--pull-never", reference).strip()
    try:
        yield Path(buildah("mount", container).strip())
    finally:
        buildah("rm", container)


def say(words: str) -> None:
    """Prints the next step."""
    print(f"== {words}", flush=True)


def buildah(*arguments: str) -> str:
    """Runs buildah and returns its output."""
    return run("buildah", *arguments)


def run(*command: str, **environment: str) -> str:
    """Runs a program and returns its output; exits with the end of that output if the program fails."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:3])} ended with {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout
