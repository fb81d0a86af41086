"""
Scopes: one task (or thread) of a handler each, named by the program and not by timing.

A child's name is (parent, the coroutine's qualified name, n-th of that name under that parent). A scope knows which
step's body it is in; what is called there is journaled inside that step. The current scope is a context variable, so
durable calls work at any depth of any framework's call stack.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from redurable.clock import monotonic
from redurable.errors import UsageError
from redurable.journal.cursor import INSIDE, inside_of
from redurable.journal.rest import DURABLE, FOREIGN, is_blocked, kind_of_wait

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["Body", "Scope", "current_scope", "in_worker", "scope_var"]

_MANY = 64  # timers, from which on the cancelled ones among them are forgotten
scope_var: ContextVar[Scope | None] = ContextVar("redurable_scope", default=None)

# set once in a worker process: there, a durable call without a scope has lost its intent
in_worker = False


class Scope:
    """
    One branch of a handler.

    Attributes:
        path: "" for the main scope; a path with `>` lies inside a step.
        durable: Whether it ever made a durable call; a scope that did not is foreign.
        step: (name, n) of the step whose body it runs now.
        thread: The thread that may make synchronous durable calls for it.
    """

    __slots__ = (
        "_children", "attempt", "counts", "durable", "path", "step", "task", "thread", "timers",
        "waiting",
    )  # fmt: skip

    def __init__(self, attempt: Attempt, path: str) -> None:
        self.attempt = attempt
        self.path = path
        self.task: asyncio.Task[Any] | None = None
        self.thread: int | None = None
        self.waiting = False  # a thread scope: is it blocked in a durable call?
        self.durable = False
        self.step: tuple[str, int | str] | None = None
        self.timers: list[asyncio.TimerHandle] = []  # process timers that its task armed
        self.counts: dict[str, int] = {}
        self._children: dict[str, int] = {}

    @property
    def inside(self) -> bool:
        """Whether what this scope does now belongs to a step's body."""
        return self.step is not None or INSIDE in self.path

    def place(self) -> str:
        """Return the path that calls made now are journaled under."""
        if self.step is None:
            return self.path
        return inside_of((self.path, *self.step))

    def place_of(self, n: int | str) -> str:
        """Return the same of call *n*: what its caller named is the handler's, or its undo work's, in any branch."""
        return self.attempt.conductor.main.path if isinstance(n, str) and not self.inside else self.place()

    def number(self, name: str) -> int:
        """Return the next number of *name* in this scope, or in the step that it is in."""
        key = name if self.step is None else f"{self.place()}{name}"
        count = self.counts.get(key, 0) + 1
        self.counts[key] = count
        return count

    def ran(self, name: str, begun: float) -> float:
        """Tell, if anyone asks, how long a body ran that returned or raised; return 0.0, for it is told."""
        if begun and self.attempt.timed is not None:
            self.attempt.timed[name].append(monotonic() - begun)
        return 0.0

    def try_again(self) -> None:
        """The step's body starts anew: what it calls is numbered from the beginning."""
        inside = self.place()
        for numbers in (self.counts, self._children):
            for key in [k for k in numbers if k.startswith(inside)]:
                del numbers[key]

    def rests(self) -> bool:
        """Whether it can go no further before something else happens; what a step's body does does not count."""
        if self.inside:
            return True
        return self.waiting if self.task is None else is_blocked(self.task)

    def waits_for(self, ours: Collection[Any]) -> int:
        """Tell what it waits for (see `journal.rest`); *ours* are the futures of durable calls, and the branches."""
        if self.task is None:
            return DURABLE if self.waiting else FOREIGN
        if self.task.done():
            return DURABLE
        if self.step is not None:
            return FOREIGN  # a body is at work, and what it does may wake others
        return kind_of_wait(self.task, ours)

    def arm(self, start: Callable[[Any], asyncio.TimerHandle], callback: Callable[..., Any]) -> asyncio.TimerHandle:
        """Note a timer of the process, which *start* makes of a callback, until that has been called."""

        def come(*args: Any) -> None:
            if handle in self.timers:
                self.timers.remove(handle)
            callback(*args)

        handle = start(come)
        if len(self.timers) > _MANY:
            self.armed()
        self.timers.append(handle)
        return handle

    def armed(self) -> bool:
        """Whether a timer of the process, armed by its task, is still to come, however late a busy loop calls it."""
        self.timers[:] = [t for t in self.timers if not t.cancelled()]
        return bool(self.timers)

    def child(self, name: str) -> Scope:
        """Return a new scope under this one."""
        place = self.place()
        key = place + name
        count = self._children.get(key, 0) + 1
        self._children[key] = count
        return Scope(self.attempt, f"{place}/{name}#{count}" if place else f"{name}#{count}")


class Body(Scope):
    """
    The scope of a step's body in a thread, which nobody can stop: what it does late does not touch that of the step.

    Attributes:
        over: Whether its try is, and nobody waits for it any more.
    """

    __slots__ = ("over",)

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope.attempt, scope.path)
        self.step = scope.step
        self.over = False


def current_scope(what: str) -> Scope | None:
    """
    Return the scope of the caller, None outside any worker.

    Raises:
        UsageError: OUTSIDE_INTENT, in a worker process where the intent has been lost.
    """
    scope = scope_var.get()
    if scope is None and in_worker:
        raise UsageError(
            f"{what} was called in a worker, but outside of an intent",
            code="OUTSIDE_INTENT",
            hint="bare threads and executors lose the intent: make the work a step, or use redurable.sync.gather",
        )
    return scope


def mark_worker(flag: bool = True) -> None:
    """Declare that this process is a worker: durable calls that lost their intent are errors from now on."""
    global in_worker
    in_worker = flag
