"""Writes docs/building-blocks.md: groups, bags, influence, comparison, edits, monitoring, against their truths.

python -m bench.building_blocks        everything (a minute or two; needs captum and torch, as `make explain` has)
python -m bench.building_blocks --only groups     the blocks whose name has that in it, in place of their rows

A bound that is missed is a **no** in its row. A row that fails says so, and the command ends with status 1 when the
page is written.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import discovery, study
from bench.building_blocks import acting, groups, influence, local_evidence
from bench.building_blocks.proposals import proposals
from bench.explain import conditions
from bench.measure import installed
from bench.page import table
from bench.rows import Row
from bench.visualisation import made_pictures

PAGE = Path(__file__).parents[2] / "docs" / "building-blocks.md"
FAILED = "**not measured**"
BLOCKS: dict[str, Callable[[], Iterator[Row]]] = {
    "groups": groups.groups,
    "groups over a set": groups.groups_over_examples,
    "compatible_groups": groups.groups_that_fit,
    "activation grids": groups.places,
    "bag_of_features": local_evidence.bag,
    "informative_patches": local_evidence.informative_patches,
    "influence": influence.left_out,
    "wrong labels": influence.mislabels,
    "comparison": acting.comparison,
    "edit": acting.editing,
    "monitor": acting.monitoring,
    "visualise": made_pictures,
    "study": study.rows,
    **{f"discover: {one}": partial(proposals, one) for one in (*discovery.CASES, *discovery.UNNAMED)},
}


def measured(only: str) -> tuple[list[list[str]], bool]:
    """The rows of the blocks whose name has `only` in it, and whether one of them failed."""
    rows: list[list[str]] = []
    failed = False
    for name, block in BLOCKS.items():
        if only not in name:
            continue
        print(name, flush=True)
        try:
            for row in block():
                rows.append(row.cells())
                print("  ", *rows[-1], flush=True)
        except Exception as error:
            traceback.print_exc()
            failed = True
            first = (str(error).splitlines() or [""])[0][:120]
            rows.append([name, f"{FAILED}: {type(error).__name__}: {first}", "", "", "**no**"])
    return rows, failed


def joined(kept: list[list[str]], rows: list[list[str]]) -> list[list[str]]:
    """The rows of a page with others in place of those that make the same claim, or behind those of the same block."""
    found = [[*row] for row in kept]
    for row in rows:
        same = [place for place, one in enumerate(found) if one[:2] == row[:2]]
        block = [place for place, one in enumerate(found) if one[0] == row[0]]
        if same:
            found[same[0]] = row
        else:
            found.insert(block[-1] + 1 if block else len(found), row)
    return found


def kept_rows(page: str) -> list[list[str]]:
    """The rows that a page has."""
    lines = [line for line in page.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="measure the blocks whose name has this in it, and keep the others")
    only = parser.parse_args().only
    rows, failed = measured(only)
    told = [conditions()]
    if only:
        before = PAGE.read_text()
        kept = [row for row in kept_rows(before) if only not in row[0] or not row[1].startswith(FAILED)]
        rows = joined(kept, rows)
        again = f"Blocks with *{only}* in their name again on"
        lines = [line for line in before.splitlines() if line.startswith(("Measured on", "Blocks with"))]
        told = [*(line for line in lines if not line.startswith(again)), conditions().replace("Measured on", again)]
    what = (
        "What the building blocks of [explanations](explanations.md) promise, held against truths that are computed "
        "beside them. Wrong labels are 15 of 150, in three clouds that overlap a little; forty seeds; a row counts how "
        "many of the fifteen most suspicious examples are wrong, the fewest and the most of the forty; that by its own "
        "label is `on: own_label`. "
        f"captum {installed('captum')} computes TracIn over one checkpoint, the same head, by its class `TracInCP`. "
        "Times are CPU seconds of one process on one thread, in turns, without the first calls: medians. Ours fit the "
        "head without each example, to the end for 150 and by one step for 2,000, which captum's scores do not; its "
        "class for last layers keeps to weights. The product's groups are made by scikit-learn's NMF: that row holds "
        "what is made of the factors, not the factors. Of `caveat monitor`, the peer is a pass of the model and then "
        "our own gradient at the layer, in two sessions; back from one class to `fire8` are 0.095 of the model's "
        "multiplications, so that no sensitivity costs less. Beside made pictures stands torch with lucent's "
        "parameters, its Adam, and the same colours and moves."
    )
    head = ["# Building blocks", "", "Generated by `make explain`.", "", textwrap.fill(what, 112), "", *told, ""]
    PAGE.write_text("\n".join([*head, table(["block", "claim", "bound", "found", "met"], rows)]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
