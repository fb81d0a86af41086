"""
One intent, run by real attempts on a lease in memory: no server, and every way to lose an attempt at a chosen moment.

What plays the store is `redurable.testing`'s. Calls and answers take a few turns of the loop, drawn from a seed, so
they overlap with the handler's work as they do in life; a clock that is skipped ahead spares the wait for timers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from redurable import Retry
from redurable.model import Envelope, ErrorInfo, Status
from redurable.runtime.attempt import Attempt
from redurable.runtime.handlers import handler, spec_of
from redurable.runtime.loops import new_event_loop
from redurable.testing.clock import Clock, VirtualLoop
from redurable.testing.lease import Kill
from redurable.testing.life import Life
from redurable.testing.memory import MemoryIntent

__all__ = ["LOOPS", "Bench", "Kill", "drive"]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": lambda: new_event_loop(False),
    "uvloop": lambda: new_event_loop(True),
    "virtual": VirtualLoop,
}
AT_ONCE = Retry(attempts=20, first=0, jitter=False)


class Bench(Life):
    """
    A handler and its intent.

    Args:
        function: The handler; *options* are those of `@handler`, attempts follow each other at once.
        payload: What is sent to it.
        seed: For the time that calls take, *slowness* turns of the loop at most, and their answers.
        quiet_turns: Given to each attempt's conductor, if not None.

    Attributes:
        ran: What bodies said by `log`. seen: What the handler said by `see`, a list an attempt.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        payload: Any = None,
        *,
        seed: int = 0,
        slowness: int = 3,
        quiet_turns: int | None = None,
        **options: Any,
    ) -> None:
        handler(queue="q", **{"retry": AT_ONCE, **options})(function)
        chance = random.Random(seed)
        intent = MemoryIntent(_clock(), pace=lambda: (chance.randint(1, slowness), chance.randint(0, slowness)))
        envelope = Envelope(type="", payload=msgspec.Raw(msgspec.msgpack.encode(payload)))
        super().__init__(spec_of(function), envelope, intent)
        self.ran: list[Any] = []
        self.seen: list[list[Any]] = []
        self.quiet_turns = quiet_turns

    def prepare(self, attempt: Attempt) -> None:
        self.seen.append([])
        if self.quiet_turns is not None:
            attempt.conductor.quiet_turns = self.quiet_turns

    # --- what handlers and bodies use

    def log(self, what: Any) -> None:
        """A body ran; forgotten if its attempt is dead."""
        if self.alive:
            self.ran.append(what)

    def see(self, what: Any) -> None:
        """The handler saw something; forgotten if its attempt is dead."""
        if self.alive:
            self.seen[-1].append(what)

    # --- what tests use

    @property
    def result(self) -> Any:
        """The result of the completed intent."""
        outcome = self.intent.outcome
        assert outcome is not None, self.status
        assert outcome.status is Status.COMPLETED, (outcome.status, outcome.error)
        return msgspec.msgpack.decode(outcome.result)

    @property
    def error(self) -> ErrorInfo:
        """The error of the intent that ended without a result."""
        assert self.intent.outcome is not None, self.status
        assert self.intent.outcome.error is not None, self.intent.outcome
        return self.intent.outcome.error

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the journal's entries of one kind."""
        return [entry for entry in self.intent.entries if isinstance(entry, kind)]

    def reopen(self) -> None:
        """Take the settle back: what a worker leaves that dies before it."""
        self.intent.reopen()


def _clock() -> Clock:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return Clock()
    return Clock(loop.time) if isinstance(loop, VirtualLoop) else Clock()


def drive(main: Callable[[], Awaitable[Any]], *, loop: str) -> Any:
    """Run *main()* on a loop of `LOOPS`."""

    async def body() -> Any:
        return await main()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(body())
