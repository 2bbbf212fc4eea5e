"""What a worker is told by its environment: every field is the variable `CAVEAT_` and its name in capitals."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from api_spec.artifacts import Queue
from api_spec.jobs import QUEUES
from vault import addresses
from worker.cache import Cache
from worker.supervisor import Limits


class Settings(BaseSettings):
    """Where a worker finds its work, and how much of the machine a job may use."""

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
    queues: str = Field(",".join(QUEUES), pattern=rf"^({'|'.join(QUEUES)})(,({'|'.join(QUEUES)}))*$")
    """Which jobs it takes: `gpu` has audits that ask for CUDA, `large` those of large models, `default` all others."""
    reroute_seconds: float = Field(600, ge=0)
    """How long a job waits in a queue that no worker serves before it goes to `default`."""
    concurrency: int = Field(1, ge=1)
    """Jobs at a time."""
    threads: int = Field(0, ge=0)
    """Threads a job; 0 shares the cores among `concurrency` jobs."""
    memory_bytes: int = Field(8 << 30, ge=256 << 20)
    """Memory that a job may allocate."""
    gpu_bytes: int = Field(0, ge=0)
    """Memory of a GPU that a job may take, where several share one; 0 for all of it."""
    cpu_seconds: int = Field(4 * 3600, ge=1)
    """Processor time that a job may take, over all its threads."""
    wall_seconds: int = Field(2 * 3600, ge=1)
    """Time that a job may take."""
    lease_seconds: float = Field(30, gt=0)
    """How long a worker may be silent before its job is given to another."""
    attempts: int = Field(3, ge=1)
    """How often a job is begun before it fails because its workers were lost."""
    backoff_seconds: float = Field(5, ge=0)
    """Pause before a job is begun again; it doubles each time."""
    reap_seconds: float = Field(2, gt=0)
    """How often a worker looks for leases that ran out and bells that were not heard."""
    grace_seconds: float = Field(40, ge=0)
    """How long a leaving worker goes on with its jobs before it gives them back; less than a minute."""
    unheard_seconds: float = Field(5, ge=0)
    """How long a job waits at an empty queue before its bell counts as lost and is rung again."""
    webhook_networks: addresses.Networks = ""
    """Networks that webhooks may reach although they are not public, also without TLS: `10.1.0.0/16, fd00::/8`."""
    webhook_attempts: int = Field(8, ge=1)
    """How often a message to a webhook is sent before it has failed."""
    webhook_backoff_seconds: float = Field(5, ge=0)
    """Pause before a message is sent again; each is four times the one before, so eight attempts take 8 hours."""
    shard_batches: int = Field(512, ge=0)
    """An audit of more batches (128 MiB of the model's numbers each) is cut into shards for all workers; 0: never."""
    child_output: bool = False
    """Whether the log takes what libraries write in a job's process; it may show what is in models and examples."""
    tenant_running: int = Field(0, ge=0)
    """Most jobs of a tenant that run at a time, over all workers, so that its flood leaves room; 0 for no limit."""
    retention_days: float = Field(0, ge=0)
    """How long what ended is kept: requests, records, reports, and bytes that nothing newer reads; 0 for ever."""
    tidy_hours: float = Field(6, ge=0)
    """How often a worker looks for what may go: what is too old, and bytes that nothing names; 0 for never."""
    unused_hours: float = Field(24, ge=1)
    """How long nothing must have named bytes before they are deleted."""
    heartbeat_file: str | None = None
    """Touched every `reap_seconds`, for a liveness probe."""
    cache_bytes: int = Field(8 << 30, ge=0)
    """How much of earlier audits is kept on disk, so that another estimator or gate needs no model; 0 for none."""
    cache_folder: Path = Path(".caveat/cache")
    """Where; several workers may share it."""

    @property
    def serves(self) -> tuple[Queue, ...]:
        """The queues that it serves."""
        return tuple(queue for queue in QUEUES if queue in self.queues.split(","))

    @property
    def limits(self) -> Limits:
        """What one child process may use."""
        threads = self.threads or max(1, (os.cpu_count() or 1) // self.concurrency)
        return Limits(self.memory_bytes, self.cpu_seconds, self.wall_seconds, threads, self.gpu_bytes)

    @property
    def pieces_url(self) -> str:
        """Where shards leave what they computed until their audit has ended, a folder for each audit."""
        return f"{self.blobs_url.rstrip('/')}/pieces"

    @property
    def cache(self) -> Cache | None:
        """What is kept of earlier audits, if anything."""
        return Cache(self.cache_folder.absolute(), self.cache_bytes) if self.cache_bytes else None


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
