"""A newcomer's journey with one model: `layers`, `init`, `gate` with every output, `verify`, by default options."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from caveat_spec.formats import FORMATS

Result = Literal["audited", "refused", "does not run", "crashed", "not made"]
"""`does not run`: the file that `init` wrote is not answered by `gate`; `not made`: its own library failed."""

CAVEAT = Path(sys.executable).parent / "caveat"
OUTPUTS = {form.name: f"out/report.{form.name}" for form in FORMATS}
ATTESTATION = "out/attestation.dsse.json"
LONGEST = 900
"""Seconds after which a command counts as hung."""
ALLOWED = {"layers": {0, 2}, "init": {0, 2}, "gate": {0, 1, 2, 4}, "verify": {0}}


@dataclass(frozen=True)
class Ran:
    """One command, and what came of it."""

    command: str
    code: int
    output: str
    seconds: float

    @property
    def crashed(self) -> bool:
        """Whether it ended in another way than the documentation promises."""
        return self.code not in ALLOWED[self.command] or "Traceback (most recent call last)" in self.output

    @property
    def error(self) -> str:
        """Its error in one line, with the remedy."""
        found = re.search(r"Error: (.*)", self.output, re.DOTALL)
        return " ".join((found[1] if found else without_folders(self.output)).split())


@dataclass(frozen=True)
class Journey:
    """How far a model came, and what it was answered."""

    result: Result
    words: str
    """What the report holds, or the sentence that stopped it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each command that ran."""

    @property
    def total(self) -> float:
        """Seconds of all commands."""
        return sum(self.seconds.values())

    def save(self, path: Path) -> None:
        """Writes the journey as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Journey:
        """Reads what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def without_folders(text: str) -> str:
    """A message without this machine's folders: absolute paths are reduced to the names of their files."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+", "", text)


def travel(folder: Path, keys: Path) -> Journey:
    """Takes the model in `folder` through every command; `keys` names a pair that `caveat keygen` made."""
    done: list[Ran] = []

    def ended(result: Result, words: str) -> Journey:
        (folder / "journey.log").write_text(
            "".join(f"$ caveat {one.command}: {one.code}\n{one.output}\n" for one in done)
        )
        return Journey(result, words, {one.command: round(one.seconds, 1) for one in done})

    for command, arguments in _commands(keys):
        ran = _run(command, arguments, folder)
        done.append(ran)
        if ran.crashed:
            return ended("crashed", f"`caveat {command}` exits with {ran.code}: {ran.error}")
        if ran.code == 2:
            refused = command in ("layers", "init")
            return ended("refused" if refused else "does not run", f"`caveat {command}`: {ran.error}")
    return ended(*_judged(folder))


def make_keys(folder: Path) -> Path:
    """A key pair in `folder`, as `caveat keygen` makes it: the path without its suffix."""
    name = folder / "caveat"
    if not name.with_suffix(".key").exists():
        subprocess.run([CAVEAT, "keygen", name], check=True, capture_output=True)
    return name


def _commands(keys: Path) -> list[tuple[str, list[str]]]:
    wanted = [part for name, path in OUTPUTS.items() for part in (f"--{name}", path)]
    signed = ["--attestation", ATTESTATION, "--sign-key", f"{keys}.key"]
    compared = ["--key", f"{keys}.pub", "--report", OUTPUTS["json"], "--model", "model.onnx"]
    return [
        ("layers", ["model.onnx"]),
        ("init", ["model.onnx"]),
        ("gate", ["audit.yaml", *wanted, *signed]),
        ("verify", [ATTESTATION, *compared]),
    ]


def _run(command: str, arguments: list[str], folder: Path) -> Ran:
    """Runs `caveat` as a user's shell would: no options of ours, no colours, no service."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAVEAT_")}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [CAVEAT, command, *arguments],
            cwd=folder,
            env=environment | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST,
        )
        code, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, output = -1, f"no answer after {LONGEST} seconds"
    return Ran(command, code, output, time.monotonic() - began)


def _judged(folder: Path) -> tuple[Result, str]:
    """Whether every output is there and can be read, and what the report holds."""
    for name, path in OUTPUTS.items():
        try:
            _parse(name, (folder / path).read_text(encoding="utf-8"))
        except (OSError, ValueError, ET.ParseError) as error:
            return "crashed", f"the {name} output cannot be read: {error}"
    report = json.loads((folder / OUTPUTS["json"]).read_text(encoding="utf-8"))
    found = _found(report)
    if not found:
        return "does not run", "the report holds no figure"
    return "audited", f"{report['verdict']['outcome']}: {found}"


def _parse(name: str, text: str) -> None:
    if not text.strip():
        raise ValueError("it is empty")
    if name in ("json", "sarif", "gitlab"):
        json.loads(text)
    elif name == "junit":
        ET.fromstring(text)
    elif name == "html" and "</html>" not in text:
        raise ValueError("it has no end")


def _found(report: dict[str, Any]) -> str:
    """The lines of evidence in a report, counted: `association at 3 layers, 1 intervention`."""
    layers = {test["layer"] for test in report["tests"] if test["evidence"] == "association"}
    lines = Counter(test["evidence"] for test in report["tests"])
    counts = {
        "association at {} layer": len(layers),
        "{} intervention": lines["intervention"],
        "{} group comparison": len(report["comparisons"]),
    }
    return ", ".join(words.format(count) + "s" * (count > 1) for words, count in counts.items() if count)
