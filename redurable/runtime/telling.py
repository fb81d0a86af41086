"""
What an attempt tells those who watch: events, the items of streams, progress. It never waits for them.

What is told is collected for `PAUSE` seconds and written by one script call, one under way at a time. Each *part* (a
step's body, a branch of the handler, a stream) numbers what it tells; with the events the store keeps how far each part
has come. Invariants, on which watchers rely:

- what a handler tells outside of steps is told once: a replay comes to the same calls, and their numbers are known;
- a step's body that begins anew, whoever ran it before, numbers from the beginning: watchers are told of a reset first;
- an attempt writes all that it was given before it ends or is put down, unless the store does not answer: what was lost
  with a process is told by the next attempt's replay, or by the body that runs again;
- of what waits to be written at most `MOST` is kept: the oldest are dropped, and their numbers stay unused.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any

import msgspec

from redurable.clock import now_ms
from redurable.codec import NIL
from redurable.config import max_events
from redurable.errors import CodecError, StoreError
from redurable.journal.cursor import INSIDE
from redurable.news import Progress, Told, fraction, pack
from redurable.runtime.scope import Body, Scope
from redurable.store.watching import ancestors, heed
from redurable.tasks import background, later

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["ENDED", "Telling", "telling_of"]

PAUSE = 0.02  # s
PROGRESS_PAUSE = 0.1
MOST = 10_000  # events that wait to be written
_AT_ONCE = 500
_LAST = 2.0  # s that the end of an attempt waits for a store that does not answer
_DEEP = 16  # ancestors that hear of progress
ENDED = -1
_KINDS = {"e": "event", "i": "item"}  # the first letter of a part's name


class _Said:
    """The *offset*-th thing that *part* tells; *again*: an offset that was used before means a new beginning."""

    __slots__ = ("again", "at", "data", "kind", "offset", "part")

    def __init__(self, part: str, kind: str, offset: int, data: bytes, again: bool) -> None:
        self.part = part
        self.kind = kind
        self.offset = offset
        self.data = data
        self.again = again
        self.at = now_ms()


class Telling:
    """What *attempt* tells."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._lock = threading.Lock()
        self._said: deque[_Said] = deque()
        self._dropped = 0
        self._marks: dict[str, int] | None = {} if attempt.lease.attempt == 1 else None
        self._number = 0
        self._over = False
        self._called = False  # the loop, by a thread
        self._flight: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._own: Progress | None = None
        self._steps: dict[str, tuple[Scope, Progress]] = {}
        self._news = False  # of progress
        self._next_progress = 0.0
        self._ancestors: list[str] | None = None

    def event(self, scope: Scope, data: bytes) -> None:
        """Tell an event where *scope* is now."""
        place = scope.place()
        self.say(f"e:{place}", "event", scope.number("<emit>") - 1, data, again=INSIDE in place)

    def say(self, part: str, kind: str, offset: int, data: bytes = NIL, *, again: bool = True) -> None:
        """Tell *data*, the *offset*-th of *part*; from any thread."""
        with self._lock:
            self._said.append(_Said(part, kind, offset, data, again))
            if len(self._said) > MOST:
                self._said.popleft()
                self._dropped += 1
        self._soon()

    def progress(self, scope: Scope, progress: Progress) -> None:
        """Tell how far it is; from any thread."""
        with self._lock:
            if scope.inside:
                place = scope.place()
                self._steps.pop(place, None)
                self._steps[place] = scope, msgspec.structs.replace(progress, own=False)
            else:
                self._own = progress
            self._news = True
        self._soon()

    async def reached(self, part: str) -> int:
        """Return how many things of *part* were told, `ENDED` if its end was; what waits to be written counts."""
        await self.flush()
        if self._marks is None:
            found = await self._known(self._attempt.recorder.cursor.turn)
            self._marks = found if self._marks is None else self._marks
        return self._marks.get(part, 0)

    async def flush(self, *, last: bool = False) -> None:
        """Return when all events told so far are in the store, with *last* the progress too, or it does not answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST):
                while not self._over and (self._flight is not None or self._said or (last and self._news)):
                    if self._flight is None:
                        self._next_progress = 0.0 if last else self._next_progress
                        self._start()
                    assert self._flight is not None
                    await asyncio.wait([self._flight])
                    if not self._said and self._attempt.recorder.cursor.replaying:
                        return  # the progress of a replay is for the next attempt to tell

    async def before_park(self) -> bool:
        """Write all before the intent is put down; whether nothing has begun meanwhile (else it is looked at again)."""
        await self.flush(last=True)
        return not self._attempt.conductor.bodies and self._attempt.recorder.idle

    def _soon(self) -> None:
        if self._timer is not None or self._flight is not None or self._over:
            return
        if threading.get_ident() == self._attempt.thread:
            self._arm()
        elif not self._called:
            self._called = True
            self._attempt.loop.call_soon_threadsafe(self._arm, context=Context())

    def _arm(self) -> None:
        self._called = False
        if self._timer is None and self._flight is None:
            self._timer = later(self._attempt.loop, PAUSE, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._flight is None and not self._attempt.ended:
            self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._flight = background(self._fly(), "tell watchers")

    async def _fly(self) -> None:
        try:
            await self._write()
        except CodecError as error:
            self._over = True
            self._attempt.hold(error)
        except StoreError:
            self._over = True  # the attempt meets the same by itself
        except BaseException:
            self._over = True
            raise
        finally:
            self._flight = None
            if (self._said or self._news) and not self._over and not self._attempt.ended:
                self._arm()

    async def _write(self) -> None:
        lease, recorder = self._attempt.lease, self._attempt.recorder
        if recorder.lost is not None:
            self._over = True
            return
        turn = recorder.cursor.turn
        if self._marks is None:
            found = await self._known(turn)
            self._marks = found if self._marks is None else self._marks
        with self._lock:
            said = [self._said.popleft() for _ in range(min(len(self._said), _AT_ONCE))]
            dropped, self._dropped = self._dropped, 0
        marks, parts = self._marks, {one.part: self._marks.get(one.part, 0) for one in said}
        events = [await self._packed(e, turn) for one in said for e in self._told(marks, one)]
        places = [w for part, before in parts.items() if marks.get(part, 0) != before for w in (part, marks[part])]
        progress = self._progress_now()
        if not events and not places and not dropped and progress is None:
            return
        data = b"" if progress is None else await self._packed_progress(progress)
        self._number += 1
        word = await lease.tell(self._number, turn, dropped, max_events(), data, events, places)
        if isinstance(word, bytes):
            self._over = True  # another owns it, or it is put down: whoever goes on tells it again
        elif progress is not None:
            await self._tell_ancestors()

    def _told(self, marks: dict[str, int], said: _Said) -> list[Told]:
        """Return what is to be told of *said*, by how far its part has come; *marks* are moved on."""
        known, place = marks.get(said.part, 0), said.part[2:].removesuffix(INSIDE)
        found: list[Told] = []
        if said.kind == "end" and known == ENDED:
            return found
        if said.kind != "end" and (known == ENDED or known > said.offset):
            if not said.again:
                return found
            what = _KINDS[said.part[0]]
            found.append(Told("reset", said.at, place, said.offset, msgspec.Raw(pack(what))))
        if said.kind == "begin":
            marks[said.part] = said.offset
        else:
            marks[said.part] = ENDED if said.kind == "end" else said.offset + 1
            found.append(Told(said.kind, said.at, place, said.offset, msgspec.Raw(said.data)))
        return found

    async def _known(self, turn: int) -> dict[str, int]:
        """Return how far the parts have come in earlier attempts."""
        flat: Any = await self._attempt.lease.read_marks()
        if isinstance(flat, bytes):
            return {}
        found = {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        if int(found.get("turn", turn)) != turn:
            return {}
        return {name: int(value) for name, value in found.items() if name[1:2] == ":"}

    async def _packed(self, told: Told, turn: int) -> bytes:
        vault = self._attempt.vault
        if turn > 1:
            told = msgspec.structs.replace(told, step=f"{told.step}@{turn}")
        return pack(told if vault is None else await vault.seal_struct(told))

    # --- progress -----------------------------------------------------------------------------------------------------

    def _progress_now(self) -> Progress | None:
        """Return the progress if it is to be told now; not in a replay, which would seem to go back."""
        now = self._attempt.loop.time()
        if not self._news or now < self._next_progress or self._attempt.recorder.cursor.replaying:
            return None
        self._next_progress = now + PROGRESS_PAUSE
        with self._lock:
            self._news = False
            working = {p: (s, told) for p, (s, told) in self._steps.items() if s.place().startswith(p) and not _over(s)}
            last = list(self._steps.items())[-1:]
            own, self._steps = self._own, working or dict(last)
        if own is None:
            return last[0][1][1]
        return added(own, [told for _, told in working.values()])

    async def _packed_progress(self, progress: Progress) -> bytes:
        vault = self._attempt.vault
        if vault is not None and progress.note:
            note = msgspec.msgpack.decode(await vault.seal(pack(progress.note)))
            progress = msgspec.structs.replace(progress, note=note)
        return pack(progress)

    async def _tell_ancestors(self) -> None:
        lease = self._attempt.lease
        if not self._attempt.envelope.parent:
            return
        if self._ancestors is None:
            self._ancestors = await ancestors(lease.store, lease.id, _DEEP)
        await heed(lease.store, self._ancestors, lease.id)


def _over(scope: Scope) -> bool:
    return isinstance(scope, Body) and scope.over


def added(own: Progress, parts: list[Progress]) -> Progress:
    """Return *own* with the fractions of what is open below it."""
    if own.total is None or not parts:
        return own
    done = min(own.total, round(own.done + sum(map(fraction, parts)), 3))
    return msgspec.structs.replace(own, done=done)


def telling_of(scope: Scope) -> Telling:
    """Return what the attempt of *scope* tells by; the first call makes it."""
    attempt = scope.attempt
    if attempt.telling is None:
        attempt.telling = Telling(attempt)
    return attempt.telling
