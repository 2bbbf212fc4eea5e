"""Sources that are URLs: fetched from a real HTTP server and a real S3 server, and compared with their digest."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest

from caveat import remote_sources
from caveat.auditfile import fetched, read_audit, resolve
from caveat.gate import gate_audit
from caveat.problems import ProblemError
from caveat.remote_sources import SourceFault, fetch
from tests.serving import Answer, Asked, serving
from tests.storage.conftest import s3 as s3_server  # noqa: F401  # a fixture

CONTENT = b"x" * 3_000_000
DIGEST = sha256(CONTENT).hexdigest()


@pytest.fixture
def url() -> Iterator[str]:
    def answer(asked: Asked) -> Answer:
        return Answer(body=CONTENT) if asked.path == "/models/a.onnx" else Answer(404)

    with serving(answer) as port:
        yield f"http://127.0.0.1:{port}/models/a.onnx"


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    settings = {
        "ENDPOINT_URL": s3_server,
        "ACCESS_KEY_ID": "x",
        "SECRET_ACCESS_KEY": "x",
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3").makedirs("models", exist_ok=True)
    fsspec.filesystem("s3").pipe("models/a.onnx", CONTENT)
    return "s3://models/a.onnx"


def test_a_web_page_is_fetched_by_its_digest(url: str, tmp_path: Path) -> None:
    assert fetch(f"{url}#sha256={DIGEST}", tmp_path / "here").read_bytes() == CONTENT


@pytest.mark.parametrize("end", ["", f"#sha256={DIGEST}"])
def test_an_object_is_fetched_with_and_without_a_digest(bucket: str, end: str, tmp_path: Path) -> None:
    path = fetch(bucket + end, tmp_path / "here")
    assert (path.name, path.read_bytes()) == ("a.onnx", CONTENT)


def hub(asked: Asked) -> Answer:
    """The answers of a Hugging Face Hub with one repository that holds one file."""
    if "/acme/loans" not in asked.path:
        return Answer(404, body=b"{}")
    if "/resolve/" in asked.path:
        first, last = asked.headers.get("range", f"bytes=0-{len(CONTENT) - 1}").removeprefix("bytes=").split("-")
        part = CONTENT[int(first) : int(last) + 1]
        return Answer(206, {"Content-Range": f"bytes {first}-{last}/{len(CONTENT)}"}, part)
    listed = {"type": "file", "path": "a.onnx", "size": len(CONTENT), "oid": "0" * 40}
    is_list = "/tree/" in asked.path or "/paths-info/" in asked.path
    return Answer(body=json.dumps([listed] if is_list else {"id": "acme/loans", "sha": "0" * 40}).encode())


FETCHING = """
import sys
from pathlib import Path
from caveat.remote_sources import SourceFault, fetch
try:
    print(fetch(sys.argv[1], Path(sys.argv[2])))
except SourceFault as fault:
    sys.exit(str(fault))
"""


def in_a_process(source: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Fetches in a process of its own: where a hub or a tracking server is, is asked once."""
    return subprocess.run(
        [sys.executable, "-c", FETCHING, source, str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_file_of_a_hub_is_fetched_from_the_endpoint_that_is_set(tmp_path: Path) -> None:
    with serving(hub) as port:
        endpoint = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_DISABLE_TELEMETRY": "1"}
        found = in_a_process(f"hf://acme/loans/a.onnx#sha256={DIGEST}", tmp_path / "here", **endpoint)
        assert found.returncode == 0, found.stderr
        assert Path(found.stdout.strip()).read_bytes() == CONTENT
        missing = in_a_process("hf://acme/nothing/a.onnx", tmp_path / "there", **endpoint)
    assert "'hf://acme/nothing/a.onnx' cannot be fetched (" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_other_bytes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=f"has other bytes now: they are sha256:{DIGEST}"):
        fetch(f"{url}#sha256={'0' * 64}", tmp_path / "here")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{url}", "needs the digest of its bytes: add '#sha256=' and 64 hexadecimal digits"),
        ("{url}.data#sha256=" + DIGEST, "cannot be fetched"),
        ("http://127.0.0.1:1/a#sha256=" + DIGEST, "cannot be fetched"),
        ("ftp://127.0.0.1/a", "is no URL that can be fetched: https://, http://, s3://, gs://, hf://"),
        ("{url}#sha256=12", "is no URL that can be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_a_sentence(source: str, words: str, url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=words):
        fetch(source.format(url=url), tmp_path / "here")


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(remote_sources, "find_spec", lambda name: None if name == "gcsfs" else found(name))
    with pytest.raises(SourceFault, match=r"needs the package gcsfs: run `pip install 'caveat\[gs\]'`"):
        fetch("gs://models/a.onnx", tmp_path / "here")


def test_an_audit_file_may_name_urls(url: str, tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(
        f"model: {url}#sha256={DIGEST}\n"
        f"examples: {{people: {{table: '{url}', features: [age]}}}}\n"
        "groups: {by_sex: {examples: people, sensitive: [sex], decision: hired}}\n"
    )
    with pytest.raises(ProblemError) as caught:
        fetched(read_audit(path), tmp_path)
    [fault] = caught.value.problem.errors
    assert fault.pointer == "/examples/people/table"
    assert "needs the digest of its bytes" in fault.detail
    path.write_text(path.read_text().replace(f"'{url}'", f"'{url}#sha256={DIGEST}'"))
    there = tmp_path / "there"
    there.mkdir()
    resolved = resolve(fetched(read_audit(path), there))
    assert set(resolved.blobs) == {f"sha256:{DIGEST}"}


def test_urls_stay_where_the_service_is_to_fetch_them(url: str, tmp_path: Path) -> None:
    """`--remote-fetch` sends them; without a service the option says what it needs."""
    audit = {
        "model": f"{url}#sha256={DIGEST}",
        "examples": {"people": {"table": "people.csv"}},
        "groups": {"everybody": {"examples": "people", "sensitive": ["s"], "decision": "d"}},
    }
    (tmp_path / "people.csv").write_text("s,d\n0,1\n")
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    resolved = resolve(read_audit(tmp_path / "audit.json"))
    assert resolved.audit.model == audit["model"]
    assert list(resolved.blobs) == [resolved.audit.sources()["/examples/people/table"]]
    with pytest.raises(ProblemError, match="`--remote-fetch` needs a service, which fetches the audit's URLs"):
        gate_audit(tmp_path / "audit.json", None, None, baseline=None, sign_key=None, attested=False, remote_fetch=True)
