"""The page of building blocks has every measured claim, and says plainly which of them do not hold."""

from __future__ import annotations

from bench.building_blocks.__main__ import BLOCKS as MEASURED
from bench.building_blocks.__main__ import PAGE, joined, kept_rows
from bench.rows import at_least, at_most

BLOCKS = {
    "`groups`",
    "`groups` over a set",
    "`compatible_groups`",
    "`principal_components`",
    "`as: patches`",
    "`bag_of_features`",
    "`informative_patches`",
    "`influence`",
    "comparison",
    "`caveat edit`",
    "`caveat monitor`",
    "`caveat visualise`",
    "`caveat study`",
    "`discover`",
}
MISSED = {
    "15 wrong labels, by what it takes from the classes of 30 other examples",
    "CPU of captum's `TracInCP` : ours; 150 examples of 5 features, on 30",
}
"""How the claims begin whose bounds are missed: one that joins or leaves them changes this list."""


def test_every_block_is_measured() -> None:
    text = PAGE.read_text()
    assert "not measured" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and " --- " not in line][1:]
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == BLOCKS


def test_what_does_not_hold_is_known() -> None:
    missed = [line.split(" | ")[1] for line in PAGE.read_text().splitlines() if line.endswith("| **no** |")]
    assert len(missed) == len(MISSED)
    assert all(any(claim.startswith(known) for claim in missed) for known in MISSED)


def test_a_bound_is_missed_by_what_lies_beyond_it() -> None:
    assert [at_most("a", "b", 1.0, found).met for found in (1.0, 1.1, float("nan"))] == [True, False, False]
    assert [at_least("a", "b", 1.0, found).met for found in (1.0, 0.9, float("nan"))] == [True, False, False]
    assert at_most("a", "b", 1.0, 1.1).cells()[-1] == "**no**"


def test_blocks_that_are_measured_again_take_the_place_of_their_rows() -> None:
    kept = kept_rows(PAGE.read_text())
    assert all(len(row) == 5 for row in kept)
    assert any("|mean CKA|" in row[1] for row in kept), "as it was before the page wrote it in a table"
    assert joined(kept, [kept[3]]) == kept
    again = [*kept[0][:3], "7", "yes"]
    assert joined(kept, [again]) == [again, *kept[1:]]
    further = [kept[0][0], "another claim", "", "7", ""]
    last = [row[0] for row in kept].count(kept[0][0])
    assert joined(kept, [further])[last] == further


def test_every_case_of_discovery_is_on_the_page() -> None:
    cases = {name.removeprefix("discover: ") for name in MEASURED if name.startswith("discover: ")}
    claims = [row[1] for row in kept_rows(PAGE.read_text())]
    assert all(any(claim.startswith(f"{case}: share of") for claim in claims) for case in cases)
