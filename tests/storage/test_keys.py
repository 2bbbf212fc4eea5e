"""Keys as they come from a form of the console, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from caveat_storage import keys
from caveat_storage.job_records import Database


@pytest.mark.parametrize("key", ["caveat_\0_x", "caveat_x_\0", "\0", "caveat_\x7f_x", "caveat_é_é", ""])
def test_text_that_is_no_key_is_nobody_s(database: Database, key: str) -> None:
    """PostgreSQL does not even look for text with a zero byte, and the sign-in ended with an internal error."""
    assert keys.holder(database, key) is None


def test_a_key_is_looked_up_once(database: Database) -> None:
    key = keys.issue(database, "ours", "people", ["read"])
    asked = list[str]()
    event.listen(database.engine, "before_cursor_execute", lambda *said: asked.append(said[2]))
    assert keys.holder(database, key) == keys.holder_of(database, key.split("_")[1])
    assert len([one for one in asked if "FROM keys" in one]) == 2
