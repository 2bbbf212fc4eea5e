"""Files that installed packages carry: found without importing the package, read only when they are the known bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


class UnusableFileError(Exception):
    """A packaged file is missing, or is not the file the demo was written for."""


@dataclass(frozen=True)
class PackagedFile:
    """A file at `path` in `package`, known by its SHA-256."""

    package: str
    path: str
    sha256: str

    def read(self) -> bytes:
        """The file's bytes; raises `UnusableFileError` unless they have the pinned digest."""
        content = self._location().read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise UnusableFileError(
                f"{self.path} of package '{self.package}' has SHA-256 {found}, not the pinned {self.sha256}; "
                "install the versions named by the extra `demo`."
            )
        return content

    def _location(self) -> Path:
        try:
            location = Path(str(distribution(self.package).locate_file(self.path)))
        except PackageNotFoundError:
            raise UnusableFileError(f"Package '{self.package}' is not installed; install the extra `demo`.") from None
        if not location.is_file():
            raise UnusableFileError(f"Package '{self.package}' holds no {self.path}; install the extra `demo`.")
        return location
