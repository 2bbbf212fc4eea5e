"""Each ground truth is built and audited once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from bench.validation.ground_truth import Answers, answers
from bench.validation.scenarios import CASES

Case = Callable[[str], list[Answers]]


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The answers to a case's audits."""

    @cache
    def answered(name: str) -> list[Answers]:
        return [answers(asked) for asked in CASES[name](tmp_path_factory.mktemp(name))]

    return answered
