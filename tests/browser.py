"""Chromium as a person with a keyboard uses it: the DevTools protocol over two pipes, without a further library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.needed import program

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
PLACED = """
import fcntl, os, sys
its_in, its_out = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3])
os.dup2(its_in, 3)
os.dup2(its_out, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipes where the browser looks for them, which `exec` keeps open."""
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowLeft": 37}


class Browser:
    """One page of a browser."""

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of = os.fdopen(to, "wb", 0), os.fdopen(of, "rb")
        self._number, self._session = 0, ""
        self.events: list[dict[str, Any]] = []
        try:
            self._attach()
        except BaseException:
            self._shut()
            raise

    def _attach(self) -> None:
        page = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command; events that come before it are kept."""
        self._number += 1
        said = {"id": self._number, "method": method, "params": parameters}
        self._to.write(json.dumps(said | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while (heard := self._heard()).get("id") != self._number:
            self.events.append(heard)
        assert "error" not in heard, heard
        found: dict[str, Any] = heard["result"]
        return found

    def wait_for(self, event: str) -> None:
        """Waits for an event, or takes the first that came already."""
        for at, one in enumerate(self.events):
            if one["method"] == event:
                del self.events[at]
                return
        while (heard := self._heard()).get("method") != event:
            self.events.append(heard)

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        """Loads a page in a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.events = [one for one in self.events if one["method"] != "Page.loadEventFired"]
        self.ask("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; the page's own policy does not bind it."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
        found = self.ask("Runtime.evaluate", **asked)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key and lets it go."""
        named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"Enter": "\r", " ": " "}.get(key)
        self.ask("Input.dispatchKeyEvent", type="keyDown", **named, **({"text": text} if text else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", **named)

    @property
    def complaints(self) -> list[str]:
        """What the browser wrote to its console."""
        self.run("0")
        entries = [one["params"]["entry"] for one in self.events if one["method"] == "Log.entryAdded"]
        return [f"{one['level']}: {one['text']} {one.get('url', '')}" for one in entries]

    def close(self) -> None:
        """Ends the browser."""
        with suppress(OSError, AssertionError, KeyError):
            self._session = ""
            self.ask("Browser.close")
        self._shut()

    def _shut(self) -> None:
        for pipe in (self._to, self._of):
            with suppress(OSError):
                pipe.close()

    def _heard(self) -> dict[str, Any]:
        said = bytearray()
        while (byte := self._of.read(1)) != b"\0":
            if not byte:
                raise ConnectionError("the browser went away")
            said += byte
        heard: dict[str, Any] = json.loads(said)
        return heard


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own."""
    chromium = program("chromium", "chromium-browser", "google-chrome")
    its_in, to = os.pipe()
    of, its_out = os.pipe()
    command = [chromium, *FLAGS, f"--user-data-dir={profile}"]
    running = subprocess.Popen(
        [sys.executable, "-c", PLACED, str(its_in), str(its_out), *command],
        pass_fds=(its_in, its_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_in)
    os.close(its_out)
    page = None
    try:
        page = Browser(to, of)
        yield page
    finally:
        if page is not None:
            page.close()
        running.terminate()
        running.wait(20)
