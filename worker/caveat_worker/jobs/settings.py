"""Settings of a worker."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field, field_validator

from caveat_spec.artifacts import Queue
from caveat_spec.jobs import QUEUES
from caveat_storage.fair_queue import Shares
from caveat_storage.keys import TENANT
from caveat_storage.settings import SharedSettings
from caveat_worker.jobs.cache import Cache
from caveat_worker.jobs.limits import LimitSettings

WEIGHT = rf"{TENANT}=\d+(\.\d+)?"
LIGHTEST, HEAVIEST = 0.001, 1000.0


class Settings(SharedSettings, LimitSettings):
    """Settings of a worker."""

    queues: str = Field(",".join(QUEUES), pattern=rf"^({'|'.join(QUEUES)})(,({'|'.join(QUEUES)}))*$")
    """Queues that it serves: `gpu` for audits that ask for CUDA, `large` for large models, `default` for all others."""
    reroute_seconds: float = Field(600, ge=0)
    """Seconds after which a job in a queue without workers moves to `default`."""
    lease_seconds: float = Field(30, gt=0)
    """Seconds of silence after which the job of a worker is given to another one."""
    attempts: int = Field(3, ge=1)
    """Number of times that a job is started before it fails because its workers were lost."""
    backoff_seconds: float = Field(5, ge=0)
    """Seconds before a job is started again; doubled each time."""
    reap_seconds: float = Field(2, gt=0)
    """Seconds between checks for expired leases and for jobs to publish."""
    grace_seconds: float = Field(40, ge=0)
    """Seconds for which a leaving worker continues its jobs before it gives them back; less than 60."""
    republish_after_seconds: float = Field(5, ge=0)
    """Seconds after which a queued job that no worker has claimed is published again."""
    webhook_attempts: int = Field(8, ge=1)
    """Number of times that a message to a webhook is sent before it has failed."""
    webhook_backoff_seconds: float = Field(5, ge=0)
    """Seconds before a message is sent again; each pause is four times the previous one, so 8 attempts take 8 hours."""
    source_seconds: float = Field(900, gt=0)
    """Most time in seconds for fetching one source that is a URL."""
    source_netrc: Path | None = None
    """File in the format of netrc (a mounted secret) with the credentials for `https://` sources, by host."""
    shard_batches: int = Field(512, ge=0)
    """Number of batches (128 MiB of activations and gradients each) above which an audit is divided; 0 means never."""
    child_output: bool = False
    """Whether to log the output of libraries in a job's process, which may reveal contents of models and examples."""
    tenant_running: int = Field(0, ge=0)
    """Most running jobs of a tenant, over all workers; 0 means no limit."""
    tenant_weights: str = Field("", pattern=rf"^({WEIGHT}(,{WEIGHT})*)?$")
    """Weights of tenants that share the slots, from 0.001 to 1000, such as `acme=3,ci=0.5`; 1 for the others."""
    gc_grace_hours: float = Field(24, ge=1)
    """Hours for which bytes must be unreferenced before they are deleted."""
    scrub_days: float = Field(30, ge=0)
    """Days within which workers verify all stored bytes again; 0 means only when they are used."""
    heartbeat_file: str | None = None
    """File that is touched every `reap_seconds`, for a liveness probe."""
    cache_bytes: int = Field(8 << 30, ge=0)
    """Bytes of the disk cache, which lets an audit reuse activations and draws of earlier ones; 0 disables it."""
    cache_folder: Path = Path(".caveat/cache")
    """Folder of the cache, which several workers can share."""
    shared_models_bytes: int = Field(4 << 30, ge=0)
    """Bytes of large models that stay on the scratch disk for later jobs of their tenant; 0: each job has a copy."""

    @field_validator("tenant_weights")
    @classmethod
    def _weights_can_be_calculated_with(cls, said: str) -> str:
        if not all(LIGHTEST <= weight <= HEAVIEST for weight in _weights(said).values()):
            raise ValueError(f"weights are from {LIGHTEST} to {HEAVIEST:.0f}")
        return said

    @property
    def serves(self) -> tuple[Queue, ...]:
        """The queues that the worker serves."""
        return tuple(queue for queue in QUEUES if queue in self.queues.split(","))

    @property
    def shares(self) -> Shares:
        """How tenants share the slots."""
        return Shares(_weights(self.tenant_weights), self.tenant_running)

    @property
    def pieces_url(self) -> str:
        """URL under which shards store their pieces until their audit has ended, a folder for each audit."""
        return f"{self.blobs_url.rstrip('/')}/pieces"

    @property
    def cache(self) -> Cache | None:
        """The cache of earlier audits, if it is enabled."""
        return Cache(self.cache_folder.absolute(), self.cache_bytes) if self.cache_bytes else None


def _weights(said: str) -> dict[str, float]:
    """Tenant → weight."""
    return {tenant: float(weight) for tenant, weight in (one.split("=") for one in said.split(",") if one)}


@cache
def settings() -> Settings:
    """The settings of this process."""
    return Settings()
