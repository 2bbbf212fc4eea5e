"""The environment of a job's process: some variables of its parent, settings of libraries, and where its code is."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

PIPELINE = "caveat_worker.computations"
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
TUNED = {"NUMPY_MADVISE_HUGEPAGE": "0"}
"""Prevents NumPy from requesting huge pages, for which the kernel moves others: half of its time in an audit."""


def threads_by_environment() -> int:
    """What `LimitSettings().limits.threads` is, without pydantic, which takes a quarter of the engine's imports.

    Raises ValueError or ZeroDivisionError for settings that it refuses.
    """
    asked = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith("CAVEAT_")}
    threads, concurrency = int(asked.get("CAVEAT_THREADS", "0")), int(asked.get("CAVEAT_CONCURRENCY", "1"))
    return threads or max(1, (os.cpu_count() or 1) // concurrency)


def environment(threads: int, pipeline: str = PIPELINE) -> dict[str, str]:
    """The environment of a child that computes with `threads` threads."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **passed_on,
        **TUNED,
        "PYTHONPATH": os.pathsep.join([*_code_roots(pipeline), *_installed_elsewhere()]),
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "JOBLIB_MULTIPROCESSING": "0",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
    }


def _code_roots(pipeline: str) -> list[str]:
    """The folders of the packages that a child imports: one if Caveat is installed, several in a checkout."""
    packages = ("caveat_spec", "caveat_worker", pipeline.partition(".")[0])
    return list(dict.fromkeys(str(Path(folder).parent) for name in packages for folder in _folders_of(name)))


def _folders_of(package: str) -> list[str]:
    spec = find_spec(package)
    assert spec is not None, f"there is no package {package}"
    return list(spec.submodule_search_locations or ())


def _installed_elsewhere() -> list[str]:
    """Folders of packages that a Python without a home directory does not find, as after `pip install --user`."""
    ours = (Path(sys.prefix), Path(sys.base_prefix))
    return [
        place
        for place in sys.path
        if Path(place).name in ("site-packages", "dist-packages") and not any(map(Path(place).is_relative_to, ours))
    ]
