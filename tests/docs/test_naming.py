"""The words of the field stay: none of the private names that decision 0019 replaced comes back."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS_OLD_NAMES = ("CHANGELOG.md", "docs/decisions/", "tests/docs/test_naming.py")
"""Files that name the old words because they say what became of them."""
KEEPS_OLD_NAMES = ("storage/caveat_storage/migrations/versions/",)
"""Migrations never change once they have run; the column `rung_at` keeps its name for rolling upgrades."""


@dataclass(frozen=True)
class OldName:
    """A name that must not be defined any more; `where` limits it to folders, `but` gives names that stay, and why."""

    old: str
    now: str
    where: tuple[str, ...] = ("",)
    but: str = ""


MODULES = (
    OldName("addresses", "ssrf"),
    OldName("calls", "endpoints"),
    OldName("chain", "audit_log"),
    OldName("chance", "p_values", but="as a variable it is plain English"),
    OldName("check", "gradient_check"),
    OldName("courier", "webhook_sender"),
    OldName("document", "yaml_source", but="a document is what YAML and pydantic call one"),
    OldName("encoding", "linear_probe", but="a layer encodes a concept: the function `encoding` measures it"),
    OldName("evidence", "attestation, or concept tests", but="`evidence` of a test is association or intervention"),
    OldName("first", "scaffold"),
    OldName("guesses", "auth_throttle"),
    OldName("keeping", "retention"),
    OldName("ledger", "hash_chain"),
    OldName("lifecycle", "job_state"),
    OldName("listening", "gunicorn_worker"),
    OldName("log", "audit_log", but="`telemetry/logs` and `log_level` are about logging"),
    OldName("margin", "linear_models", but="a margin is what the literature calls y f(x)"),
    OldName("measures", "metrics"),
    OldName("moves", "diff"),
    OldName("numbers", "formatting"),
    OldName("patience", "long_request_slots"),
    OldName("planted", "scenarios"),
    OldName("post", "webhook_http"),
    OldName("probe", "collect", but="`linear_probe` is one; Kubernetes has liveness and readiness probes"),
    OldName("problem", "fit_problem", where=("worker/",), but="`caveat_spec.problem` is RFC 9457's problem document"),
    OldName("reading", "source"),
    OldName("records", "job_records"),
    OldName("screen", "console_output"),
    OldName("scratch", "array_stores"),
    OldName("shelf", "store"),
    OldName("stats", "concept_test"),
    OldName("supplied", "external_gradients"),
    OldName("tape", "builder"),
    OldName("truths", "ground_truth", but="`make truths` makes the ground truths' part of a page"),
    OldName("twin", "torch_network"),
    OldName("visible", "sanitize"),
    OldName("walk", "activation_intervention"),
    OldName("watch", "instrumentation"),
    OldName("witness", "counterfactual"),
    OldName("worlds", "simulation"),
)
PACKAGES = ("api_spec", "vault", "reports", "telemetry", "service", "worker")
"""Names that somebody else's package may have; nothing is imported by them."""
CLASSES = (
    OldName("Behind", "AppContext"),
    OldName("Bell", "JobPublisher"),
    OldName("Complaint", "CrashReport"),
    OldName("Corner", "Namespace"),
    OldName("Floats", "Float32Array or Float64Array"),
    OldName("Keeper", "ArtifactSink"),
    OldName("Need", "Requirements"),
    OldName("OneVoice", "GunicornLogger"),
    OldName("Parcel", "PendingDelivery"),
    OldName("Problem", "ProblemDetails or FitProblem"),
    OldName("Refusal", "UnsupportedOperator"),
    OldName("Refused", "InvalidInput"),
    OldName("RefusedError", "HTTPProblem or ServerError"),
    OldName("Said", "LayerFinding"),
    OldName("Seen", "Collected"),
    OldName("Shelf", "ArrayStore"),
    OldName("Shelves", "OpenStore"),
    OldName("Sorted", "Ranking"),
    OldName("Step", "StepDirection"),
    OldName("Story", "LayerFindings"),
    OldName("Strip", "Ranking"),
    OldName("Supplied", "ExternalGradients"),
    OldName("Tape", "GraphBuilder"),
    OldName("Tenure", "LeaseHolder"),
    OldName("Told", "ProgressReader"),
    OldName("Watch", "Instrumentation"),
    OldName("WholeStep", "FiniteStep"),
)
NAMES = (
    OldName("about", "error_context", where=("worker/caveat_worker/engine/",), but="fields about a job are logged"),
    OldName("apart", "set_separation", where=("worker/",)),
    OldName("asker", "principal"),
    OldName("behind", "app_context", where=("service/", "tests/service/"), but="layers lie behind others"),
    OldName("bell", "publisher"),
    OldName("beyond", "controlling_for", where=("api_spec/",), but="effects lie beyond chance"),
    OldName("courier", "webhook_sender"),
    OldName("examine", "run_concept_test"),
    OldName("gaps", "projected_gaps", where=("worker/",)),
    OldName("guesses", "auth_throttle"),
    OldName("insist", "retry_until"),
    OldName("lanes", "split_threads"),
    OldName("large_model", "large_model_bytes", where=("service/", "worker/")),
    OldName("n_pool", "n_reference"),
    OldName("null_sets", "permutations"),
    OldName("parcel", "delivery"),
    OldName("places", "row_ranges", where=("worker/caveat_worker/engine/activations/",)),
    OldName("ring", "publish"),
    OldName("rung_at", "published_at", where=("service/", "worker/")),
    OldName("shelf", "store"),
    OldName("slopes", "derivatives", where=("worker/",)),
    OldName("tape", "builder"),
    OldName("tenure", "holder"),
    OldName("tidy_hours", "gc_interval_hours"),
    OldName("unheard_seconds", "republish_after_seconds"),
    OldName("unless_known", "conditional_response"),
    OldName("unused_hours", "gc_grace_hours"),
    OldName("weigh", "test_concepts"),
    OldName("when_witnesses_disagree", "require"),
    OldName("whole_step", "finite_step"),
    OldName("withholds", "blocking"),
    OldName("witness", "intervention"),
    OldName("wrong_keys_limit", "auth_failure_limit"),
)
"""Functions, methods, arguments, attributes and variables."""
STORE_METHODS = (
    OldName("find", "get"),
    OldName("keep", "put"),
    OldName("room", "allocate"),
    OldName("spare", "scratch"),
)
"""Methods of an array store; elsewhere these are plain English."""
POOL = OldName("pool", "reference", but="thread pools, pooling layers and pools of workers are called so everywhere")
TWINS = OldName("twins", "matched pairs")
YAML_KEYS = ("null_sets", "positions", "beyond", "when_witnesses_disagree")
ENVIRONMENT = (
    "CAVEAT_UNHEARD_SECONDS",
    "CAVEAT_TIDY_HOURS",
    "CAVEAT_UNUSED_HOURS",
    "CAVEAT_LARGE_MODEL(?!_BYTES)",
    "CAVEAT_WRONG_KEYS_LIMIT",
)
ADDRESSES = (r"(?<!/api)/v1/log\b", r"\bcaveat log\b", r"\bverify --log\b", r"caveat\[(vault|evidence)\]")


@dataclass(frozen=True)
class Definition:
    """A name that a file gives to something; `of` is the class around it."""

    kind: str
    name: str
    line: int
    of: str = ""


def definitions(source: str) -> Iterator[Definition]:
    """Every class, function, argument, attribute and variable that a module defines."""
    yield from _definitions(ast.parse(source), "")


def _definitions(node: ast.AST, of: str) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef():
                yield Definition("class", child.name, child.lineno, of)
                yield from _definitions(child, child.name)
                continue
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Definition("function", child.name, child.lineno, of)
            case ast.arg():
                yield Definition("argument", child.arg, child.lineno, of)
            case ast.Name(ctx=ast.Store()):
                yield Definition("variable", child.id, child.lineno, of)
            case ast.Attribute(ctx=ast.Store()):
                yield Definition("attribute", child.attr, child.lineno, of)
            case ast.alias(asname=str()):
                yield Definition("variable", str(child.asname), getattr(child, "lineno", 0), of)
            case ast.ExceptHandler(name=str()):
                yield Definition("variable", str(child.name), child.lineno, of)
            case _:
                pass
        yield from _definitions(child, of)


def old_names(path: str, source: str) -> list[str]:
    """What a Python file defines under an old name, as `path:line old, now new`."""
    found = []
    stem = Path(path).stem
    found += [f"{path}: module {one.old}, now {one.now}" for one in MODULES if one.old == stem and _applies(one, path)]
    for definition in definitions(source):
        for one in _banned(path, definition):
            found.append(f"{path}:{definition.line} {definition.kind} {one.old}, now {one.now}")
    for node in ast.walk(ast.parse(source)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [
            f"{path}:{node.lineno} import of {name}, now a package of Caveat's own name"  # type: ignore[attr-defined]
            for name in modules
            if name.split(".")[0] in PACKAGES
        ]
    return found


def _banned(path: str, definition: Definition) -> list[OldName]:
    if definition.kind == "class":
        return [one for one in CLASSES if one.old == definition.name]
    names = [*NAMES, TWINS]
    if definition.kind == "function" and re.search("store|scratch|cached", definition.of, re.IGNORECASE):
        names += STORE_METHODS
    if definition.kind in ("argument", "attribute") and path.startswith(("api_spec/", "bench/", "worker/")):
        names.append(POOL)
    return [one for one in names if one.old == definition.name and _applies(one, path)]


def _applies(one: OldName, path: str) -> bool:
    return path.startswith(one.where)


@cache
def tracked(*patterns: str) -> tuple[str, ...]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(
        path
        for path in listed.stdout.split("\0")
        if path and not path.startswith(RECORDS_OLD_NAMES + KEEPS_OLD_NAMES) and (ROOT / path).exists()
    )


def test_no_definition_has_an_old_name() -> None:
    found = [one for path in tracked("*.py") for one in old_names(path, (ROOT / path).read_text())]
    assert not found, f"{len(found)} old names:\n" + "\n".join(found)


def test_no_yaml_key_has_an_old_name() -> None:
    key = re.compile(rf"(?:^|[{{,\s-])({'|'.join(YAML_KEYS)})['\"]?:\s", re.MULTILINE)
    texts = {path: (ROOT / path).read_text() for path in tracked("*.yaml", "*.yml", "*.md", "*.tpl")}
    assert not [(path, match[1]) for path, text in texts.items() for match in key.finditer(text)]


def test_no_file_has_an_old_address_or_variable() -> None:
    old = re.compile("|".join((*ENVIRONMENT, *ADDRESSES)))
    found = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path}: {match[0]}" for match in old.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("one", MODULES, ids=lambda one: one.old)
def test_a_module_of_an_old_name_is_found(one: OldName) -> None:
    assert old_names(f"{one.where[0]}{one.old}.py", "")


@pytest.mark.parametrize("one", CLASSES, ids=lambda one: one.old)
def test_a_class_of_an_old_name_is_found(one: OldName) -> None:
    assert old_names("service/caveat_service/new.py", f"class {one.old}:\n    pass\n")


@pytest.mark.parametrize("one", NAMES, ids=lambda one: one.old)
@pytest.mark.parametrize(
    "source",
    [
        "def {}():\n    pass\n",
        "class New:\n    async def {}(self):\n        pass\n",
        "def new({}):\n    pass\n",
        "lambda *, {}: 1\n",
        "class New:\n    {}: int = 1\n",
        "class New:\n    def __init__(self):\n        self.{} = 1\n",
        "for {} in ():\n    pass\n",
        "[1 for {} in ()]\n",
        "from caveat_spec import new as {}\n",
    ],
)
def test_a_definition_of_an_old_name_is_found(one: OldName, source: str) -> None:
    assert old_names(f"{one.where[-1] or 'client/'}new.py", source.format(one.old))


@pytest.mark.parametrize("one", STORE_METHODS, ids=lambda one: one.old)
def test_an_old_method_of_an_array_store_is_found_and_elsewhere_the_word_is_free(one: OldName) -> None:
    source = "class {}:\n    def {}(self):\n        pass\n"
    assert old_names("worker/caveat_worker/new.py", source.format("ArrayStore", one.old))
    assert not old_names("worker/caveat_worker/new.py", source.format("Cursor", one.old))


def test_words_of_other_fields_are_free() -> None:
    source = "import logging\nfrom concurrent.futures import ThreadPoolExecutor\n\n"
    source += "with ThreadPoolExecutor() as pool:\n    chance = document = records = probes = log = evidence = pool\n"
    assert old_names("worker/caveat_worker/linear_probe.py", source) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_an_import_of_a_package_with_a_generic_name_is_found(package: str) -> None:
    assert old_names("new.py", f"from {package}.settings import Settings\n")
    assert old_names("new.py", f"import {package}\n")
    assert not old_names("new.py", f"from caveat_{package} import Settings\n")
