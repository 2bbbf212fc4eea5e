"""The keys of an issuer of tokens, fetched outside of requests, so an issuer that is silent holds no request up.

Keys that were fetched once stay valid while the issuer is away. For a token with an unknown key they are fetched again
after a pause, and a few requests wait a moment for that, so that a new key works at once; the others are told to retry.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from jwt import PyJWK

log = logging.getLogger(__name__)

FRESH_SECONDS = 300.0
"""Age at which keys are fetched again, so that a withdrawn one is no longer accepted."""
PAUSE_SECONDS = 5.0
"""Longest pause after the issuer did not provide its keys."""
WAIT_SECONDS = 2.0
"""How long a request waits for the keys."""
MOST_WAITING = 2
"""How many requests wait for the keys at the same time."""

Keys = Mapping[str, PyJWK]


class IssuerAwayError(Exception):
    """The issuer does not provide its keys, so tokens cannot be verified."""


class IssuerKeys:
    """The keys of one issuer by their ids; `fetch` returns the current ones."""

    def __init__(self, fetch: Callable[[], Keys], cooldown: float) -> None:
        """Fetches on the first request, which is after the server has forked."""
        self._fetch, self._cooldown = fetch, cooldown
        self._keys: Keys = {}
        self._changed = threading.Condition()
        self._fetching, self._away, self._waiting = False, True, 0
        self._fresh_until = self._not_before = 0.0

    def get(self, key_id: str, *, wait: bool = True) -> PyJWK | None:
        """The key with this id; None if the issuer has no such key. With `wait`, it is waited for a moment.

        Raises:
            IssuerAwayError: the issuer does not provide its keys, or not yet.
        """
        with self._changed:
            if key_id not in self._keys or time.monotonic() > self._fresh_until:
                self._begin()
            if wait and key_id not in self._keys and self._fetching and self._waiting < MOST_WAITING:
                self._waiting += 1
                self._changed.wait_for(lambda: not self._fetching, WAIT_SECONDS)
                self._waiting -= 1
            found = self._keys.get(key_id)
            if found is None and (self._fetching or self._away):
                raise IssuerAwayError
            return found

    def _begin(self) -> None:
        """Starts to fetch the keys, unless that was done a moment ago."""
        if not self._fetching and time.monotonic() >= self._not_before:
            self._fetching = True
            threading.Thread(target=self._refresh, daemon=True, name="issuer-keys").start()

    def _refresh(self) -> None:
        keys: Keys | None = None
        try:
            keys = self._fetch()
        except Exception as fault:  # whatever an issuer sends, its keys are asked for again
            log.warning("the issuer of tokens does not provide its keys: %s", type(fault).__name__)
        with self._changed:
            self._fetching, self._away = False, keys is None
            moment = time.monotonic()
            if keys is None:
                self._not_before = moment + min(self._cooldown, PAUSE_SECONDS)
            else:
                self._keys, self._fresh_until = keys, moment + FRESH_SECONDS
                self._not_before = moment + self._cooldown
            self._changed.notify_all()
