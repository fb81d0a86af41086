"""
The conductor of one attempt: it decides when entries take effect, calls start, and the handler is unwound.

Three gaits, one rule (an entry takes effect in its order, at rest):
- *fast*: one scope, the journal applied to its end, nothing from outside. A step needs neither call nor cursor.
- *single*: one scope that replays or waits. It has one waiter at most, so no rest has to be awaited.
- *branched*: from the first child task on. An entry takes effect once every task was blocked for QUIET_TURNS turns.

Invariants: after `unwind` every durable call raises the same signal, no body starts, nothing is recorded that was not
under way; a cancel takes effect at its place in the journal, see `cancellation`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from redurable.clock import now_ms
from redurable.errors import JournalMismatchError, Suspended
from redurable.journal.cursor import ABANDONED, ASKED, DONE, INSIDE, RUNNING, Call, Cursor, Identity, inside_of
from redurable.journal.rest import QUIET_TURNS, more_turns
from redurable.model import Called, Compensating, Reason, StepTried, TimerSet
from redurable.runtime.cancellation import NOT_ASKED, Cancellation
from redurable.runtime.early import Early
from redurable.runtime.inside import may_start
from redurable.runtime.parking import Parking
from redurable.runtime.recorder import Recorder
from redurable.runtime.scope import Scope
from redurable.tasks import later, soon

__all__ = ["Conductor"]


class Conductor:
    """
    Drives one handler.

    Args:
        main: The main scope.
        cursor, recorder: The journal and the way into it.
    """

    def __init__(self, main: Scope, cursor: Cursor, recorder: Recorder) -> None:
        self.main = main
        self.cursor = cursor
        self.recorder = recorder
        self.fast = False
        self.branched = False
        self.draining = False
        self.quiet_turns = QUIET_TURNS
        self.signal: BaseException | None = None
        self.ending: Compensating | None = None
        self.cancellation = NOT_ASKED
        self.over = False
        self.undoing = False  # undo work runs: a cancel changes nothing any more
        self.on_unwound: Callable[[], None] | None = None
        self.scopes: set[Scope] = {main}
        self.abandoned: list[Identity] = []  # calls given up since the last record
        self._loop = main.attempt.loop
        self.futures: set[asyncio.Future[None]] = set()  # of calls that wait
        self.bodies: set[Call] = set()  # calls at work
        self._pumping = False
        self._quiet = 0
        self._more = 0
        self._parking: Parking | None = None
        self._early: Early | None = None
        self._fast_call: Call | None = None

    def begin(self) -> None:
        """Start with the loaded journal."""
        if self.cursor.cancel is not None:
            self.branched = True
        while not self.branched and not self.cursor.exhausted:
            before = self.cursor.applied
            kind, _ = self.cursor.advance(resting=False)
            if kind == "held" or self.cursor.applied == before:
                break
            if kind == "ending":
                self.cursor.applied = before
                self.branched = True
        self._refresh()
        if not self.cursor.exhausted:
            self._early = Early(self)
            self._early.look_soon()  # should the handler never ask for anything

    def _refresh(self) -> None:
        self.fast = (
            not (self.branched or self.draining or self.main.attempt.stand_ins)
            and self.signal is None
            and self.cancellation.entry is None
            and not self.futures
            and self.cursor.exhausted
        )

    def still_fast(self) -> bool:
        """Whether nothing has come between since the step began."""
        if self.main.attempt.telling is not None:
            self._leave_fast()  # what a body told is written before its result
        return self.fast

    def check(self, scope: Scope | None = None) -> None:
        """Raise the signal of an attempt that is being unwound; while it is undone, its handler's branches are over."""
        if self.signal is not None:
            raise self.signal
        if self.over or (self.undoing and scope is not None and scope.path.partition("/")[0] != self.main.path):
            raise Suspended("the attempt is over")

    def ask(self, scope: Scope, identity: Identity, key: str | None = None, reason: Reason = Reason.TIME) -> Call:
        """Register a call of *scope*; see `Cursor.ask`."""
        self.check(scope)
        if self.draining:
            # it waits for the drain's end and never starts, so the bodies that it is made in cannot end here
            self.bodies = {b for b in self.bodies if not identity[0].startswith(inside_of(b.identity))}
            self._unwind_when_idle()
            return Call(identity, state=ABANDONED)
        self._leave_fast()
        scope.durable = True
        try:
            return self.cursor.ask(identity, key, reason)
        except JournalMismatchError as error:
            self.unwind(error)
            raise

    def _leave_fast(self) -> None:
        """Go on in the general way; a step on the short way becomes a call like any other."""
        if self.fast:
            self.fast = False
            if self.main.step is not None and INSIDE not in self.main.path:
                self._fast_call = self.cursor.ask((self.main.path, *self.main.step))
                self._fast_call.state = RUNNING
                self._fast_call.finish = True
                self.bodies.add(self._fast_call)

    def take_fast_call(self) -> Call:
        """Return the call that the step on the short way becomes, or has become."""
        self.check()
        self._leave_fast()
        call, self._fast_call = self._fast_call, None
        assert call is not None
        return call

    async def wait(self, scope: Scope, call: Call) -> None:
        """Return when the call's entry has been delivered (DONE), or when it may start (RUNNING)."""
        if call.state == DONE:
            if call.key is not None and not self.branched:
                self._refresh()
            return
        self.check()
        if call.state == ASKED and INSIDE in call.identity[0]:
            await may_start(self, call)
            return
        if self.cancellation.owed and scope.task is None:
            self.cancellation.owed = False
            self.give_up(call)
            raise self.cancellation.error()
        future: asyncio.Future[None] = self._loop.create_future()
        call.future = future
        self.futures.add(future)
        scope.waiting = True
        self._parking = self._parking or Parking(self)
        self._parking.moved()
        try:
            self.kick()
            await future
        except asyncio.CancelledError:
            if self.signal is None:
                # even if its entry has just taken effect: the handler goes on without it
                self.give_up(call)
            raise
        finally:
            scope.waiting = False
            call.future = None
            self.futures.discard(future)
        if call.state == DONE and not self.branched:
            self._refresh()

    def give_up(self, call: Call) -> None:
        """The call was cancelled and its scope goes on: the next record says so, whoever's it is."""
        if call.state == ABANDONED:
            return
        self.cursor.give_up(call)
        self.bodies.discard(call)
        if INSIDE not in call.identity[0]:
            self.abandoned.append(call.identity)
        if self.cancellation.pending:
            self.kick()

    def write(self, call: Call, entry: Any) -> None:
        """
        Append *entry* for a running call whose scope waits all the while; None: nothing is to be started any more.

        Unlike `record` it keeps nobody from hearing, in its place, of what comes from outside meanwhile.
        """
        if self.over:
            return
        if entry is None:
            self.bodies.discard(call)
            if call.state == RUNNING:
                call.state, call.held = ASKED, True
                self.kick()
            return
        if self.abandoned:
            entry.abandoned, self.abandoned = self.abandoned, []

        def written(future: asyncio.Future[None]) -> None:
            if future.exception() is None and not self.over and self.signal is None:
                if isinstance(entry, TimerSet | Called) and call.state == RUNNING:
                    call.state, call.due, call.held = ASKED, getattr(entry, "due", None), isinstance(entry, Called)
                self.bodies.discard(call)
                self.kick()

        self.recorder.append(entry).add_done_callback(written, context=Context())

    async def record(self, scope: Scope, call: Call, entry: Any) -> None:
        """Append *entry* for a running call; an entry that ends it takes effect at its place, await `wait` for that."""
        self.check(scope)
        if self.abandoned:
            entry.abandoned, self.abandoned = self.abandoned, []
        future = self.recorder.append(entry)
        inside = INSIDE in entry.scope
        try:
            await future
        except asyncio.CancelledError:
            self.bodies.discard(call)
            if self.signal is None and not inside:
                self.give_up(call)
            raise
        self.bodies.discard(call)
        if inside:
            call.entry = entry
        if isinstance(entry, StepTried | TimerSet):
            if isinstance(entry, StepTried):
                call.tries, call.reason = entry.tries, Reason.RETRY
            call.due = entry.due
            if call.state == RUNNING:  # else what it waits for has come
                call.state = ASKED
        elif inside:
            call.state = DONE
        if self.draining:
            self._unwind_when_idle()
        self.check()

    def adopt(self, scope: Scope) -> None:
        """A child task was started in the handler."""
        self.scopes.add(scope)
        if INSIDE not in scope.path:
            self._leave_fast()
            self.branched = True

    def departed(self, scope: Scope) -> None:
        """A child task is over."""
        self.scopes.discard(scope)
        if self.futures or (self._parking is not None and self._parking.armed):
            self.kick()

    def news(self) -> None:
        """Entries came from outside."""
        self._leave_fast()
        self.branched = True
        self.kick()

    def unwind(self, signal: BaseException) -> None:
        """End the attempt: every durable call raises *signal* from now on, and what waits is woken with it."""
        if self.signal is not None or self.over:
            return
        self.signal = signal
        self.fast = False
        for waits in (self._parking, self._early):
            if waits is not None:
                waits.cancel()
        for future in self.futures:
            if not future.done():
                future.set_exception(signal)
        running = asyncio.current_task()
        for scope in list(self.scopes):
            task = scope.task
            if task is None or task.done() or task is running or not (scope.durable or scope is self.main):
                continue
            if getattr(task, "_fut_waiter", None) not in self.futures:
                task.cancel()
        if self.on_unwound is not None:
            self.on_unwound()

    def close(self) -> None:
        """The attempt is over: rings are cut, so that all is freed at once, unless branches or threads outlive it."""
        self.over = True
        if len(self.scopes) == 1 and self.main.thread is None:
            self.fast, self._parking, self._early = False, None, None
            self.scopes.clear()
            if self.signal is not None:
                self.signal.__traceback__ = None  # its frames hold the attempt
            del self.main
            self.recorder.close()

    def drain(self) -> None:
        """Start nothing more; unwind once the steps in flight are recorded."""
        self._leave_fast()
        self.draining = True
        self._unwind_when_idle()

    def _unwind_when_idle(self) -> None:
        if not self.bodies and self.recorder.idle:
            self.unwind(Suspended("the worker is draining"))

    def kick(self) -> None:
        """Look whether something can take effect."""
        if not self.branched:
            while self._advance():
                pass
        elif not self._pumping:
            self._pumping = True
            self._quiet = 0
            soon(self._loop, self._turn)

    def _turn(self) -> None:
        if self.over or self.signal is not None:
            self._pumping = False
            return
        if not all(scope.rests() for scope in self.scopes):
            self._quiet = 0
            if any(s.task is None and not s.waiting and s.step is None for s in self.scopes):
                later(self._loop, 0.001, self._turn)  # a thread is at work
            else:
                soon(self._loop, self._turn)
            return
        if self._quiet == 0:
            # asked at the beginning: what has passed a result on already looks shallow
            tasks = (scope.task for scope in self.scopes if scope.task is not None and not scope.inside)
            self._more = max((more_turns(task, self.futures) for task in tasks), default=0)
        self._quiet += 1
        if self._quiet < self.quiet_turns + self._more:
            soon(self._loop, self._turn)
            return
        self._quiet = 0
        if self._advance():
            soon(self._loop, self._turn)
        else:
            self._pumping = False

    def _advance(self) -> bool:
        """Let one thing take effect; whether to look again."""
        kind, what = self.cursor.advance()
        if kind == "noted":
            return True
        if kind != "held" and self._early is not None:
            self._early.over()
        if kind == "ready":
            self._deliver(what)
            return self.branched
        if kind == "arrived":
            for call in what:
                self._deliver(call)
            return self.branched or not what
        if kind == "requested" and not self.undoing:
            self.cancellation = Cancellation(what)
        if kind == "cancel" and not self.undoing:
            self.cancellation.deliver(self)
        if kind in ("requested", "cancel"):
            return True
        if kind == "ending":
            self.ending = what
            self.unwind(Suspended("the handler has ended; its compensation runs"))
            return False
        if kind == "held":
            self._early = self._early or Early(self)
            self._early.hold(what)
            return False
        return self._at_end()

    def _deliver(self, call: Call) -> None:
        self.bodies.discard(call)
        if call.future is not None and not call.future.done():
            call.future.set_result(None)

    def _at_end(self) -> bool:
        """The journal is applied to its end: what was asked for may start; else wait for the clock, or park."""
        if self.cancellation.pending:
            self.cancellation.announce(self)
            return False
        if self.draining:
            self._unwind_when_idle()
            return False
        due, held, started, now = list[Call](), list[Call](), False, now_ms()
        for call in self.cursor.startable():
            if call.future is None or call.future.done():
                continue
            if call.due is not None and call.due > now:
                due.append(call)
            elif call.held and call.due is None:
                held.append(call)
            else:
                call.state = RUNNING
                self.bodies.add(call)
                call.future.set_result(None)
                started = True
        if not started and (due or held) and self._parking is not None:
            self._parking.consider(due, held)
        return False
