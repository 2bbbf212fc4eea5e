"""The limits of a job's process, and the settings that they come from."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from caveat_spec.attribute_docs import DescribedModel


@dataclass(frozen=True)
class Limits:
    """The limits of a child process."""

    memory_bytes: int = 8 << 30
    cpu_seconds: int = 4 * 3600
    wall_seconds: int = 2 * 3600
    threads: int = 2
    gpu_bytes: int = 0
    """0 means no limit."""
    require_sandbox: bool = False
    """Whether a child that lacks a protection ends before it reads anything."""


class LimitSettings(BaseSettings, DescribedModel):
    """The settings of a single job, on a worker and in the command."""

    model_config = SettingsConfigDict(env_prefix="CAVEAT_", frozen=True, hide_input_in_errors=True)

    concurrency: int = Field(1, ge=1)
    """Number of jobs that run at the same time."""
    threads: int = Field(0, ge=0)
    """Threads per job; 0 divides the cores among `concurrency` jobs."""
    memory_bytes: int = Field(8 << 30, ge=256 << 20)
    """Most memory of a job in bytes."""
    gpu_bytes: int = Field(0, ge=0)
    """Most GPU memory of a job in bytes, if several share a GPU; 0 means all of it."""
    cpu_seconds: int = Field(4 * 3600, ge=1)
    """Most processor time of a job in seconds, over all its threads."""
    wall_seconds: int = Field(2 * 3600, ge=1)
    """Most time of a job in seconds."""
    require_sandbox: bool = False
    """Whether a worker whose kernel lacks a protection of the sandbox ends instead of serving; on in the images."""

    @property
    def limits(self) -> Limits:
        """The limits of a child process."""
        threads = self.threads or max(1, (os.cpu_count() or 1) // self.concurrency)
        return Limits(
            self.memory_bytes, self.cpu_seconds, self.wall_seconds, threads, self.gpu_bytes, self.require_sandbox
        )
