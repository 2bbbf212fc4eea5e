"""Settings of the service."""

from __future__ import annotations

import os
from typing import Literal, Self

from pydantic import Field, model_validator

from caveat_storage.settings import SharedSettings

INSECURE = "OAUTHLIB_INSECURE_TRANSPORT"
"""oauthlib's own switch for issuers without TLS, which are for tests."""
RATE = r"\d+/\d*(second|minute|hour|day)"


class Settings(SharedSettings):
    """Settings of the service."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on."""
    processes: int = Field(1, ge=1)
    """Number of server processes."""
    request_threads: int = Field(16, ge=1)
    """Threads in each of `processes`; long requests use at most three quarters, and one client half of those."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Port of `/metrics` for Prometheus; 0 disables it."""
    auth: Literal["off", "keys"] = "off"
    """`keys`: requests need a bearer key, which names the tenant; `off`: everyone who can connect has full access."""
    large_model_bytes: int = Field(0, ge=0)
    """Size in bytes above which models go to the queue `large`; 0: all go to `default`."""
    tenant_waiting: int = Field(0, ge=0)
    """Most queued jobs of a tenant; 0 means no limit."""
    rate_limit: str = Field("", pattern=rf"^({RATE}(;{RATE})*)?$")
    """Request limit per tenant (without keys, per address), such as `600/minute` or `20/second;5000/hour`."""
    rate_limit_url: str | None = None
    """URL of the Redis or Valkey that counts requests; by default the broker."""
    auth_failure_limit: str = Field("30/minute", pattern=rf"^({RATE}(;{RATE})*)?$")
    """Failed authentications per address that are answered with 401, then with 429; valid keys are always accepted."""
    console_secret: str | None = Field(None, repr=False, min_length=32)
    """With `keys`, random text that signs the console's sessions, the same in every process; without it no console."""
    console_url: str | None = Field(None, pattern="^https?://[^/?#@]+/?$")
    """URL of the console in browsers, such as `https://caveat.example`; required with `CAVEAT_OIDC_CLIENT_ID`."""
    oidc_issuer: str | None = Field(None, pattern="^https?://")
    """With `keys`, OpenID Connect issuer whose tokens (JWT) are accepted as well."""
    oidc_audience: str | None = None
    """Audience that tokens must have; required with an issuer."""
    oidc_client_id: str | None = Field(None, min_length=1)
    """Client as which the console is registered at the issuer, so that people sign in there; without it by keys."""
    oidc_client_secret: str | None = Field(None, repr=False, min_length=1)
    """Secret of that client; without it the console is a public client, which PKCE protects."""
    oidc_sign_in_scope: str = Field("openid caveat:read", pattern=r"^(.* )?openid( .*)?$")
    """Scopes that a sign-in asks for: `openid`, and what makes the issuer name tenant and scopes."""
    oidc_jwks_url: str | None = Field(None, pattern="^https?://")
    """URL of the issuer's keys; by default found by discovery."""
    oidc_tenant_claim: str = "tenant"
    """Claim that names the tenant."""
    oidc_scope_claim: str = "scope"
    """Claim with the scopes: words separated by spaces, or a list."""
    oidc_scope_prefix: str = "caveat:"
    """Prefix of `submit`, `read` and `admin` in that claim."""
    oidc_cooldown_seconds: float = Field(30, ge=0)
    """Seconds before the issuer's keys are fetched again for a token whose key is unknown."""
    retention_days: float = Field(0, ge=0)
    """Days after which ended jobs, their reports, and bytes that no newer job reads are deleted; 0 means never."""
    signing_key: str | None = Field(None, repr=False)
    """Keys that sign attestations: ed25519 keys as PEM, or the file or folder (a mounted secret) that contains them."""
    upload_hours: float = Field(24, gt=0)
    """Hours for which an interrupted upload can be resumed before its parts are deleted."""
    longest_wait: int = Field(30, ge=0)
    """Longest wait in seconds that `Prefer: wait` can request."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def counted_at(self) -> str:
        """URL of the store that counts requests, in the spelling of the `limits` library."""
        return (self.rate_limit_url or self.broker_url).replace("redis+socket://", "redis+unix://", 1)

    @model_validator(mode="after")
    def _an_issuer_is_complete(self) -> Self:
        if self.oidc_issuer and self.auth == "off":
            raise ValueError("CAVEAT_OIDC_ISSUER has no effect while CAVEAT_AUTH is off; set CAVEAT_AUTH=keys")
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("CAVEAT_OIDC_ISSUER requires CAVEAT_OIDC_AUDIENCE, or tokens for others would be accepted")
        return self

    @model_validator(mode="after")
    def _a_sign_in_is_complete(self) -> Self:
        if self.oidc_client_id is None:
            return self
        for name in ("oidc_issuer", "console_url", "console_secret"):
            if getattr(self, name) is None:
                raise ValueError(f"CAVEAT_OIDC_CLIENT_ID requires CAVEAT_{name.upper()}")
        plain = [url for url in (self.oidc_issuer, self.console_url) if not str(url).startswith("https://")]
        if plain and not os.environ.get(INSECURE):
            raise ValueError(f"nobody signs in over {plain[0]}, which has no TLS; to try that out, set {INSECURE}=1")
        return self
