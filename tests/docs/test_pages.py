"""Every command in the documentation is run, or is known not to be runnable here and is tried in another form."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import jsonschema
import numpy as np
import pytest
from alembic.util import CommandError
from onnx import TensorProto, helper, numpy_helper, save
from sqlalchemy import text

from caveat.cli import cli
from caveat.yaml_source import read_document
from caveat_service.settings import Settings as ServiceSettings
from caveat_spec.disk_faults import ERRNOS, NAMES, disk_problem
from caveat_storage import keys
from caveat_storage.job_records import Database, migrate
from caveat_worker.jobs.settings import Settings as WorkerSettings
from tests.client.conftest import ROOT, service, service_keys  # noqa: F401 - fixtures
from tests.client.models import write_audit
from tests.examples.test_ci import run

PAGES = sorted(
    path
    for place in (ROOT.glob("[A-Z]*.md"), *((ROOT / folder).rglob("*.md") for folder in ("docs", "examples", "helm")))
    for path in place
    if path.name != "CHANGELOG.md"
)
BLOCKS = {
    (path.relative_to(ROOT).as_posix(), block): path
    for path in PAGES
    for block in re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
}


@dataclass(frozen=True)
class Elsewhere:
    """Why a block is not run as it stands, and the file that tries the same, known by words in it."""

    why: str
    tried_in: str
    words: tuple[str, ...]


RUN_BY = {
    "README.md": "tests/docs/test_readme.py",
    "docs/api.md": "tests/docs/test_pages.py",
    "docs/command.md": "tests/docs/test_pages.py",
    "docs/attestations.md": "tests/client/test_attestation_page.py",
    "docs/how-to/ask-people.md": "tests/client/test_study.py",
    "docs/how-to/file-an-annex.md": "tests/client/test_annex.py",
    "docs/how-to/first-audit.md": "tests/docs/test_site.py",
    "docs/operations.md": "tests/docs/test_pages.py",
}
"""Pages whose blocks are run, by which test, but for those below."""
NOT_RUN = {
    ("README.md", "make demo"): Elsewhere(
        "It is minutes long.", "tests/docs/test_readme.py", ("test_the_two_commands_are_targets",)
    ),
    ("docs/api.md", "/v1/webhooks"): Elsewhere(
        "It needs a receiver in the open internet.", "tests/worker/test_webhook_http.py", ("receiver",)
    ),
    ("docs/api.md", "/v1/studies"): Elsewhere(
        "It needs a report with maps.",
        "tests/service/test_studies.py",
        ("/v1/studies", ":close", "/ratings", "/findings"),
    ),
    ("docs/how-to/ask-people.md", "--close"): Elsewhere(
        "It names an audit of a service.", "tests/client/test_study_service.py", ('"make", job', '"--close"', '"--url"')
    ),
    ("docs/how-to/ask-people.md", "caveat study serve"): Elsewhere(
        "It serves until it is stopped.",
        "tests/client/test_study_serving.py",
        ('"study", "serve"', "https://study.example"),
    ),
    ("docs/how-to/explain-an-example.md", "--maps"): Elsewhere(
        "It needs an audit with its files.", "tests/audits/test_maps.py", ('"--maps"', '"explain"', "contents")
    ),
    ("docs/attestations.md", "caveat visualise"): Elsewhere(
        "It needs an audit of pictures.",
        "tests/client/test_visualise.py",
        ('"--sign-key"', "visualised.dsse.json", '"--model"', '"--examples"'),
    ),
    ("docs/how-to/explain-an-example.md", "caveat visualise"): Elsewhere(
        "It needs an audit of pictures.", "tests/client/test_visualise.py", ('"visualise"', '"--concept"', '"--like"')
    ),
    ("docs/how-to/supply-a-gradient.md", "/v1/models"): Elsewhere(
        "It needs a gradient that a training framework exported.",
        "tests/client/test_external_gradients.py",
        ("register_model", "SuppliedGradient"),
    ),
    ("docs/how-to/repair-a-model.md", "caveat edit"): Elsewhere(
        "It names the demo's concept.", "tests/client/test_edit.py", ('"--concept"', '"--reports"')
    ),
    ("docs/how-to/watch-concepts.md", "caveat monitor"): Elsewhere(
        "It needs an audit with its files.", "tests/client/test_edit.py", ('"monitor", audit', "watch-concepts.md")
    ),
    ("docs/operations.md", "helm install"): Elsewhere(
        "It needs a cluster.", "tests/chart/conftest.py", ('"template"',)
    ),
    ("docs/operations.md", "pg_dump"): Elsewhere(
        "It needs two databases and a bucket; `make images` does it beside real images.",
        "deploy/trial.py",
        ("pg_dump", "--format=custom", "createdb", "pg_restore", "--exit-on-error"),
    ),
    ("helm/caveat/README.md", "helm install"): Elsewhere(
        "It needs a cluster.", "tests/chart/conftest.py", ('"template"',)
    ),
}


def test_every_block_is_run_or_is_tried_elsewhere() -> None:
    left = set(NOT_RUN)
    for page, block in BLOCKS:
        found = [key for key in NOT_RUN if key[0] == page and key[1] in block]
        left -= set(found)
        if not found:
            test = ROOT / RUN_BY.get(page, "nowhere")
            assert test.exists(), f"nothing runs this block of {page}:\n{block}"
            assert Path(page).name in test.read_text()
    assert not left, "what is excused is no longer there"


@pytest.mark.parametrize("block", NOT_RUN, ids="{0[0]}: {0[1]}".format)
def test_what_is_not_run_is_tried_elsewhere(block: tuple[str, str]) -> None:
    elsewhere = NOT_RUN[block]
    text = (ROOT / elsewhere.tried_in).read_text()
    assert elsewhere.why
    assert [word for word in elsewhere.words if word not in text] == []


def blocks_of(page: str) -> list[str]:
    return [
        block
        for name, block in BLOCKS
        if name == page and not any((name, key) in NOT_RUN and key in block for _, key in NOT_RUN)
    ]


@pytest.mark.xdist_group("up")
def test_the_journey_over_http(tmp_path: Path, service: str) -> None:  # noqa: F811
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"])],
        "loans",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.ones((2, 1), np.float32), "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "model.onnx")
    random = np.random.default_rng(1)
    with (tmp_path / "loans.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["debt_ratio", "loan_to_price", "race", "approved"])
        rows.writerows([*random.random(2), ("black", "white")[i % 2], int(random.random() < 0.8)] for i in range(400))
    script = "\n".join(blocks_of("docs/api.md")).replace("http://127.0.0.1:8000", service)
    done = run(["bash", "-euo", "pipefail", "-c", script], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"complete":' not in done.stdout, "the upload of a model that is there adds nothing"
    assert "event: succeed" in done.stdout
    assert '"urn:caveat:problem:ended"' in done.stdout, "it cannot be cancelled any more"
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_an_editor_gets_its_schema(tmp_path: Path) -> None:
    audit = write_audit(tmp_path)
    (block,) = blocks_of("docs/command.md")
    done = run(["bash", "-euo", "pipefail", "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert audit.read_text().startswith("# yaml-language-server: $schema=audit.schema.json\n")
    jsonschema.validate(read_document(audit)[0], json.loads((tmp_path / "audit.schema.json").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_that_are_mentioned_are_there(page: Path) -> None:
    """Every `caveat …` and `make …` in running words names a command, and options that it has."""
    assert isinstance(cli, click.Group)
    text = page.read_text()
    targets = re.findall(
        r"^([a-z-]+):", (ROOT / "Makefile").read_text() + (ROOT / "chart.mk").read_text(), re.MULTILINE
    )
    for mentioned in re.findall(r"`make ([a-z-]+)`", text):
        assert mentioned in targets, f"make {mentioned}"
    for name, rest in re.findall(r"(?:`|^\$ |^)(?:CAVEAT_\w+=\S+ )?caveat ([a-z-]+)([^`\n]*)", text, re.MULTILINE):
        command: click.Command = cli
        for word in [name, *rest.split()]:
            if isinstance(command, click.Group) and word in command.commands:
                command = command.commands[word]
        if command is cli:
            continue
        known = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        given = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest)
        assert set(given) <= known, f"caveat {name}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_module_commands_of_the_examples_are_there() -> None:
    for path in PAGES:
        for module in re.findall(r"python -m ([a-z_.]+)", path.read_text()):
            assert find_spec(module) is not None, f"{path}: python -m {module}"


def test_operators_handle_keys_as_the_page_says(tmp_path: Path) -> None:
    """By the command that is in the API's image, here without the pod around it."""
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    migrate(url)
    (block,) = [block for page, block in BLOCKS if page == "docs/operations.md" and "caveat keys" in block]
    commands = block.replace("kubectl -n caveat exec deploy/caveat-api -- ", "").splitlines()
    assert all(command.startswith("caveat keys ") for command in commands)
    said = []
    for command in commands:
        key_id = re.findall(r"caveat_([0-9a-z]{26})_", "".join(said))[:1] or [""]
        done = run(
            ["bash", "-c", command.replace("KEY_ID", key_id[0])], tmp_path, CAVEAT_DATABASE_URL=url, CAVEAT_AUTH="keys"
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    first, second = (re.findall(r"caveat_[0-9a-z]{26}_\w+", said[command])[0] for command in (0, 2))
    database = Database(url)
    assert keys.holder(database, first) is None, "it was revoked"
    holder = keys.holder(database, second)
    assert holder is not None
    assert (holder.tenant, holder.scopes) == ("team-a", {"submit", "read"})
    assert "team-a" in said[1]
    database.close()


def test_settings_that_are_shown_are_settings() -> None:
    known = {f"CAVEAT_{name.upper()}" for model in (ServiceSettings, WorkerSettings) for name in model.model_fields}
    for page, block in BLOCKS:
        if page == "docs/operations.md":
            assert set(re.findall(r"\b(CAVEAT_[A-Z_]+)\b", block)) <= known


def test_an_older_image_on_a_newer_schema_says_what_the_page_quotes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'caveat.db'}"
    migrate(url)
    database = Database(url)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(CommandError) as caught:
        migrate(url)
    assert str(caught.value).startswith("Can't locate revision")
    assert "`Can't locate revision`" in (ROOT / "docs" / "operations.md").read_text()


def test_runbooks_quote_what_is_said() -> None:
    runbooks = (ROOT / "docs" / "operations.md").read_text().partition("### Runbooks")[2]
    code = "".join(
        path.read_text() for folder in ("service", "worker", "storage") for path in (ROOT / folder).rglob("*.py")
    )
    code += "".join(disk_problem(disk, number).type for disk in NAMES for number in ERRNOS)
    quoted = re.findall(r"`((?:the|no) [a-z. ]+|[a-z]+-[a-z-]+)`", runbooks)
    assert len(quoted) >= 4
    for words in quoted:
        assert all(part.strip() in code for part in words.split("...")), words


def test_every_migration_is_in_the_table_of_upgrades() -> None:
    """Whoever writes one says what it does to pods that are about to be replaced."""
    upgrades = (ROOT / "docs" / "operations.md").read_text().partition("## Upgrades")[2].partition("## Backup")[0]
    migrations = ROOT / "storage" / "caveat_storage" / "migrations" / "versions"
    numbers = {path.name[:4] for path in migrations.glob("0*.py")} - {"0001"}
    assert set(re.findall(r"\b(\d{4})\b", upgrades)) == numbers
