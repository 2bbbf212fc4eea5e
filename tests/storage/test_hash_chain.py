"""Changing any byte of a log, and removing, inserting or moving any line, is detected."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from caveat_spec.audit_log import NOTHING, Entry, Head, SignedHead
from caveat_storage import attestations, hash_chain, keyring
from caveat_storage.hash_chain import BrokenError

START = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
SERVICE, STRANGER = keyring.make(), keyring.make()
KEYS = keyring.public_keys(SERVICE.public)
REPORT = f"sha256:{'a' * 64}"


def entries(*steps: tuple[str, dict[str, Any]], tenant: str = "acme") -> list[Entry]:
    made: list[Entry] = []
    for seq, (what, said) in enumerate(steps, 1):
        previous = made[-1].digest if made else NOTHING
        at = START + timedelta(seconds=seq)
        made.append(hash_chain.link(tenant, seq, at, what, "0" * 26, {**said, "salt": f"{seq}"}, previous))
    return made


STEPS = [
    ("submit", {"by": "key:1", "kind": "audit"}),
    ("succeed", {"by": "w", "report_digest": REPORT, "outcome": "fail"}),
    ("submit", {"by": "key:2", "kind": "model"}),
    ("fail", {"by": "w", "problem": "urn:x"}),
]
LOG = entries(*STEPS)


def lines(log: list[Entry]) -> list[bytes]:
    return [hash_chain.line(entry) for entry in log]


def head(log: list[Entry], pair: keyring.Pair = SERVICE, tenant: str = "acme", **changed: Any) -> bytes:
    end = {
        "tenant": tenant,
        "length": len(log),
        "digest": log[-1].digest if log else NOTHING,
        "at": hash_chain.spelt(START),
    }
    return attestations.seal(Head(**end | changed), SignedHead, keyring.signers(pair.private)) + b"\n"


WHOLE = [*lines(LOG), head(LOG)]


def test_what_a_log_tells() -> None:
    result = hash_chain.account(WHOLE, KEYS)
    assert (result.tenant, result.length, result.first_at) == ("acme", 4, "2026-01-02T03:04:06.000678Z")
    assert result.principals == {"key:1", "key:2"}
    assert result.outcomes == {"fail": 1}
    assert result.reports == {"0" * 26: REPORT}
    assert result.signed_by == [SERVICE.keyid]
    assert result.head is not None
    assert hash_chain.account([head([])], KEYS).length == 0


def test_any_other_bit_anywhere_is_seen() -> None:
    whole = b"".join(WHOLE)
    for place in range(len(whole)):
        for bit in random.Random(place).sample(range(8), 2):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            with pytest.raises(BrokenError):
                hash_chain.account(bytes(changed).splitlines(keepends=True), KEYS)


def test_every_line_that_is_left_out_is_seen_and_so_is_the_end_cut_off() -> None:
    for place in range(len(WHOLE)):
        with pytest.raises(BrokenError, match="missing" if place < 3 else "cut off"):
            hash_chain.account(WHOLE[:place] + WHOLE[place + 1 :], KEYS)
    for length in range(len(WHOLE)):
        with pytest.raises(BrokenError, match="its end may have been cut off"):
            hash_chain.account(WHOLE[:length], KEYS)
    with pytest.raises(BrokenError, match="Line 5 is cut off"):
        hash_chain.account([*WHOLE[:-1], WHOLE[-1][:-1]], KEYS)


def test_without_a_key_the_head_still_counts() -> None:
    assert hash_chain.account(WHOLE).signed_by == []
    assert hash_chain.account(WHOLE[:-1]).head is None
    with pytest.raises(BrokenError, match="The end is cut off: the head counts 4 entries, but there are 2"):
        hash_chain.account([*WHOLE[:2], WHOLE[-1]])


def test_every_two_lines_that_change_places_are_seen() -> None:
    for first in range(len(WHOLE)):
        for second in range(first):
            moved = list(WHOLE)
            moved[first], moved[second] = moved[second], moved[first]
            with pytest.raises(BrokenError):
                hash_chain.account(moved, KEYS)
    with pytest.raises(BrokenError, match="Entry 2 stands where entry 3 belongs"):
        hash_chain.account([*WHOLE[:2], WHOLE[1], *WHOLE[2:]])


def test_an_entry_with_digests_made_anew_does_not_follow() -> None:
    forged = hash_chain.link("acme", 2, START, "succeed", None, {"outcome": "pass"}, LOG[0].digest)
    with pytest.raises(BrokenError, match="Entry 3 does not follow from the one before it"):
        hash_chain.account([WHOLE[0], hash_chain.line(forged), *WHOLE[2:]])


def test_a_log_that_is_made_up_whole_is_not_signed_or_is_not_the_earlier_one() -> None:
    forged = entries(("submit", {"by": "key:1"}), ("succeed", {"outcome": "pass"}), *STEPS[2:])
    with pytest.raises(BrokenError, match="none of those"):
        hash_chain.account([*lines(forged), head(forged, STRANGER)], KEYS)
    with pytest.raises(BrokenError, match="The head belongs to another log"):
        hash_chain.account([*lines(forged), WHOLE[-1]], KEYS)
    earlier = hash_chain.account(WHOLE[:2])
    assert hash_chain.account(WHOLE, KEYS, earlier).length == 4
    with pytest.raises(BrokenError, match="Entry 2 differs from the earlier log"):
        hash_chain.account([*lines(forged), head(forged)], KEYS, earlier)
    with pytest.raises(BrokenError, match="entries that are missing here"):
        hash_chain.account(WHOLE[:1], (), earlier)


def test_logs_of_two_tenants_do_not_mix() -> None:
    other = entries(*STEPS, tenant="other")
    with pytest.raises(BrokenError, match="another tenant, other"):
        hash_chain.account([WHOLE[0], *lines(other)[1:]])
    with pytest.raises(BrokenError, match="The head belongs to another tenant"):
        hash_chain.account([*WHOLE[:-1], head(LOG, tenant="other")], KEYS)
    with pytest.raises(BrokenError, match="after the head"):
        hash_chain.account([*WHOLE, WHOLE[0]])


class TestErasing:
    def erased(self, *runs: list[int]) -> list[bytes]:
        log = entries(*STEPS, ("erase", {"by": "operator", "entries": list(runs)}))
        gone = {1, 2}
        left = [entry.model_copy(update={"payload": None}) if entry.seq in gone else entry for entry in log]
        return [*lines(left), head(left)]

    def test_a_payload_goes_and_the_chain_holds(self) -> None:
        result = hash_chain.account(self.erased([1, 2]), KEYS)
        assert (result.erased, result.length, result.principals) == (2, 5, {"key:2"})

    @pytest.mark.parametrize("runs", [[], [[1, 1]], [[2, 5]], [[3, 4]]])
    def test_a_payload_that_nobody_says_was_erased_is_missed(self, runs: list[list[int]]) -> None:
        with pytest.raises(BrokenError, match="no later entry says that it was erased"):
            hash_chain.account(self.erased(*runs), KEYS)

    @pytest.mark.parametrize("runs", ["all", [[1]], [["1", "2"]], None])
    def test_an_entry_that_does_not_say_what_was_erased_is_none(self, runs: Any) -> None:
        log = entries(("erase", {"entries": runs}))
        with pytest.raises(BrokenError, match="does not say which entries"):
            hash_chain.account(lines(log))

    def test_a_number_that_json_cannot_carry_is_refused(self) -> None:
        text = lines(entries(("erase", {"entries": [[1, 2**53 - 1]]})))[0]
        with pytest.raises(BrokenError, match="not in canonical form"):
            hash_chain.account([text.replace(b"9007199254740991", b"9007199254740992")])

    def test_a_run_without_end_takes_no_time(self) -> None:
        assert hash_chain.account(self.erased([1, 2**53 - 1]), KEYS).erased == 2
