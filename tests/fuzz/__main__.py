"""`python -m tests.fuzz TARGET [-runs=N] [-max_total_time=SECONDS]`: libFuzzer's options, by atheris.

The corpus is the hostile cases and earlier findings (`found/`). A finding is any end but a value or the reader's own
error.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "caveat_worker.readers",
        "caveat_worker.engine.autodiff.load",
        "caveat_worker.engine.onnx.prescan",
        "caveat_worker.engine.onnx.read",
        "caveat.yaml_source",
        "zipfile",
    ]
):
    from tests.fuzz.targets import TARGETS, seeds

FOUND = Path(__file__).parent / "found"
MEMORY = 3 << 30


def main(name: str, *options: str) -> None:
    """Fuzzes one target within libFuzzer's limits."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[name](Path(folder))
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, data in enumerate([*seeds(name), *_found(name)]):
            (corpus / str(number)).write_bytes(data)
        arguments = [sys.argv[0], "-max_len=16384", "-timeout=60", "-rss_limit_mb=0", "-seed=20", *options, str(corpus)]
        atheris.Setup(arguments, target)
        atheris.Fuzz()


def _found(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((FOUND / name).glob("*"))]


if __name__ == "__main__":
    main(*sys.argv[1:])
