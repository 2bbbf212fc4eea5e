"""The methods an audit can run, one file each: what a method is, and which of them an audit asks for.

A method is a function from collected arrays to results, under the name of its row in `caveat_spec.methods`:

    @method(requires=lambda audit: (Outputs(at=("concept", "reference")),))
    def my_method(collected: Collected, runtime: Runtime, options: MyOptions) -> Iterator[AnyResult]:
        yield ConceptTest(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from caveat_spec.audit import Audit
from caveat_spec.methods import MethodEntry, methods
from caveat_spec.results import AnyResult
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.requirements import OF_LAYERS, Plan, Requirement
from caveat_worker.engine.base.errors import InvalidInput

Requires = Callable[[Audit], Sequence[Requirement]]
Run = Callable[[Collected, Runtime, Any], Iterable[AnyResult]]


@dataclass(frozen=True)
class Method:
    """A method: its requirements as data, and the function that turns what was collected into results."""

    name: str
    requires: Requires
    """What has to be collected for it, given an audit."""
    run: Run
    units: Callable[[Plan], int]
    """How many units of work it will count with `runtime.progress`."""

    def reads_layers(self, audit: Audit) -> bool:
        """Whether it needs a layer that a gradient reaches."""
        return any(isinstance(one, OF_LAYERS) for one in self.requires(audit))


def method(*, requires: Requires, units: Callable[[Plan], int] = lambda _: 0) -> Callable[[Run], Method]:
    """Makes a function a method of its own name."""
    return lambda function: Method(function.__name__, requires, function, units)


def asked_methods(audit: Audit) -> list[Method]:
    """The methods that an audit names, or implies by having concepts, matched pairs or groups."""
    return [
        _imported(entry)
        for entry in methods().values()
        if entry.name in audit.methods or entry.implied_by in audit.parts
    ]


def run_method(one: Method, collected: Collected, runtime: Runtime) -> list[AnyResult]:
    """The results of a method, with the options that the audit gives it."""
    options = methods()[one.name].options.model_validate(collected.plan.audit.methods.get(one.name, {}))
    return list(one.run(collected, runtime, options))


def _imported(entry: MethodEntry) -> Method:
    """The method of a row; raises InvalidInput if its package does not hold it."""
    try:
        found = getattr(import_module(entry.module), entry.name)
    except (ImportError, AttributeError) as error:
        raise _not_there(entry, f"cannot be imported ({error})") from error
    if not isinstance(found, Method):
        raise _not_there(entry, f"is of type {type(found).__name__}, not a method")
    return found


def _not_there(entry: MethodEntry, sentence: str) -> InvalidInput:
    return InvalidInput(
        "broken-method",
        f"The method {entry.name!r} is registered by an installed package, but {entry.module}.{entry.name} {sentence}.",
        "Repair or remove that package. A method is a function under @caveat_worker.engine.methods.method.",
        "/methods",
    )
