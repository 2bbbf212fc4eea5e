"""The base of state machines that take random steps on a database."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine

from caveat_storage.job_records import Database, migrate


class OverDatabase(RuleBasedStateMachine):
    """A state machine over an empty SQLite database in a temporary folder."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        url = f"sqlite:///{self.folder / 'caveat.db'}"
        migrate(url)
        self.database = Database(url)

    def teardown(self) -> None:
        self.database.close()
        self._temporary.cleanup()
