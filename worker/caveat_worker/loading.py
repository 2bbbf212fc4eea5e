"""The model and the engine of an audit: how a model is loaded once, and which provider and versions compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnxruntime as ort

from caveat_spec.audit import Audit
from caveat_spec.report import Engine
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.store import ArrayStore, key_of
from caveat_worker.engine.onnx.session import Provider, installed, why_not

Blob = Callable[[str], Path]
"""Digest → the file that holds its bytes."""
LIBRARIES = (ort.package_name, "onnx", "numpy", "scipy", "scikit-learn", "pillow")


def choose_provider(asked: str) -> tuple[Provider, list[str]]:
    """The execution provider that an audit gets, and a sentence where it is not the one asked for."""
    if asked == "cpu":
        return "cpu", []
    if asked == "auto" and not installed("cuda"):
        return "cpu", []
    reason = why_not("cuda")
    if reason is None:
        return "cuda", []
    wanted = "was asked for" if asked == "cuda" else "is installed"
    return "cpu", [f"CUDA {wanted} and is not available here, so the CPU was used: {reason}."]


def describe_engine(provider: Provider) -> Engine:
    """The versions that compute a report."""
    return Engine(caveat=version("caveat"), versions=_versions(), provider=provider)


def versions_of(engine: Engine) -> dict[str, str]:
    """Every version by its library's name."""
    return {"caveat": engine.caveat, **engine.versions}


def load_model(
    audit: Audit, blob: Blob, versions: Mapping[str, str], store: ArrayStore, interacts: bool | None
) -> Model:
    """The audit's model; whether its examples interact is known from the first time that it was run."""
    key = loaded_key(audit, versions)
    known = store.get(key)
    model = load(
        blob(audit.model),
        interacts=interacts if known is None else bool(known[0]),
        constants=audit.constants,
        fed=fed_by_name(audit),
    )
    if known is None:
        store.put(key, np.array([model.interacts]))
    return model


def loaded_key(audit: Audit, versions: Mapping[str, str]) -> str:
    """The key of the facts that running an audit's model once has shown about it."""
    return key_of(loaded=[audit.model, audit.constants, sorted(fed_by_name(audit))], by=dict(versions))


def fed_by_name(audit: Audit) -> set[str]:
    """The model's inputs to which an example set gives values by their names."""
    return {name for one in audit.examples.values() for name in getattr(one, "inputs", {})}


def _versions() -> dict[str, str]:
    """Library → version; a small installation lacks what its audits do not use."""
    found = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found
