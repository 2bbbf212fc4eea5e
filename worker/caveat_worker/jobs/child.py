"""The process of one job: forked by `caveat_worker.jobs.forkserver`, confined at once, watched by the supervisor.

It reads `job.json` and `inputs/`, writes `outputs/result.json` or `outputs/problem.json`, and reports its progress on
standard output, one JSON object per line.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from caveat_spec.artifacts import NewModel, Stage, Visualisation
from caveat_spec.audit import Audit
from caveat_spec.base import Document
from caveat_spec.disk_faults import ERRNOS, disk_problem
from caveat_spec.jobs import REQUESTS, Division, NewDirections, NewPlan, NewVisualisation, Request, Result, Shard
from caveat_spec.problem import Fault, ProblemDetails
from caveat_spec.report import Report
from caveat_spec.study import NewFindings
from caveat_worker.jobs.sandbox import confine

if TYPE_CHECKING:
    from caveat_worker.engine.base.store import ArrayStore

EXTRAS = {"pandas": "tables", "pyarrow": "tables", "tokenizers": "texts", "sklearn": "estimators"}
"""Packages that some audits need and a small installation lacks, and the extra that has them."""
MAPS = "maps.npz"
"""Where a child leaves the file of maps that belongs to its report."""
LONGEST_SENTENCE = 2_000  # characters
DISK_STATUS = 100
"""Exit status of a child whose disk did not even take its problem, plus the number of the error."""


class CrashReport(Document):
    """An internal error as the log may show it: its type and places, without its message, which may quote data."""

    fault: Annotated[str, Field(max_length=100)]
    at: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=20)]

    @classmethod
    def of(cls, fault: Exception) -> CrashReport:
        """The report of an exception, innermost place last."""
        places = traceback.extract_tb(fault.__traceback__)[-20:]
        return cls(
            fault=type(fault).__name__[:100],
            at=[f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}"[-200:] for one in places],
        )


def main(folder: Path, parent: int) -> None:
    """Runs the job in `folder`, as long as the process `parent` lives."""
    job = json.loads((folder / "job.json").read_bytes())
    limits = job["limits"]
    code = [_folder_of(module) for module in ("caveat_spec", "caveat_worker", job["pipeline"])]
    code += [_folder_of(library).parent for library in ("pydantic", "numpy")]  # and whatever is installed beside them
    code += [Path(place) for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    kept = Path(job["kept"]) if job["kept"] else None
    lacks = confine(
        folder, code=code, memory_bytes=limits["memory_bytes"], cpu_seconds=limits["cpu_seconds"], kept=kept
    )
    if os.getppid() != parent:  # the parent ended before the death signal was set
        return
    request = REQUESTS[job["kind"]].model_validate(job["payload"])
    if lacks and limits["require_sandbox"]:
        answer: Result | Division | ProblemDetails = _unprotected(lacks)
    else:
        answer = _answer(request, folder, job["pipeline"], limits, kept, job["shard_batches"])
    if isinstance(answer, Report | Visualisation):
        answer = answer.model_copy(update={"engine": answer.engine.model_copy(update={"sandbox_lacks": lacks})})
    name = {ProblemDetails: "problem.json", Division: "division.json"}.get(type(answer), "result.json")
    (folder / "outputs" / name).write_text(answer.model_dump_json())


def exit_status(fault: BaseException) -> int:
    """The exit status of a child that failed and could not write why."""
    return DISK_STATUS + int(fault.errno or 0) if isinstance(fault, OSError) and fault.errno in ERRNOS else 1


def _unprotected(lacks: list[str]) -> ProblemDetails:
    return ProblemDetails.of(
        "no-sandbox",
        500,
        f"The worker's sandbox lacks {', '.join(lacks)}, and its operator requires every protection.",
        "Report the job's id to the operator, who has to look at the worker's kernel and its seccomp profile.",
    )


def _answer(
    request: Request, folder: Path, pipeline: str, limits: dict[str, int], kept: Path | None, batches: int
) -> Result | Division | ProblemDetails:
    """The result of the pipeline, or the problem that prevents it."""
    try:
        module = import_module(pipeline)
        import_module("caveat_worker.engine.onnx.session").limit_gpu(limits["gpu_bytes"])
        gc.freeze()  # exempts imported objects from collection, which takes a second of a large audit otherwise
        return _run(module, request, folder, limits["threads"], kept, batches)
    except Exception as fault:
        return _problem(fault)


def _run(
    pipeline: ModuleType, request: Request, folder: Path, threads: int, kept: Path | None, batches: int
) -> Result | Division:
    def blob(digest: str) -> Path:
        return folder / "inputs" / digest.partition(":")[2]

    result: Result | Division
    if isinstance(request, Shard):
        result = import_module("caveat_worker.sharding").run_shard(
            request, blob, _say, threads=threads, store=_array_store(folder, kept or folder / "nothing")
        )
    elif isinstance(request, Audit):
        beside = {} if request.keep is None else {"keep_maps": (folder / "outputs" / MAPS).write_bytes}
        how = {"threads": threads, "store": _array_store(folder, kept), **beside}
        if batches:
            result = import_module("caveat_worker.sharding").run_or_divide(request, blob, _say, batches=batches, **how)
        else:
            result = pipeline.run(request, blob, _say, **how)
    elif isinstance(request, NewModel):
        given = request.gradient
        supplied = {} if given is None else {"gradient": blob(given.blob), "targets": given.targets}
        supplied |= {"constants": request.constants} if request.constants else {}
        result = pipeline.inspect_model(blob(request.blob), request.output, request.index, **supplied)
    elif isinstance(request, NewDirections):
        result = pipeline.find_directions(request, blob, _say, threads=threads)
    elif isinstance(request, NewVisualisation):
        result = pipeline.make_pictures(request, blob, _say, threads=threads)
    elif isinstance(request, NewFindings):
        result = pipeline.analyse_study(request)
    elif isinstance(request, NewPlan):
        result = pipeline.plan_examples(request.audit, blob, request.report)
    else:
        result = pipeline.inspect_examples(request.examples, blob)
    return result


def _array_store(folder: Path, kept: Path | None) -> Callable[[], AbstractContextManager[ArrayStore]]:
    """Opens the array store: the cache, the pieces of shards, and a place among the outputs for new arrays."""
    from caveat_worker.array_stores import cached, joined, scratch

    own = scratch if kept is None else partial(cached, kept, folder / "outputs" / "cache")
    pieces = folder / "pieces"
    return (lambda: joined(pieces, own())) if pieces.is_dir() else own


def _folder_of(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None, f"there is no module {module}"
    return Path(str(spec.origin)).parent


def _say(stage: Stage, progress: float) -> None:
    print(json.dumps({"stage": stage, "progress": progress}), flush=True)


def _problem(fault: Exception) -> ProblemDetails:
    """The problem of an invalid input; for any other exception an internal error, whose traceback goes to stderr."""
    from caveat_worker.engine.base.errors import InvalidInput

    if isinstance(fault, InvalidInput):
        sentence, remedy = shortened(fault.sentence), shortened(fault.remedy)  # they may quote names of any length
        errors = [Fault(pointer=fault.pointer, detail=sentence)] if fault.pointer is not None else []
        return ProblemDetails.of(fault.code, 422, sentence, remedy, errors)
    if isinstance(fault, OSError) and fault.errno in ERRNOS:
        return disk_problem("scratch", int(fault.errno or 0))
    if isinstance(fault, ModuleNotFoundError) and fault.name in EXTRAS:
        return ProblemDetails.of(
            "not-installed",
            503,
            f"This audit needs {fault.name}.",
            f"Install it with `pip install 'caveat[{EXTRAS[fault.name]}]'`.",
        )
    print(CrashReport.of(fault).model_dump_json(), file=sys.stderr)
    traceback.print_exception(fault)
    if isinstance(fault, MemoryError) or "bad_alloc" in str(fault):
        return ProblemDetails.of(
            "out-of-memory",
            422,
            "The job needs more memory than its limit.",
            "Audit fewer layers, reduce them with '@mean', or raise CAVEAT_MEMORY_BYTES on the worker.",
        )
    return ProblemDetails.of(
        "internal",
        500,
        f"The worker failed on this job with an internal error ({type(fault).__name__}).",
        "Report the job's id to the operator: the worker's log has the details.",
    )


def shortened(sentence: str) -> str:
    """The sentence, cut to `LONGEST_SENTENCE` characters."""
    return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]}…"
