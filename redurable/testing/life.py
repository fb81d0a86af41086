"""
The life of one intent in memory: attempts of the real engine, one after the other, until it has ended.

An attempt may be killed. From that moment nothing it does reaches the store; what is left of it is unwound and gone
before the next one starts, as if its process were dead.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from redurable.codecs.base import Vault
from redurable.errors import UsageError
from redurable.model import Envelope
from redurable.runtime.attempt import Attempt
from redurable.runtime.handlers import HandlerSpec
from redurable.runtime.resources import Resources
from redurable.store.inspection import decode_envelope
from redurable.tasks import background
from redurable.testing.clock import VirtualLoop
from redurable.testing.lease import Kill
from redurable.testing.memory import FINAL, MemoryIntent

__all__ = ["Life"]


class Life:
    """
    A handler and its intent.

    Attributes:
        now: The attempt that runs, or ran last.
        alive: Whether it may still be heard of.
        kind, vault: What attempts are made of.
    """

    kind: type[Attempt] = Attempt
    vault: Vault | None = None

    def __init__(
        self, spec: HandlerSpec, envelope: Envelope, intent: MemoryIntent, resources: Resources | None = None
    ) -> None:
        self.spec = spec
        self.envelope = envelope
        self.intent = intent
        self.clock = intent.clock
        self.resources = resources or Resources()
        self.now: Attempt | None = None
        self.alive = False

    @property
    def status(self) -> str:
        """The intent's state."""
        return self.intent.status

    def prepare(self, attempt: Attempt) -> None:
        """Change an attempt before it runs; for subclasses."""

    async def attempt(
        self, kill: Kill | None = None, during: Callable[[Attempt], Coroutine[Any, Any, None]] | None = None
    ) -> str:
        """Run one attempt; return how it ended, "killed" if it was cut. *during* runs beside it."""
        intent = self.intent
        intent.kill = kill
        with self.clock.worn():
            others = asyncio.all_tasks()
            lease = intent.claim()
            lease.on_cut = self.kill
            self.alive, self._lease, self._killed = True, lease, asyncio.Event()
            if intent.body is not None:
                self.envelope = decode_envelope(intent.body)
            attempt = self.now = self.kind(
                lease,  # type: ignore[arg-type]  # a lease in all but its class
                self.spec, self.envelope, self.resources, vault=self.vault,
            )  # fmt: skip
            lease.on_hint = attempt.hint
            loop = asyncio.get_running_loop()
            if isinstance(loop, VirtualLoop):
                loop.attempt = attempt
            self.prepare(attempt)
            run = background(attempt.run(), "attempt")
            killed = background(self._killed.wait(), "killed")
            beside = background(during(attempt), "beside") if during is not None else None
            if kill is not None and kill.turn is not None:
                self._count_down(kill.turn)
            await asyncio.wait([run, killed], return_when=asyncio.FIRST_COMPLETED)
            if beside is not None and not self._killed.is_set():
                await beside
            self.alive = False
            killed.cancel()
            died = self._killed.is_set() and attempt.ended not in FINAL
            await self._bury(attempt, run, others)
            if not died:
                run.result()
                return attempt.ended
            intent.lose()
            return "killed"

    async def finish(self, most: int = 60) -> str:
        """Run attempts, and let timers become due, until the intent has ended; at most *most* of both."""
        for _ in range(most):
            if self.status == "SUBMITTED":
                await self.attempt()
            elif self.status not in FINAL:
                self.intent.fire()
            else:
                return self.status
        raise UsageError(f"still {self.status} after {most} rounds: {self.intent.entries}", code="ENDLESS")

    def kill(self) -> None:
        """Cut the attempt that runs, now."""
        self.alive = False
        self._lease.die()
        self._killed.set()

    def _count_down(self, turns: int) -> None:
        if self.alive:
            if turns == 0:
                self.kill()
            else:
                asyncio.get_running_loop().call_soon(self._count_down, turns - 1, context=Context())

    async def _bury(self, attempt: Attempt, run: asyncio.Task[None], others: set[asyncio.Task[Any]]) -> None:
        """End whatever is left of an attempt: its process is dead."""
        self._lease.dead = True
        if not run.done():
            attempt.lost("FENCED")
        for round in itertools.count():
            left = {t for t in asyncio.all_tasks() - others if t is not asyncio.current_task() and not t.done()}
            if not left:
                return
            if round > 3:
                for task in left - {run} if round < 10 else left:
                    task.cancel()
            await asyncio.wait(left, timeout=0.001 * round)
            assert round < 200, left
