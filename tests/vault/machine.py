"""What machines of random steps have in common: a database of their own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine

from vault.records import Database, migrate


class OverDatabase(RuleBasedStateMachine):
    """Steps over a fresh SQLite database, in a folder that goes with it."""

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
