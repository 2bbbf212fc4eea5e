"""The console of a running service in a real browser: its policy refuses nothing of its own, with or without script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx2
import pytest

from tests.needed import program
from tests.reports.test_browser import QUIET
from tests.service.issuer import CLIENT, SECRET, issuing
from tests.worker.live import MODEL, TABLE, audit, digest, serving, unused_port

pytestmark = pytest.mark.slow


def dumped(url: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The document at a URL once it is loaded, and what the browser complained about."""

    chromium = program("chromium", "chromium-browser", "google-chrome")
    done = subprocess.run(
        [chromium, *QUIET, f"--user-data-dir={profile}", *flags, "--dump-dom", url],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_every_page_of_a_running_service_is_shown_without_complaint(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        for data in (MODEL, TABLE):
            httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data).raise_for_status()
        job = httpx2.post(f"{url}/v1/audits", json=audit() | {"about": {"title": "The loans"}}).json()["id"]
        for path in ("/", f"/audits/{job}", f"/audits/{job}/history", "/models", "/examples", "/studies", "/access"):
            document, complaints = dumped(url + path, tmp_path / "profile")
            assert complaints == [], path
            assert "<h1" in document, path
        assert "The loans" in httpx2.get(f"{url}/").text, "no script is needed to see what is there"


def test_a_page_looks_again_while_an_audit_runs(tmp_path: Path) -> None:
    """The audit is cancelled while the page is open: the page says so without being opened again."""
    with serving(tmp_path) as (url, _):
        for data in (MODEL, TABLE):
            httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data).raise_for_status()
        job = httpx2.post(f"{url}/v1/audits", json=audit()).json()["id"]
        before = httpx2.get(f"{url}/audits/{job}").text
        around = tmp_path / "around.html"
        around.write_text(before.replace("location.href", f"'{url}/audits/{job}'"))
        httpx2.post(f"{url}/v1/audits/{job}:cancel").raise_for_status()
        flags = ("--virtual-time-budget=8000", "--disable-web-security")
        document, _ = dumped(around.as_uri(), tmp_path / "profile", *flags)
        assert '<main id="main" tabindex="-1" data-live>' in before
        assert "The audit was cancelled" in document
        assert '<main id="main" tabindex="-1">' in document


def test_a_browser_signs_in_with_the_issuer(tmp_path: Path) -> None:
    """Two sites, so that the cookie's rules apply: the issuer at 127.0.0.1, the console at localhost."""
    port = unused_port()
    with issuing() as issuer:
        settings = {
            "CAVEAT_PORT": str(port), "CAVEAT_AUTH": "keys", "CAVEAT_CONSOLE_SECRET": "x" * 32,
            "CAVEAT_CONSOLE_URL": f"http://localhost:{port}", "CAVEAT_OIDC_ISSUER": issuer.url,
            "CAVEAT_OIDC_AUDIENCE": "https://api.example", "CAVEAT_OIDC_CLIENT_ID": CLIENT,
            "CAVEAT_OIDC_CLIENT_SECRET": SECRET, "OAUTHLIB_INSECURE_TRANSPORT": "1",
        }  # fmt: skip
        with serving(tmp_path, **settings):
            console, profile = f"http://localhost:{port}", tmp_path / "profile"
            asked, complaints = dumped(f"{console}/models", profile)
            assert ("Continue with" in asked, complaints) == (True, [])
            issuer.claims = {"nonce": "of another sign-in"}
            refused, _ = dumped(f"{console}/sign-in/oidc", profile)
            assert "not valid for this sign-in" in refused
            issuer.claims = {}
            shown, complaints = dumped(f"{console}/sign-in/oidc", profile)
            assert ("<h1>Audits</h1>" in shown, complaints) == (True, [])
            assert "<span>ours</span>" in shown
            later, _ = dumped(f"{console}/audits/{'0' * 26}", profile)
            assert "There is no such audit" in later, "the session lasts, and what is another tenant's is not found"
