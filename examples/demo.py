"""The demonstration: audits of real models and real decisions.

python -m examples.demo

Two audits ask whether a watermark makes an ImageNet network say "carton", and two whether a model of mortgage decisions
depends on race. The demo builds its inputs from installed packages; each audit is an ordinary `caveat gate`. At the end
`caveat edit` takes the watermark out of the network that fails, and audits it before and after.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from caveat_spec.report import Outcome, Report
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
        """The path of its report, without a suffix."""
        return REPORTS / f"{self.audit.parent.name}-{self.audit.stem}"


CHAPTERS = (
    Chapter(
        'Does EfficientNet-lite0 say "carton" because of a watermark?', Path("examples/watermark/efficientnet.yaml")
    ),
    Chapter("Does SqueezeNet 1.1?", Path("examples/watermark/squeezenet.yaml")),
    Chapter("Do mortgage decisions, and a model of them, depend on race?", Path("examples/loans/with-race.yaml")),
    Chapter("Does a model without race as an input?", Path("examples/loans/without-race.yaml")),
)

REPAIR = Path("examples/watermark/repair.yaml")
REPAIRED = Path(".caveat/demo/watermark/efficientnet-lite0-repaired.onnx")


def main() -> int:
    """Builds the inputs, runs every chapter and lists the reports; returns 3 if an audit gave no verdict."""
    began = time.monotonic()
    say("Building two ImageNet networks, photographs, and models of mortgage decisions from installed packages …")
    build_watermark(WATERMARK)
    build_loans(LOANS)
    REPORTS.mkdir(parents=True, exist_ok=True)
    codes = [play(number, chapter) for number, chapter in enumerate(CHAPTERS, 1)]
    if not set(codes) <= set(EXIT_CODES):
        say("\nAn audit gave no verdict; the output above says why.")
        return 3
    codes.append(repair())
    if codes[-1] not in EXIT_CODES:
        say("\nThe repair gave no verdict; the output above says why.")
        return 3
    say(f"\n{len(CHAPTERS)} audits and a repair in {time.monotonic() - began:.0f} s. Verdicts:")
    questions = [*(chapter.question for chapter in CHAPTERS), "And once the watermark's direction is taken out?"]
    for question, code in zip(questions, codes, strict=True):
        say(f"  {EXIT_CODES[code]:12}  {question}")
    say("\nOpen the reports:")
    for report in [*(chapter.report for chapter in CHAPTERS), REPORTS / "repair" / "after"]:
        say(f"  {report.with_suffix('.html')}")
    return 0


def play(number: int, chapter: Chapter) -> int:
    """Runs one audit as a person or a CI job would; returns its exit code."""
    say(f"\n── {number}. {chapter.question}\n   caveat gate {chapter.audit}\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "caveat", "gate", str(chapter.audit), "--local"),
            *("--html", str(chapter.report.with_suffix(".html"))),
            *("--json", str(chapter.report.with_suffix(".json"))),
        ],
        check=False,
    ).returncode


def repair() -> int:
    """Takes the watermark's direction out of EfficientNet-lite0; returns the exit code of its gate afterwards."""
    asked = ["edit", str(REPAIR), "--concept", "watermark", "--layer", "block15@mean", "--together", "-"]
    say(f"\n── {len(CHAPTERS) + 1}. Can it be repaired?\n   caveat {' '.join(asked)}\n")
    outputs = ["--write", str(REPAIRED), "--reports", str(REPORTS / "repair")]
    return subprocess.run([sys.executable, "-m", "caveat", *asked, *outputs], check=False).returncode


def read(chapter: Chapter) -> Report:
    """The report of a chapter that has run."""
    return Report.model_validate_json(chapter.report.with_suffix(".json").read_bytes())


def say(line: str) -> None:
    """Prints a line at once, in order with the output of the audits."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
