"""`caveat scrub` lists what is damaged or missing, and exits with 1 if anything is."""

from __future__ import annotations

import io
from pathlib import Path

from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat_storage import blob_registry
from caveat_storage.blobs import digest_of
from caveat_storage.job_records import Database, migrate


def scrub(database_url: str, blobs_url: str) -> Result:
    arguments = ["scrub", "--database-url", database_url, "--blobs-url", blobs_url]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_damaged_and_missing_files_are_listed(tmp_path: Path) -> None:
    database_url, blobs_url = f"sqlite:///{tmp_path / 'caveat.db'}", str(tmp_path / "blobs")
    migrate(database_url)
    database = Database(database_url)
    blobs = blob_registry.opened(blobs_url, database)
    whole, damaged, missing = (digest_of(io.BytesIO(data)) for data in (b"whole", b"damaged", b"missing"))
    for digest, data in ((whole, b"whole"), (damaged, b"damaged"), (missing, b"missing")):
        blobs.put(io.BytesIO(data), digest)
    fine = scrub(database_url, blobs_url)
    assert (fine.exit_code, "Verified 3 blobs (19 bytes)" in fine.output) == (0, True)
    next((tmp_path / "blobs").glob(f"*/*/{damaged.removeprefix('sha256:')}")).write_bytes(b"changed")
    blobs.remove(missing)
    found = scrub(database_url, blobs_url)
    assert found.exit_code == 1
    assert found.output.splitlines() == [
        f"damaged     {damaged}",
        f"missing     {missing}",
        "Verified 1 blobs (5 bytes): 1 others are damaged, 0 are unreadable, 1 are missing.",
    ]
    database.close()
