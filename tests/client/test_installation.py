"""What an installation without an extra, or a system other than Linux, says; and what it can do all the same."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from caveat import installation
from caveat.problems import ProblemError
from caveat_spec.report import Report
from caveat_worker.jobs.child import EXTRAS as EXTRA_OF
from caveat_worker.jobs.child import _problem as problem_of
from tests.client.conftest import ROOT
from tests.client.models import write_audit
from tests.reports.conftest import watermark  # noqa: F401 - a fixture

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SERVERS = {"celery", "kombu", "redis", "sqlalchemy", "alembic", "flask", "gunicorn", "standardwebhooks", "requests"}
"""What a service brings, and an audit on this machine does without; with the SDK and the exporter of OpenTelemetry."""
WITHOUT = """\
import sys
class NotThere:
    def find_spec(self, name, *_):
        if name.partition('.')[0] in {absent!r} or name in {deeper!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, NotThere())
{before}
from caveat.cli import main
sys.argv = ['caveat', *sys.argv[1:]]
main()
"""


def run(
    folder: Path, *arguments: str, absent: set[str] = SERVERS, before: str = ""
) -> subprocess.CompletedProcess[str]:
    script = WITHOUT.format(absent=absent, deeper={"opentelemetry.sdk", "opentelemetry.exporter"}, before=before)
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )


def test_an_audit_here_needs_nothing_of_a_service(tmp_path: Path) -> None:
    write_audit(tmp_path)
    done = run(tmp_path, "gate", "audit.yaml", "--local")
    assert done.returncode == 1, "this audit fails by its gate\n" + done.stderr
    assert "first must not matter to yes" in done.stdout


def test_what_is_looked_for_is_what_the_extras_install() -> None:
    looked_for = {("engine", "images"): installation.ENGINE_MODULES}
    looked_for |= {(extra,): modules for _, modules, extra in installation.READING.values()}
    for extras, modules in looked_for.items():
        asked = {canonicalize_name(Requirement(one).name) for name in extras for one in EXTRAS[name]} - {"caveat"}
        found = [{canonicalize_name(one) for one in packages_distributions()[module]} for module in modules]
        assert asked - set().union(*found) == set()
        assert all(names & asked for names in found)


SMALL = {"pandas", "pyarrow", "tokenizers", "huggingface_hub", "sklearn", "joblib"}
"""What `caveat[images]` lacks of `caveat[local]`."""
IN_THIS_PROCESS = """
from pathlib import Path
from caveat.auditfile import read_audit, resolve
from caveat_worker import pipeline
from caveat_worker.jobs.forkserver import PRELOADED
for module in PRELOADED:
    __import__(module)
resolved = resolve(read_audit(Path('audit.yaml')))
print(pipeline.run(resolved.audit, resolved.blobs.__getitem__, lambda *_: None).verdict.outcome)
sys.exit()
"""


def test_arrays_and_pictures_need_half_of_what_tables_and_texts_do(tmp_path: Path) -> None:
    write_audit(tmp_path)
    done = run(tmp_path, absent=SMALL | SERVERS, before=IN_THIS_PROCESS)
    assert (done.returncode, done.stdout) == (0, "fail\n"), done.stderr


@pytest.mark.parametrize("module", EXTRA_OF)
def test_what_is_missed_while_an_audit_runs_is_named_with_its_extra(module: str) -> None:
    """As for pictures in a dataset, which only its reader finds."""
    told = problem_of(ModuleNotFoundError(f"No module named '{module}'", name=module))
    assert (told.code, told.status) == ("not-installed", 503)
    assert f"pip install 'caveat[{EXTRA_OF[module]}]'" in told.remedy
    assert packages_distributions()[module][0] in {Requirement(one).name for one in EXTRAS[EXTRA_OF[module]]}


@pytest.mark.parametrize(
    ("examples", "absent", "extra"),
    [
        ("{table: pool.csv, features: [a]}", "pandas", "tables"),
        ("{table: pool.csv, features: [a]}", "pyarrow", "tables"),
        ("{text: pool.csv, field: a, tokenizer: tokenizer.json}", "tokenizers", "texts"),
    ],
)
def test_a_kind_of_examples_names_the_extra_that_reads_it(
    examples: str, absent: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from caveat.cli import cli

    audit = write_audit(tmp_path)
    audit.write_text(audit.read_text().replace("{arrays: pool.npy}", examples))
    (tmp_path / "pool.csv").write_text("a\n1\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    real = installation.find_spec
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name == absent else real(name))
    assert cli.main(["gate", "audit.yaml", "--local"], standalone_mode=False) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"needs {absent}. Remedy: Install it with `pip install 'caveat[{extra}]'`" in told


@pytest.mark.parametrize(
    ("command", "absent", "extra"),
    [
        (("layers", "mlp.onnx", "--local"), {"onnxruntime"}, "local"),
        (("gate", "audit.yaml", "--local"), {"scipy"}, "local"),
        (("keys", "list", "--database-url", "sqlite:///x.db"), {"sqlalchemy"}, "storage"),
        (("scrub", "--database-url", "sqlite:///x.db"), {"alembic"}, "storage"),
        (("up",), {"celery"}, "all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_command_names_the_extra_that_it_lacks(
    command: tuple[str, ...],
    absent: set[str],
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from caveat.cli import cli

    write_audit(tmp_path)
    monkeypatch.chdir(tmp_path)
    real = installation.find_spec
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name in absent else real(name))
    assert cli.main(list(command), standalone_mode=False) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"pip install 'caveat[{extra}]'" in told
    assert "Traceback" not in told


def test_other_systems_are_told_where_an_audit_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation.sys, "platform", "darwin")
    with pytest.raises(ProblemError, match=r"`caveat up` needs Linux, .* WSL 2") as caught:
        installation.require_linux("`caveat up`")
    assert caught.value.exit_code == 3


POSIX_ONLY = {"resource", "fcntl", "termios", "pwd", "grp"}
AS_ON_WINDOWS = """
import asyncio, getpass, types
for name in {posix!r}:
    sys.modules.pop(name, None)
import caveat.installation
caveat.installation.sys = types.SimpleNamespace(platform='win32')
"""
"""The standard library's own modules have been imported for this system; ours come after."""


def test_the_client_imports_nothing_that_windows_lacks(tmp_path: Path, watermark: Report) -> None:  # noqa: F811
    (tmp_path / "report.json").write_text(watermark.model_dump_json())
    write_audit(tmp_path)
    windows = {"absent": POSIX_ONLY, "before": AS_ON_WINDOWS.format(posix=POSIX_ONLY)}
    decided = run(tmp_path, "gate", "--report", "report.json", "--html", "report.html", **windows)
    assert decided.returncode == 1, decided.stderr
    assert (tmp_path / "report.html").exists()
    for command in (["gate", "audit.yaml"], ["up"]):
        refused = run(tmp_path, *command, **windows)
        assert refused.returncode == 3
        assert "needs Linux" in refused.stderr
        assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_the_client_uses_nothing_that_windows_or_macos_lack(tmp_path: Path) -> None:
    """By the types of the standard library there; `caveat up` alone is refused before it is imported."""
    for platform in ("win32", "darwin"):
        command = [sys.executable, "-m", "mypy", "--platform", platform, "--cache-dir", tmp_path / platform]
        packages = ("-p", "caveat", "-p", "caveat_spec", "-p", "caveat_reports")
        done = subprocess.run([*command, *packages], cwd=ROOT, capture_output=True, text=True, check=False)
        faults = {line.partition(":")[0] for line in done.stdout.splitlines() if ": error:" in line}
        assert faults <= {"client/caveat/up.py"}, done.stdout
