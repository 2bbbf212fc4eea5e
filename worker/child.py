"""The process that does one job: forked for it (`worker.forkserver`), confined at once, watched (`worker.supervisor`).

It reads `job.json` and `inputs/`, writes `outputs/result.json` or `outputs/problem.json`, and says on standard output,
one JSON object a line, how far it has come.
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

from api_spec.artifacts import NewModel, Stage
from api_spec.audit import Audit
from api_spec.base import Document
from api_spec.jobs import REQUESTS, Division, Request, Result, Shard
from api_spec.problem import Fault, Problem
from api_spec.report import Report
from worker.sandbox import confine

if TYPE_CHECKING:
    from worker.engine.shelf import Shelf

LONGEST_SENTENCE = 2_000  # characters


class Complaint(Document):
    """A fault of ours as the log may have it: what it is and where, and no message, which may quote an example."""

    fault: Annotated[str, Field(max_length=100)]
    at: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=20)]

    @classmethod
    def of(cls, fault: Exception) -> Complaint:
        """What went wrong, innermost place last."""
        places = traceback.extract_tb(fault.__traceback__)[-20:]
        return cls(
            fault=type(fault).__name__[:100],
            at=[f"{'/'.join(Path(one.filename).parts[-2:])}:{one.lineno}"[-200:] for one in places],
        )


def main(folder: Path, parent: int) -> None:
    """Does the job in `folder`, for as long as `parent` lives."""
    job = json.loads((folder / "job.json").read_bytes())
    limits = job["limits"]
    code = [_folder_of(module) for module in ("api_spec", "worker", job["pipeline"])]
    code += [_folder_of(library).parent for library in ("pydantic", "numpy")]  # and whatever is installed beside them
    kept = Path(job["kept"]) if job["kept"] else None
    lacks = confine(
        folder, code=code, memory_bytes=limits["memory_bytes"], cpu_seconds=limits["cpu_seconds"], kept=kept
    )
    if os.getppid() != parent:  # it was gone before the kernel knew that we end with it
        return
    request = REQUESTS[job["kind"]].model_validate(job["payload"])
    answer = _answer(request, folder, job["pipeline"], limits, kept, job["shard_batches"])
    if isinstance(answer, Report):
        answer = answer.model_copy(update={"engine": answer.engine.model_copy(update={"sandbox_lacks": lacks})})
    name = {Problem: "problem.json", Division: "division.json"}.get(type(answer), "result.json")
    (folder / "outputs" / name).write_text(answer.model_dump_json())


def _answer(
    request: Request, folder: Path, pipeline: str, limits: dict[str, int], kept: Path | None, batches: int
) -> Result | Division | Problem:
    """What the pipeline makes of the request, or why it will not."""
    try:
        module = import_module(pipeline)
        import_module("worker.engine.session").limit_gpu(limits["gpu_bytes"])
        gc.freeze()  # what was imported stays: looking through it again and again takes a second of a large audit
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
        result = import_module("worker.sharding").run_shard(
            request, blob, _say, threads=threads, shelf=_shelf(folder, kept or folder / "nothing")
        )
    elif isinstance(request, Audit) and batches:
        result = import_module("worker.sharding").run_or_divide(
            request, blob, _say, threads=threads, shelf=_shelf(folder, kept), batches=batches
        )
    elif isinstance(request, Audit):
        result = pipeline.run(request, blob, _say, threads=threads, shelf=_shelf(folder, kept))
    elif isinstance(request, NewModel):
        given = request.gradient
        supplied = {} if given is None else {"gradient": blob(given.blob), "targets": given.targets}
        result = pipeline.inspect_model(blob(request.blob), request.output, request.index, **supplied)
    else:
        result = pipeline.inspect_examples(request.examples, blob)
    return result


def _shelf(folder: Path, kept: Path | None) -> Callable[[], AbstractContextManager[Shelf]]:
    """Opens what was kept before, the pieces that shards left, and a place among the outputs for what is added."""
    from worker.scratch import cached, joined, scratch

    own = scratch if kept is None else partial(cached, kept, folder / "outputs" / "cache")
    pieces = folder / "pieces"
    return (lambda: joined(pieces, own())) if pieces.is_dir() else own


def _folder_of(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None, f"there is no module {module}"
    return Path(str(spec.origin)).parent


def _say(stage: Stage, progress: float) -> None:
    print(json.dumps({"stage": stage, "progress": progress}), flush=True)


def _problem(fault: Exception) -> Problem:
    """A refusal in its own words; anything else as a fault of ours, whose traceback stays in the worker's log."""
    from worker.engine.errors import Refused

    if isinstance(fault, Refused):
        sentence, remedy = shortened(fault.sentence), shortened(fault.remedy)  # they may quote names of a megabyte
        errors = [Fault(pointer=fault.pointer, detail=sentence)] if fault.pointer is not None else []
        return Problem.of(fault.code, 422, sentence, remedy, errors)
    print(Complaint.of(fault).model_dump_json(), file=sys.stderr)
    traceback.print_exception(fault)
    if isinstance(fault, MemoryError) or "bad_alloc" in str(fault):
        return Problem.of(
            "out-of-memory",
            422,
            "The job needs more memory than it may have.",
            "Audit fewer layers, reduce them with '@mean', or raise CAVEAT_MEMORY_BYTES on the worker.",
        )
    return Problem.of(
        "internal",
        500,
        f"The worker failed on this job with a fault of its own ({type(fault).__name__}).",
        "Tell the operator the job's id: the worker's log has the details.",
    )


def shortened(sentence: str) -> str:
    """A sentence that fits on a screen."""
    return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[:LONGEST_SENTENCE]}…"
