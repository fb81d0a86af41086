"""
The places that an attempt has under limits, and those it waits for: of its handler, and of its steps' calls.

Who has to wait does so in the process for a moment; if nothing else goes on, the intent is then put down (reason
LIMIT) and continued when it is called up. Invariants: a body begins within the slack that its rate was told, or asks
anew; whatever ends the attempt gives its places back, or, if it dies, its fence does; an attempt never waits for a
limit of which it has a place already.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from redurable.clock import monotonic, now_ms
from redurable.errors import SerialisationError, StoreError, Suspended, UsageError
from redurable.journal.cursor import ASKED, INSIDE, RUNNING, Call, Identity, inside_of
from redurable.model import Reason
from redurable.runtime.limit import arguments_of, wanted_by
from redurable.store.limits import Place, Wanted, linger, occupy, vacate
from redurable.tasks import background

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt
    from redurable.runtime.scope import Scope
    from redurable.runtime.spec import StepSpec

__all__ = ["Seats", "admitted", "call_up", "kept", "leave", "put_down_waiting", "seated", "wanted_of"]

T = TypeVar("T")
_SOON, _LATER, _INSIDE = 900, 5000, 250  # ms until it asks again, should it not be called up
_LEAST_SLACK, _MOST_SLACK, _SLACK = 20_000, 1_000_000, 20  # us, us, and which part of a rate's time
_BEFORE = (b"\x06", b"\x07")  # the tags of `Claimed` and `AttemptFailed`


class _Seat:
    """One place: waited for, held, or given back."""

    def __init__(self, place: Place, numbers: Iterator[int], rated: bool = True) -> None:
        self.place = place
        self.rated = rated and any(w.rate for w in place.limits)
        self.held = False
        self.asking = False
        self.called = False  # up, before the answer to its asking was here
        self.over = False
        self.bodies = 0  # in threads, which nobody can stop
        self.at: Wanted | None = None  # the line that it stands in
        self._numbers = numbers

    async def take(self) -> str:
        """Ask for the place; return OK, a refusal, or "" if it stands in line now."""
        shortest = min((w.per_us for w in self.place.limits if w.rate), default=0)
        slack = min(_MOST_SLACK, max(_LEAST_SLACK, shortest // _SLACK)) if self.rated else 0
        while True:
            ask = f"{self.place.lease.epoch}.{next(self._numbers)}" if self.rated else ""
            sent = monotonic()
            self.asking, self.called = True, False
            word = await occupy(self.place, ask, slack)
            self.asking = False
            if isinstance(word, int):
                self.at = self.place.limits[word - 1]
                return ""
            self.at, self.held = None, word == b"OK"
            late = (monotonic() - sent) * 1_000_000
            if not self.held or not self.rated or late <= slack:
                return str(word.decode())
            # it would begin when it counts no more: give it back, and ask for one that counts for longer
            await vacate(self.place, unused=ask)
            self.held, slack = False, int(2 * late)

    async def give_back(self) -> None:
        """Leave the place, or the line; a store that is away finds out by the fence."""
        self.held = self.asking = False
        self.at = None
        with contextlib.suppress(StoreError):
            await vacate(self.place, gone=True)

    def leave(self) -> None:
        """Give it back once no thread is at work in it."""
        self.over, self.at = True, None
        if not self.bodies:
            background(self.give_back())

    def kept(self, function: Callable[..., T], loop: asyncio.AbstractEventLoop) -> Callable[..., T]:
        """Return *function*, which runs in a thread, so that the place is kept until it has really returned."""

        def done() -> None:
            self.bodies -= 1
            if self.over:
                self.leave()

        def run(*args: Any, **kwargs: Any) -> T:
            self.bodies += 1
            try:
                if self.over:
                    raise Suspended("its place was given back while it waited for a thread")
                return function(*args, **kwargs)
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                    loop.call_soon_threadsafe(done)

        return run


class Seats:
    """The places of *attempt*."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.handler: _Seat | None = None
        self.calls: dict[Identity, tuple[Call, _Seat]] = {}
        self.numbers = itertools.count(1)  # of what rates count

    def call_up(self) -> None:
        """A limit has called one of the waiting calls up: they ask again."""
        conductor = self._attempt.conductor
        for call, seat in self.calls.values():
            seat.called = seat.asking
            if seat.at is not None and call.state == ASKED:
                call.due = None
        conductor.kick()

    async def linger(self, seen: int, wake_ms: int | None) -> Any:
        """Put the intent down until a limit calls it up; NEWS when it has, or more than *seen* entries are there."""
        waits = [(seat.at, seat.place) for _, seat in self.calls.values() if seat.at is not None]
        if not waits:
            return b"NEWS"
        word = await linger(self._attempt.lease, waits, seen, wake_ms)
        if word == b"NEWS":
            self.call_up()
        return word

    async def leave(self) -> None:
        """The attempt is over: give back what it has; what it waits for is its intent's."""
        seats = [seat for _, seat in self.calls.values() if seat.held or seat.asking]
        for seat in (*seats, *([self.handler] if self.handler is not None else [])):
            seat.over = True
            if not seat.bodies:
                await seat.give_back()


def wanted_of(attempt: Attempt, arguments: dict[str, Any]) -> tuple[Wanted, ...]:
    """Return the limits that the handler of *attempt* falls under, with these arguments."""
    spec = attempt.spec
    values = tuple(arguments.values())
    root = values[0] if spec.takes_payload else arguments
    return wanted_by(spec.limits, spec.queue, spec.name, lambda: root, values, {})


async def admitted(attempt: Attempt, wanted: tuple[Wanted, ...]) -> str:
    """Take the handler's place; return "", or how the attempt ended: limited (it waits in line), released, lost."""
    lease = attempt.lease
    if not lease.store.limited:
        return ""
    fresh = _begins(attempt)
    wanted = tuple(w for w in wanted if fresh or w.concurrency)  # a rate counts how often handlers begin
    if not wanted:
        return ""
    attempt.seats = Seats(attempt)
    seat = attempt.seats.handler = _Seat(Place(lease, "", wanted), attempt.seats.numbers, fresh)
    while True:
        word = await seat.take()
        if word == "OK":
            return ""
        if not word:
            assert seat.at is not None
            answer = await linger(lease, [(seat.at, seat.place)], None, None)
            word = "limited" if answer == b"OK" else answer.decode()
        if word == "NEWS":
            continue
        attempt.seats = None
        if word != "limited":
            attempt.lost(word)
            return "lost"
        return word


def _begins(attempt: Attempt) -> bool:
    """Whether nothing of its handler is in the journal yet."""
    return all(raw[1:2] in _BEFORE for raw in attempt.lease.entries)


async def put_down_waiting(attempt: Attempt, seen: int, due: int | None, reason: Reason) -> Any:
    """
    Park *attempt*, which waits for *reason* first of all, until *due* (ms); return the store's word.

    *seen* is how many entries there were when this was decided: what came since may be what it waits for.
    """
    if attempt.telling is not None and not await attempt.telling.before_park():
        return b"NEWS"
    if reason is Reason.LIMIT and attempt.seats is not None:
        return await attempt.seats.linger(seen, due)
    return await attempt.lease.park(seen, reason.value, due)


async def seated(scope: Scope, spec: StepSpec, call: Call, args: Any, kwargs: Any) -> bool:
    """
    Return once *call* has its place and its body may begin; False if it may not any more.

    Raises:
        SerialisationError: LIMIT_KEY.
        UsageError: LIMIT_NESTED, the handler, or the step that it is in, has a place of the same limit.
    """
    attempt = scope.attempt
    conductor = attempt.conductor
    try:
        wanted = wanted_by(
            spec.limits, spec.name, spec.name, lambda: arguments_of(spec.function, args, kwargs), args, kwargs
        )
        _check_nesting(attempt, call, wanted)
    except (SerialisationError, UsageError):
        conductor.give_up(call)
        raise
    if not attempt.lease.store.limited:
        return True
    if attempt.seats is None:
        attempt.seats = Seats(attempt)
    place, name, n = call.identity
    # a thread of the try before may still be at work: each try has a place of its own
    digest = hashlib.blake2b(f"{place}\0{name}\0{n}\0{call.tries}".encode(), digest_size=8).hexdigest()
    seat = _Seat(Place(attempt.lease, digest, wanted), attempt.seats.numbers)
    attempt.seats.calls[call.identity] = (call, seat)
    patience = _INSIDE if INSIDE in place else _SOON
    try:
        while call.state == RUNNING:
            conductor.bodies.add(call)
            word = await seat.take()
            if word == "OK":
                return True
            if word:
                attempt.lost(word)
                conductor.check()
            call.state, call.reason, call.due = ASKED, Reason.LIMIT, now_ms() + (0 if seat.called else patience)
            patience = _INSIDE if INSIDE in place else _LATER
            conductor.bodies.discard(call)
            await conductor.wait(scope, call)
    except asyncio.CancelledError:
        if seat.asking or seat.held or conductor.signal is None:
            seat.leave()
        if conductor.signal is None:
            conductor.give_up(call)
        raise
    return False


def _check_nesting(attempt: Attempt, call: Call, wanted: tuple[Wanted, ...]) -> None:
    if attempt.seats is None:
        return
    above = [seat for outer, (_, seat) in attempt.seats.calls.items() if call.identity[0].startswith(inside_of(outer))]
    if attempt.seats.handler is not None:
        above.append(attempt.seats.handler)
    held = {w.id for seat in above for w in seat.place.limits}
    for limit in wanted:
        if limit.id in held:
            raise UsageError(
                f"step {call.identity[1]!r} would wait for limit {limit.id!r}, which its handler or outer step has",
                code="LIMIT_NESTED",
                hint="give one of the two another name",
            )


def call_up(attempt: Attempt) -> None:
    """A limit has called up what waits in *attempt*."""
    if attempt.seats is not None:
        attempt.seats.call_up()


def kept(scope: Scope, call: Call | None, function: Callable[..., T]) -> Callable[..., T]:
    """Return *function*, the body of *call* or the handler (None), so that its thread keeps its place to the end."""
    seats = scope.attempt.seats
    if seats is None:
        return function
    seat = seats.handler if call is None else seats.calls.get(call.identity, (None, None))[1]
    return function if seat is None else seat.kept(function, scope.attempt.loop)


def leave(scope: Scope, call: Call) -> None:
    """The body of *call* has ended: give its place back. Any thread may say so."""
    attempt = scope.attempt
    if attempt.seats is None:
        return
    found = attempt.seats.calls.pop(call.identity, None)
    if found is not None:
        attempt.loop.call_soon_threadsafe(found[1].leave)
