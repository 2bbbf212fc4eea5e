"""What the service is told by its environment: every field is the variable `CAVEAT_` and its name in capitals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from vault import addresses


class Settings(BaseSettings):
    """Where the service keeps things, and how much it takes."""

    model_config = SettingsConfigDict(env_prefix="CAVEAT_", frozen=True, use_attribute_docstrings=True)

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
    """Requests at a time in each of `processes`; a stream of events takes one for as long as it lasts."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Where `/metrics` is, for Prometheus; 0 for nowhere."""
    auth: Literal["off", "keys"] = "off"
    """`keys`: every request needs a bearer key, which names its tenant; `off`: whoever reaches the port may do all."""
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
