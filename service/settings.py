"""What the service is told by its environment: every field is the variable `CAVEAT_` and its name in capitals."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from vault import addresses

RATE = r"\d+/\d*(second|minute|hour|day)"


class Settings(BaseSettings):
    """Where the service keeps things, and how much it takes."""

    model_config = SettingsConfigDict(
        env_prefix="CAVEAT_", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged: this, and what is worse."""
    database_url: str = "sqlite:///.caveat/caveat.db"
    """SQLAlchemy's URL of SQLite or PostgreSQL (`postgresql+psycopg://...`)."""
    blobs_url: str = ".caveat/blobs"
    """A folder, or fsspec's URL of a bucket (`s3://...`, `gs://...`)."""
    broker_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey; a Unix socket is `redis+socket:///path`."""
    host: str = "127.0.0.1"
    """The address to listen at."""
    port: int = Field(8000, ge=0, le=65535)
    """The port to listen at."""
    processes: int = Field(1, ge=1)
    """Processes that serve requests."""
    request_threads: int = Field(16, ge=1)
    """Requests at a time in each of `processes`; uploads, streams and `Prefer: wait` take three quarters at most."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Where `/metrics` is, for Prometheus; 0 for nowhere."""
    auth: Literal["off", "keys"] = "off"
    """`keys`: every request needs a bearer key, which names its tenant; `off`: whoever reaches the port may do all."""
    large_model: int = Field(0, ge=0)
    """Most bytes of a model that any worker takes; larger ones go to the queue `large`. 0: all go to `default`."""
    tenant_bytes: int = Field(0, ge=0)
    """Most bytes that a tenant may have put in; 0 for no limit."""
    tenant_waiting: int = Field(0, ge=0)
    """Most jobs of a tenant that may wait for a worker; 0 for no limit."""
    rate_limit: str = Field("", pattern=rf"^({RATE}(;{RATE})*)?$")
    """Most requests of a tenant (of an address, without keys), such as `600/minute` or `20/second;5000/hour`."""
    rate_limit_url: str | None = None
    """The Redis or Valkey that counts requests; the broker where left out."""
    wrong_keys_limit: str = Field("30/minute", pattern=rf"^({RATE}(;{RATE})*)?$")
    """Most wrong keys or tokens of an address that are told so; valid ones from it are served all the same."""
    oidc_issuer: str | None = Field(None, pattern="^https?://")
    """With `keys`, also takes the tokens (JWT) that this OpenID Connect issuer signs."""
    oidc_audience: str | None = None
    """What a token must say that it is for; needed with an issuer."""
    oidc_jwks_url: str | None = Field(None, pattern="^https?://")
    """Where the issuer's keys are; found by discovery where left out."""
    oidc_tenant_claim: str = "tenant"
    """The claim that names the tenant."""
    oidc_scope_claim: str = "scope"
    """The claim that has the scopes: words in a text, or a list."""
    oidc_scope_prefix: str = "caveat:"
    """What stands before `submit`, `read` and `admin` in that claim."""
    oidc_cooldown_seconds: float = Field(30, ge=0)
    """How long not to ask again for keys because a token names one that the issuer did not have."""
    signing_key: str | None = Field(None, repr=False)
    """What signs attestations: ed25519 keys as PEM, or the file or folder (a mounted secret) that holds them."""
    largest_blob: int = Field(4 << 30, ge=1)
    """Most bytes in one upload."""
    upload_hours: float = Field(24, gt=0)
    """How long an upload that broke off can be resumed, before what arrived of it is dropped."""
    webhook_networks: addresses.Networks = ""
    """Networks that webhooks may reach although they are not public, also without TLS: `10.1.0.0/16, fd00::/8`."""
    longest_wait: int = Field(30, ge=0)
    """Most seconds that `Prefer: wait` may ask for."""

    @property
    def is_local(self) -> bool:
        """Whether nobody but this machine can reach the service."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def counted_at(self) -> str:
        """Where requests are counted, as the library that counts spells it."""
        return (self.rate_limit_url or self.broker_url).replace("redis+socket://", "redis+unix://", 1)

    @model_validator(mode="after")
    def _an_issuer_is_complete(self) -> Self:
        if self.oidc_issuer and self.auth == "off":
            raise ValueError("CAVEAT_OIDC_ISSUER means nothing while CAVEAT_AUTH is off; set that to keys")
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("CAVEAT_OIDC_ISSUER needs CAVEAT_OIDC_AUDIENCE, or tokens for others would be taken too")
        return self
