"""The demonstration: real models, real decisions, real verdicts.

python -m examples.demo

Two ImageNet networks are asked whether a watermark makes them say "carton", and two models of mortgage decisions
whether they lean on race. Inputs are built from installed packages; each audit is an ordinary `caveat gate`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from api_spec.report import Outcome, Report
from examples.loans.build import FOLDER as LOANS
from examples.loans.build import build as build_loans
from examples.watermark.build import FOLDER as WATERMARK
from examples.watermark.build import build as build_watermark

REPORTS = Path(".caveat/demo/reports")
EXIT_CODES: dict[int, Outcome] = {0: "pass", 1: "fail", 4: "inconclusive"}


@dataclass(frozen=True)
class Chapter:
    """One audit of the demonstration, and the question it asks."""

    question: str
    audit: Path

    @property
    def report(self) -> Path:
        """Where its report goes, without an ending."""
        return REPORTS / f"{self.audit.parent.name}-{self.audit.stem}"


CHAPTERS = (
    Chapter(
        'Does EfficientNet-lite0 say "carton" because of a watermark?', Path("examples/watermark/efficientnet.yaml")
    ),
    Chapter("Does SqueezeNet 1.1?", Path("examples/watermark/squeezenet.yaml")),
    Chapter("Do mortgage decisions, and a model of them, lean on race?", Path("examples/loans/with-race.yaml")),
    Chapter("Does a model that is not told the race?", Path("examples/loans/without-race.yaml")),
)


def main() -> int:
    """Builds the inputs, runs every chapter, and says where the reports are; 3 if an audit did not end in a verdict."""
    began = time.monotonic()
    say("Building two ImageNet networks, photographs, and models of mortgage decisions from installed packages …")
    build_watermark(WATERMARK)
    build_loans(LOANS)
    REPORTS.mkdir(parents=True, exist_ok=True)
    codes = [play(number, chapter) for number, chapter in enumerate(CHAPTERS, 1)]
    if not set(codes) <= set(EXIT_CODES):
        say("\nAn audit did not end in a verdict; what stands above says why.")
        return 3
    say(f"\n{len(CHAPTERS)} audits in {time.monotonic() - began:.0f} s. What they came to:")
    for chapter, code in zip(CHAPTERS, codes, strict=True):
        say(f"  {EXIT_CODES[code]:12}  {chapter.question}")
    say("\nOpen the reports:")
    for chapter in CHAPTERS:
        say(f"  {chapter.report.with_suffix('.html')}")
    return 0


def play(number: int, chapter: Chapter) -> int:
    """Runs one audit as a person or a CI job would; its exit code."""
    say(f"\n── {number}. {chapter.question}\n   caveat gate {chapter.audit}\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "caveat", "gate", str(chapter.audit), "--local"),
            *("--html", str(chapter.report.with_suffix(".html"))),
            *("--json", str(chapter.report.with_suffix(".json"))),
        ],
        check=False,
    ).returncode


def read(chapter: Chapter) -> Report:
    """The report of a chapter that was played."""
    return Report.model_validate_json(chapter.report.with_suffix(".json").read_bytes())


def say(line: str) -> None:
    """One line at once, in order with what the audits print."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
