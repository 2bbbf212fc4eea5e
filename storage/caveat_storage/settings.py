"""The settings that the service and the workers share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from caveat_spec.attribute_docs import DescribedModel
from caveat_storage import source_allow_list, ssrf


class SharedSettings(BaseSettings, DescribedModel):
    """Settings read from the environment: each field is the variable `CAVEAT_` followed by its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CAVEAT_", frozen=True, hide_input_in_errors=True)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest severity that is logged."""
    database_url: str = "sqlite:///.caveat/caveat.db"
    """SQLAlchemy URL of the database, SQLite or PostgreSQL (`postgresql+psycopg://...`)."""
    blobs_url: str = ".caveat/blobs"
    """Folder or fsspec URL of the blob store (`s3://...`, `gs://...`)."""
    broker_url: str = "redis://127.0.0.1:6379/0"
    """URL of the broker, Redis or Valkey; a Unix socket is `redis+socket:///path`."""
    gc_interval_hours: float = Field(6, ge=0)
    """Hours between deletions of expired data (API) and of unreferenced bytes (workers); 0 disables both."""
    webhook_networks: ssrf.Networks = ""
    """Networks that webhooks may reach although they are not public, also without TLS: `10.1.0.0/16, fd00::/8`."""
    tenant_bytes: int = Field(0, ge=0)
    """Most bytes that a tenant may store; 0 means no limit."""
    largest_blob: int = Field(4 << 30, ge=1)
    """Most bytes of one blob."""
    source_allow: source_allow_list.AllowList = ""
    """Prefixes of URLs that workers fetch sources from: `https://models.example/, s3://bucket/`; empty for none."""
    source_networks: ssrf.Networks = ""
    """Networks that sources may be fetched from although they are not public, also without TLS: `10.1.0.0/16`."""
