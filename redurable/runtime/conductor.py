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
from redurable.events import emit
from redurable.journal.cursor import ABANDONED, ASKED, DONE, INSIDE, RUNNING, Call, Cursor, Identity, inside_of
from redurable.journal.rest import DURABLE, FOREIGN, QUIET_TURNS, SHARED, foreign_wait, more_turns, where
from redurable.model import Compensating, StepTried, TimerSet
from redurable.runtime.cancellation import Cancellation
from redurable.runtime.recorder import Recorder
from redurable.runtime.scope import Scope
from redurable.tasks import later, soon

__all__ = ["Conductor"]

SHORT = 1.0  # s; a wait under this stays in the process
_HOLD = 0.02
_LONG = 5.0
_PATIENCE = 30.0  # s that an entry is held for a handler that waits for nothing but what it may share with others
_LOOK = 0.001  # s until an attempt that waits is first looked at for parking


class Conductor:
    """
    Drives one handler.

    Args:
        main: The main scope.
        cursor, recorder: The journal and the way into it.
        on_park: Called with the earliest due time (ms) and whether it is a retry's, when nothing but timers is left.
    """

    def __init__(self, main: Scope, cursor: Cursor, recorder: Recorder, on_park: Callable[[int, bool], None]) -> None:
        self.main = main
        self.cursor = cursor
        self.recorder = recorder
        self.fast = False
        self.branched = False
        self.draining = False
        self.quiet_turns = QUIET_TURNS
        self.signal: BaseException | None = None
        self.ending: Compensating | None = None
        self.cancellation = Cancellation()
        self.over = False
        self.undoing = False  # undo work runs: a cancel changes nothing any more
        self.on_unwound: Callable[[], None] | None = None
        self.scopes: set[Scope] = {main}
        self.abandoned: list[Identity] = []  # calls given up since the last record
        self._loop = asyncio.get_running_loop()
        self._on_park = on_park
        self._futures: set[asyncio.Future[None]] = set()
        self._bodies: set[Call] = set()
        self._pumping = False
        self._quiet = 0
        self._more = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pause = _LOOK
        self._held_since: float | None = None
        self._hold_timer: asyncio.TimerHandle | None = None
        self._named = False
        self._fast_call: Call | None = None

    def begin(self) -> None:
        """Start with the loaded journal."""
        if self.cursor.cancel is not None:
            self.branched = True
        while not self.branched and not self.cursor.exhausted:
            before = self.cursor.applied
            kind, _ = self.cursor.advance()
            if kind == "held" or self.cursor.applied == before:
                break
            if kind == "ending":
                self.cursor.applied = before
                self.branched = True
        self._refresh()
        if not self.cursor.exhausted:
            # should the handler never ask for anything
            self._hold_timer = later(self._loop, _HOLD, self._look_again)

    def _refresh(self) -> None:
        self.fast = (
            not (self.branched or self.main.attempt.stand_ins)
            and not self.draining
            and self.signal is None
            and self.cancellation.entry is None
            and not self._futures
            and self.cursor.exhausted
        )

    def check(self) -> None:
        """Raise the signal of an attempt that is being unwound."""
        if self.signal is not None:
            raise self.signal
        if self.over:
            raise Suspended("the attempt is over")

    def ask(self, scope: Scope, identity: Identity) -> Call:
        """Register a call of *scope*; see `Cursor.ask`."""
        self.check()
        if self.draining:
            # it waits for the drain's end and never starts, so the bodies that it is made in cannot end here
            self._bodies = {b for b in self._bodies if not identity[0].startswith(inside_of(b.identity))}
            self._unwind_when_idle()
            return Call(identity, ABANDONED)
        self.leave_fast()
        scope.durable = True
        try:
            return self.cursor.ask(identity)
        except JournalMismatchError as error:
            self.unwind(error)
            raise

    def leave_fast(self) -> None:
        """Go on in the general way; a step on the short way becomes a call like any other."""
        if self.fast:
            self.fast = False
            if self.main.step is not None and INSIDE not in self.main.path:
                self._fast_call = self.cursor.ask((self.main.path, *self.main.step))
                self._fast_call.state = RUNNING
                self._fast_call.finish = True
                self._bodies.add(self._fast_call)

    def still_fast(self) -> bool:
        """Whether nothing has come between since the step began."""
        return self.fast

    def take_fast_call(self) -> Call:
        """Return the call that the step on the short way has become."""
        call, self._fast_call = self._fast_call, None
        assert call is not None
        return call

    async def wait(self, scope: Scope, call: Call) -> None:
        """Return when the call's entry has been delivered (DONE), or when it may start (RUNNING)."""
        if call.state == DONE:
            return
        self.check()
        if call.state == ASKED and INSIDE in call.identity[0]:
            delay = (call.due - now_ms()) / 1000 if call.due is not None else 0.0
            if delay > 0:
                await asyncio.sleep(delay)
            self.check()
            call.state = RUNNING
            return
        if self.cancellation.owed and scope.task is None:
            self.cancellation.owed = False
            self.give_up(call)
            raise self.cancellation.error()
        future: asyncio.Future[None] = self._loop.create_future()
        call.future = future
        self._futures.add(future)
        scope.waiting = True
        self._pause = _LOOK
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
            self._futures.discard(future)
        if call.state == DONE and not self.branched:
            self._refresh()

    def give_up(self, call: Call) -> None:
        """The call was cancelled and its scope goes on: the next record says so, whoever's it is."""
        if call.state == ABANDONED:
            return
        self.cursor.give_up(call)
        self._bodies.discard(call)
        if INSIDE not in call.identity[0]:
            self.abandoned.append(call.identity)
        if self.cancellation.pending:
            self.kick()

    def started(self, call: Call) -> None:
        """A body runs for *call*."""
        self._bodies.add(call)

    async def record(self, scope: Scope, call: Call, entry: Any) -> None:
        """Append *entry* for a running call; an entry that ends it takes effect at its place, await `wait` for that."""
        self.check()
        if self.abandoned:
            entry.abandoned, self.abandoned = self.abandoned, []
        future = self.recorder.append(entry)
        inside = INSIDE in entry.scope
        try:
            await future
        except asyncio.CancelledError:
            self._bodies.discard(call)
            if self.signal is None and not inside:
                self.give_up(call)
            raise
        self._bodies.discard(call)
        if inside:
            call.entry = entry
        if isinstance(entry, StepTried | TimerSet):
            if isinstance(entry, StepTried):
                call.tries = entry.tries
            call.due = entry.due
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
            self.leave_fast()
            self.branched = True

    def departed(self, scope: Scope) -> None:
        """A child task is over."""
        self.scopes.discard(scope)
        if self._futures or self._timer is not None:
            self.kick()

    def news(self) -> None:
        """Entries came from outside."""
        self.leave_fast()
        self.branched = True
        self.kick()

    def unwind(self, signal: BaseException) -> None:
        """End the attempt: every durable call raises *signal* from now on, and what waits is woken with it."""
        if self.signal is not None or self.over:
            return
        self.signal = signal
        self.fast = False
        for timer in (self._timer, self._hold_timer):
            if timer is not None:
                timer.cancel()
        for future in self._futures:
            if not future.done():
                future.set_exception(signal)
        running = asyncio.current_task()
        for scope in list(self.scopes):
            task = scope.task
            if task is None or task.done() or task is running or not (scope.durable or scope is self.main):
                continue
            if getattr(task, "_fut_waiter", None) not in self._futures:
                task.cancel()
        if self.on_unwound is not None:
            self.on_unwound()

    def drain(self) -> None:
        """Start nothing more; unwind once the steps in flight are recorded."""
        self.leave_fast()
        self.draining = True
        self._unwind_when_idle()

    def _unwind_when_idle(self) -> None:
        if not self._bodies and self.recorder.idle:
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
            self._more = self._more_turns()
        self._quiet += 1
        if self._quiet < self.quiet_turns + self._more:
            soon(self._loop, self._turn)
            return
        self._quiet = 0
        if self._advance():
            soon(self._loop, self._turn)
        else:
            self._pumping = False

    def _more_turns(self) -> int:
        tasks = (scope.task for scope in self.scopes if scope.task is not None and not scope.inside)
        return max((more_turns(task, self._futures) for task in tasks), default=0)

    def _advance(self) -> bool:
        """Let one thing take effect; whether to look again."""
        kind, what = self.cursor.advance()
        if kind == "noted":
            return True
        if kind != "held":
            self._held_since = None
        if kind == "ready":
            self._deliver(what)
            return self.branched
        if kind == "requested" and not self.undoing:
            self.cancellation.entry = what
        if kind == "cancel" and not self.undoing:
            self._cancel()
        if kind in ("requested", "cancel"):
            return True
        if kind == "ending":
            self.ending = what
            self.unwind(Suspended("the handler has ended; its compensation runs"))
            return False
        if kind == "held":
            self._hold(what)
            return False
        return self._at_end()

    def _deliver(self, call: Call) -> None:
        self._bodies.discard(call)
        if call.future is not None and not call.future.done():
            call.future.set_result(None)

    def _hold(self, entry: Any) -> None:
        """The next entry's call has not been asked for: something else must happen first, or the code differs."""
        now = self._loop.time()
        self._held_since = self._held_since or now
        # a call that was given up before waits until the handler gives it up again, by a timer of the process
        timed = any(s.armed(self._loop.time()) for s in self.scopes)
        if not self.cursor.unended(timed):
            kinds = {s: s.waits_for(self._ours()) for s in self.scopes}
            # what is shared may be held by others for a while: another intent that uses the same semaphore
            patience = _PATIENCE if SHARED in kinds.values() or timed else 0.0
            if FOREIGN not in kinds.values() and now - self._held_since >= patience:
                self.unwind(self.cursor.mismatch(entry))
                return
            if now - self._held_since > _LONG and not self._named:
                self._named, lease = True, self.recorder.lease
                places = [where(s.task) for s, kind in kinds.items() if s.task is not None and kind != DURABLE]
                emit("handler.foreign_wait", intent=lease.id, attempt=lease.attempt, where=places, entry=entry.name)
                if self.main.attempt.spec.strict:
                    self.unwind(foreign_wait(places))
                    return
        if self._hold_timer is None:
            self._hold_timer = later(self._loop, _HOLD, self._look_again)

    def _look_again(self) -> None:
        self._hold_timer = None
        if not self.over and self.signal is None:
            self.kick()

    def _ours(self) -> set[Any]:
        return {*self._futures, *(scope.task for scope in self.scopes)}

    def _at_end(self) -> bool:
        """The journal is applied to its end: what was asked for may start; else wait for the clock, or park."""
        if self.cancellation.pending:
            self._announce_cancel()
            return False
        now = now_ms()
        due: list[tuple[int, Call]] = []
        started = False
        for call in self.cursor.startable():
            if call.future is None or call.future.done():
                continue
            if call.due is not None and call.due > now:
                due.append((call.due, call))
                continue
            call.state = RUNNING
            self._bodies.add(call)
            call.future.set_result(None)
            started = True
        if started or not due:
            return False
        first = min(at for at, _ in due)
        wait = (first - now) / 1000
        if wait >= SHORT:
            if self._parkable():
                self._on_park(first, any(call.tries for _, call in due))
            # whoever asked last has not come to rest yet, or something foreign goes on: look again, ever less often
            wait = min(wait, self._pause)
            self._pause = min(self._pause * 2, 1.0)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = later(self._loop, wait, self.kick)
        return False

    def _parkable(self) -> bool:
        """Whether nothing is left but durable waits: no body, no record, no foreign wait, no process timer."""
        if self._bodies or not self.recorder.idle or self.draining or self.main.step is not None:
            return False
        clock, ours = self._loop.time(), self._ours()
        return not any(
            scope.waits_for(ours) == FOREIGN or scope.armed(clock)
            for scope in self.scopes
            if scope.durable or scope is self.main
        )

    def _announce_cancel(self) -> None:
        """Record where the handler meets its cancel; the entry takes effect there as any other does."""
        entry = self.cancellation.announcement(self._bodies)
        if entry is not None:
            self.recorder.append(entry).add_done_callback(self._landed, context=Context())

    def _landed(self, future: asyncio.Future[None]) -> None:
        if future.exception() is None and not self.over:
            self.kick()

    def _cancel(self) -> None:
        """The handler is at rest where it was cancelled before, or is to be now."""
        self.cancellation.delivered = True
        if self.main.task is not None:
            self.main.task.cancel()
            return
        waiting = [call.future for call in self.cursor.calls if call.future is not None and not call.future.done()]
        for future in waiting:
            future.set_exception(self.cancellation.error())
        self.cancellation.owed = not waiting
