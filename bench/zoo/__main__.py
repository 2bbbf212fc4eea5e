"""`python -m bench.zoo` takes every model of the zoo through the command, and writes docs/zoo.md.

`--only` runs the models whose names hold one of some words, and `--first` begins with some. The page is written after
each model, so that a run that is stopped keeps its rows, and `--resume` goes on from there. Rows of models that did not
run stay as the last run left them: as their journeys in `.cache/zoo` have them, or as the page itself does.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from bench.zoo import page
from bench.zoo.collection import FAMILIES, MODELS, Model, models
from bench.zoo.journey import Journey, make_keys, travel, without_folders

CAGES = Path(__file__).parents[2] / ".cache" / "zoo"
PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


def main(arguments: list[str]) -> int:
    """Runs what was asked for; 1 where a model crashed, was wrongly refused, or an aim is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="models whose names hold one of these words")
    parser.add_argument("--first", nargs="+", metavar="WORD", default=[], help="run these models before the others")
    parser.add_argument("--resume", action="store_true", help="leave out models whose journey is in .cache/zoo")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=FAMILIES, help="modules of the collection")
    parser.add_argument("--made", action="store_true", help="use the models that an earlier run made")
    parser.add_argument("--list", action="store_true", help="only list the models")
    parser.add_argument("--make", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        return _make(options.make, options.family)
    every = models(tuple(options.family))
    chosen = [one for one in every if options.only is None or matches(one, options.only)]
    chosen = [one for one in chosen if not (options.resume and (CAGES / one.name / "journey.json").exists())]
    chosen.sort(key=lambda one: not matches(one, options.first))
    if options.list:
        print("\n".join(f"{one.name}  {one.source}: {one.words}" for one in chosen))
        return 0
    whole = tuple(options.family) == FAMILIES  # the page has every model, or is left as it is
    for number, one in enumerate(chosen, 1):
        journey = visit(one, CAGES / one.name, made=options.made)
        print(
            f"{number}/{len(chosen)} {one.name}: {journey.result} ({journey.total:.0f} s) {journey.words}", flush=True
        )
        if whole:
            write_page(every)
    return 0 if not whole or write_page(every) else 1


def matches(one: Model, words: list[str]) -> bool:
    """Whether a model's name holds one of some words."""
    return any(word in one.name for word in words)


def write_page(every: list[Model]) -> bool:
    """Writes the rows of all models that have run, now or earlier; whether every aim is met."""
    journeys = page.kept(PAGE.read_text(encoding="utf-8"), every) if PAGE.exists() else {}
    for one in every:
        if (path := CAGES / one.name / "journey.json").exists():
            journeys[one.name] = Journey.load(path)
    rows = [(one, journeys[one.name]) for one in every if one.name in journeys]
    draft = PAGE.with_suffix(".tmp")  # a run that is stopped leaves a whole page
    draft.write_text(page.written(rows, len(every) - len(rows)), encoding="utf-8")
    draft.replace(PAGE)
    return page.holds(rows, len(every) - len(rows))


def visit(one: Model, folder: Path, *, made: bool = False) -> Journey:
    """Makes a model in a process of its own, and takes it through the command; the journey is kept in its folder."""
    failure = None if made and (folder / "model.onnx").exists() else _make_apart(one, folder)
    (folder / "audit.yaml").unlink(missing_ok=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    journey = travel(folder, make_keys(folder.parent)) if failure is None else Journey("not made", failure)
    journey.save(folder / "journey.json")
    return journey


def _make_apart(one: Model, folder: Path) -> str | None:
    """Fills `folder` in a process that ends before the audit begins; answers with the error's last line, if any."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    family = one.make.__module__.rpartition(".")[2]
    command = [sys.executable, "-m", "bench.zoo", "--family", family, "--make", one.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else without_folders(done.stderr.strip().splitlines()[-1])[-400:]


def _make(name: str, families: list[str]) -> int:
    models(tuple(families))
    folder = CAGES / name
    folder.mkdir(parents=True, exist_ok=True)
    MODELS[name].make(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
