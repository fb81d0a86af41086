"""
Time that tests own: a clock of one event loop, and a loop on which waiting takes no time.

On a `VirtualLoop` time stands still while anything can run. When nothing can, it goes on to the next timer at once:
a durable sleep, the pause before a retry, an `asyncio.sleep`, a timeout. While a thread works or a socket is open,
what they wait for is outside, so there it passes as it does.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from redurable.clock import read_by
from redurable.errors import UsageError
from redurable.journal.rest import where
from redurable.runtime.attempt import Attempt
from redurable.runtime.loops import Loop, install
from redurable.runtime.scope import Body, scope_var

__all__ = ["Clock", "VirtualLoop"]

PATIENCE = 2.0  # s of real time for a thread that nobody knows of to wake a loop that waits for nothing else
_worn: dict[asyncio.AbstractEventLoop, Clock] = {}


class Clock:
    """
    A wall clock, *seconds* since 1970, and what tests have skipped.

    While it is worn, redurable's own code on that event loop, and in the threads that work for it, reads it.
    """

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._skipped = 0

    def now_ms(self) -> int:
        """Return its time in ms since 1970."""
        return round(self._seconds() * 1000) + self._skipped

    def reach(self, ms: int) -> None:
        """Go on to *ms*, if it is ahead."""
        self._skipped += max(0, ms - self.now_ms())

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Be the clock of the running loop."""
        loop = asyncio.get_running_loop()
        before = _worn.get(loop)
        _worn[loop] = self
        read_by(_read)  # stays: where no clock is worn it reads the real one
        try:
            yield
        finally:
            del _worn[loop]
            if before is not None:
                _worn[loop] = before


def _read() -> int:
    loop: asyncio.AbstractEventLoop | None
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        scope = scope_var.get()
        loop = None if scope is None else scope.attempt.loop
    clock = None if loop is None else _worn.get(loop)
    return time.time_ns() // 1_000_000 if clock is None else clock.now_ms()


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        if self.loop.waits_outside() or len(self.get_map()) > 1:  # the one is the loop's own
            begun = time.monotonic()
            found = super().select(timeout)
            self.loop.go_on(time.monotonic() - begun)
            return found
        found = super().select(0 if timeout is not None else PATIENCE)
        if found:
            return found
        if timeout is None:
            raise self.loop.stuck()
        self.loop.go_on(timeout)
        return found


class VirtualLoop(Loop):
    """
    An event loop on which waiting takes no time.

    Attributes:
        attempt: The attempt that runs on it, whose threads may be at rest.
    """

    def __init__(self) -> None:
        self._now = 1.0
        self._jobs = 0
        self.attempt: Attempt | None = None
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)
        install(self)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def go_on(self, seconds: float) -> None:
        """Let *seconds* pass."""
        self._now += seconds

    def run_in_executor(  # type: ignore[override]  # the same, without typeshed's variadic tie of func and args
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """As asyncio's, counted until it is over."""
        future = super().run_in_executor(executor, func, *args)
        self._jobs += 1
        future.add_done_callback(self._job_done, context=Context())
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As asyncio's, in real time."""
        self._jobs += 1
        await super().shutdown_default_executor()
        self._jobs -= 1

    def _job_done(self, _: Any) -> None:
        self._jobs -= 1

    def stuck(self) -> UsageError:
        """Return the error of a loop that nothing can wake any more."""
        scopes = self.attempt.conductor.scopes if self.attempt is not None else ()
        places = ", ".join(sorted({where(s.task) for s in scopes if s.task is not None})) or "a place unknown"
        return UsageError(
            f"the handler waits for something that never comes, at {places}",
            code="STUCK",
            hint="stub the step that waits, or let something in the test end the wait",
        )

    def waits_outside(self) -> bool:
        """Whether a thread or a process works, rather than waits in a durable call."""
        if not self._jobs:
            return False
        if self.attempt is None:
            return True
        conductor = self.attempt.conductor
        threads = [s for s in conductor.scopes if s.thread is not None or s.task is None]
        jobs = [s for s in threads if s is conductor.main or isinstance(s, Body)]  # others: of sync.gather
        asked = any(c.future is not None and not c.future.done() for c in conductor.cursor.calls)
        return len(jobs) != self._jobs or not asked or not all(s.waiting for s in threads)
