"""Bits that a failing disk flips: in blobs, in the cache and in reports. None changes a verdict or gets a signature.

`make tamper` flips ten thousand and prints its figures; the quick test flips a few.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from caveat.auditfile import read_audit, resolve
from caveat_reports.canonical import canonical
from caveat_service.state import AppContext
from caveat_spec.audit import Audit
from caveat_spec.formats import FORMATS
from caveat_storage import blob_registry, job_records, job_state, keyring
from caveat_storage.blobs import digest_of
from caveat_storage.scrub import scrub
from caveat_worker import pipeline
from caveat_worker.array_stores import Cached, cached, scratch
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.supervisor import Failed, supervise
from tests.api import api
from tests.service.test_attestations import give_keys

FLIPS = 10_000
WHOLE_AUDITS = 10
"""One in so many flips of the cache is followed by a whole audit, which takes seconds."""
ROOT = Path(__file__).parents[2]
SMALL = ROOT / "helm" / "caveat" / "files" / "audit" / "audit.yaml"
MEDIA_TYPES = [form.media_type for form in FORMATS if form.media_type]
LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=60, wall_seconds=60, threads=1)


@dataclass
class Target:
    """An installation with a real audit that has ended, its cache, and what came of flipped bits."""

    app: Flask
    folder: Path
    audit: Audit
    report: bytes
    job: str
    random: random.Random
    counted: Counter[str] = field(default_factory=Counter)

    @property
    def there(self) -> AppContext:
        found: AppContext = self.app.extensions["caveat"]
        return found

    def place(self, digest: str) -> Path:
        """The file with the bytes of a digest."""
        name = digest.removeprefix("sha256:")
        return self.folder / "blobs" / "sha256" / name[:2] / name

    @contextmanager
    def flipped(self, path: Path) -> Iterator[bytes]:
        """Flips a bit of a file; yields the genuine bytes and puts them back."""
        genuine = path.read_bytes()
        at = self.random.randrange(len(genuine) * 8)
        changed = bytearray(genuine)
        changed[at // 8] ^= 1 << at % 8
        path.chmod(0o600)
        path.write_bytes(changed)
        yield genuine
        path.write_bytes(genuine)

    def flip_a_blob(self) -> None:
        """A job that reads it ends with the cause, the API does not send it, and an upload heals it."""
        digest = self.random.choice(sorted(set(self.audit.sources().values())))
        with self.flipped(self.place(digest)) as genuine:
            payload = self.audit.model_dump(mode="json")
            end = supervise(
                "audit", payload, self.there.blobs.copy,
                limits=LIMITS, on_progress=lambda *_: None, should_stop=lambda: False,
            )  # fmt: skip
            caught = isinstance(end, Failed) and end.problem.type.endswith(":corrupt-bytes")
            self.counted["blobs: audits that ended with another cause or a verdict"] += not caught
            client = self.app.test_client()
            self.counted["blobs: 200 over changed bytes"] += client.get(f"/v1/blobs/{digest}").status_code == 200
            client.put(f"/v1/blobs/{digest}", data=genuine)
            self.counted["blobs: not healed"] += self.there.blobs.read(digest) != genuine
        self.counted["blobs: flips"] += 1

    def flip_a_report(self) -> None:
        """It is neither served in any format nor signed, and heals when it is stored again."""
        digest = digest_of(io.BytesIO(self.report))
        client, path = self.app.test_client(), f"/v1/audits/{self.job}"
        with self.flipped(self.place(digest)):
            answers = [client.get(f"{path}/report", headers={"Accept": self.random.choice(MEDIA_TYPES)})]
            signed = client.get(f"{path}/attestation")
            self.counted["reports: 200 over changed bytes"] += sum(one.status_code != 500 for one in answers)
            self.counted["reports: signatures over changed bytes"] += signed.status_code != 500
            self.there.blobs.put(io.BytesIO(self.report), digest)
            self.counted["reports: not healed"] += client.get(f"{path}/report").data != self.report
        self.counted["reports: flips"] += 1

    def flip_a_cache_entry(self) -> None:
        """No audit finds it; one in `WHOLE_AUDITS` computes again what it held, and has the same report to the byte.

        An audit sees the cache only through `get`, so what that does not find has no part in a report.
        """
        entry = self.random.choice(sorted((self.folder / "cache").glob("*.npy")))
        with self.flipped(entry), scratch() as spare:
            found = Cached(self.folder / "cache", self.folder / "fresh", spare).get(entry.stem)
            self.counted["cache: changed entries that were found"] += found is not None
            if self.counted["cache: flips"] % WHOLE_AUDITS == 0:
                self.counted["cache: wrong reports"] += run(self.audit, self.place, self.folder) != self.report
        self.counted["cache: flips"] += 1


def run(audit: Audit, place: Any, folder: Path, *, keep: bool = False) -> bytes:
    """An audit in this process over the cache in `folder`; with `keep`, what it computed stays there."""
    fresh = folder / "fresh"
    report = pipeline.run(audit, place, lambda *_: None, threads=1, store=lambda: cached(folder / "cache", fresh))
    for entry in fresh.iterdir():
        if keep and entry.suffix == ".npy":
            entry.rename(folder / "cache" / entry.name)
        else:
            entry.unlink()
    fresh.rmdir()
    return canonical(report)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with api(tmp_path) as app:
        there: AppContext = app.extensions["caveat"]
        client, resolved = app.test_client(), resolve(read_audit(SMALL))
        for name, content in resolved.blobs.items():
            assert client.put(f"/v1/blobs/{name}", data=Path(content).read_bytes()).status_code == 201
        give_keys(app, keyring.make().private)
        job = client.post("/v1/audits", json=resolved.audit.model_dump(mode="json")).json["id"]
        found = Target(app, tmp_path, resolved.audit, b"", job, random.Random(17))
        (tmp_path / "cache").mkdir()
        found.report = run(resolved.audit, found.place, tmp_path, keep=True)
        lease = job_state.claim(there.database, job, worker="w", lasts=job_records.SEEN_WITHIN)
        assert lease is not None
        digest = digest_of(io.BytesIO(found.report))
        there.blobs.put(io.BytesIO(found.report), digest)
        assert job_state.succeed(there.database, lease, {"outcome": "pass"}, digest)
        assert client.get(f"/v1/audits/{job}/attestation").status_code == 200
        yield found


def tamper(target: Target, flips: int) -> Counter[str]:
    """Flips bits one after the other, four of ten in blobs, four in reports and two in the cache."""
    for number in range(flips):
        kind = number % 10
        (target.flip_a_blob if kind < 4 else target.flip_a_report if kind < 8 else target.flip_a_cache_entry)()
    return target.counted


def unharmed(counted: Counter[str]) -> bool:
    return not any(count for what, count in counted.items() if not what.endswith("flips"))


def test_no_flipped_bit_changes_a_verdict_or_is_signed(target: Target) -> None:
    counted = tamper(target, 30)
    assert unharmed(counted), counted
    assert counted["blobs: flips"] + counted["reports: flips"] + counted["cache: flips"] == 30
    assert blob_registry.count_damaged(target.there.database) == 0  # every blob has arrived again
    assert scrub(target.there.database, target.there.blobs).damaged == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_flipped_bits(target: Target) -> None:
    counted = tamper(target, FLIPS)
    print("\n" + "\n".join(f"{count:>6}  {what}" for what, count in sorted(counted.items())))
    assert unharmed(counted), counted
