"""The small audit of tests/audits, for methods too."""

from tests.audits.conftest import bench, small_files

__all__ = ["bench", "small_files"]
