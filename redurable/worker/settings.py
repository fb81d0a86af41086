"""How a worker process behaves, and what it is called."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass, field

from redurable.codecs.base import Vault

__all__ = ["Settings", "new_worker_id"]


def new_worker_id() -> str:
    """Return a name for this process, at most 40 characters: host, pid, chance."""
    return f"{socket.gethostname().split('.')[0][:16]}.{os.getpid()}.{secrets.token_hex(3)}"


@dataclass(frozen=True, slots=True)
class Settings:
    """
    How a worker behaves; durations in seconds.

    concurrency: intents at a time. lease: ownership without renewal, alike for all workers. grace: what steps in flight
    get at a drain. stall: after how long without a turn of the loop the process gives itself up. vault: the payload
    codecs. version: the deployment version ("" = none).
    """

    concurrency: int = 100
    lease: float = 10.0
    grace: float = 30.0
    stall: float = 300.0
    batch: int = 25
    worker_id: str = field(default_factory=new_worker_id)
    vault: Vault | None = None
    version: str = ""

    @property
    def term(self) -> float:
        """For how many seconds after a renewal bodies may begin: others take over after two leases, see `overdue`."""
        return 1.5 * self.lease
