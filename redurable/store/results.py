"""
Waiting for outcomes and news without polling: one channel a client, one a watched intent.

A waiter subscribes first, then reads, then waits. Every reconnect makes all waiters read again, and a slow re-check is
the safety net: a message is never the only way to learn of an outcome. However many wait, the net asks the server no
more than `_A_SECOND` times a second: each looks again after RECHECK, or later if there are many (with 100,000 waiters,
each looking every 10 s, a client and its server did little else).
"""

from __future__ import annotations

import asyncio
from itertools import islice

from redurable.clock import monotonic
from redurable.model import Outcome
from redurable.store import inspection
from redurable.store.store import Store
from redurable.store.subscriber import Subscriber
from redurable.tasks import later

__all__ = ["Results"]

RECHECK = 10.0
_A_SECOND = 500
_Waiter = asyncio.Future[Outcome | None]


class Results:
    """What the client *name* waits for on *store*, in one event loop."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._subscriber = Subscriber(store.topology, self._on_message, self._on_subscribed)
        self._listening: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._net = _Net(self._loop)
        self._channel = store.keys[0].results(name)
        self._heard = False  # what is published there arrives, or is read once it does again
        self._waiters: dict[str, list[_Waiter]] = {}
        self._watched: dict[str, list[asyncio.Event]] = {}

    async def listen(self) -> None:
        """Return once this client's results arrive here."""
        if self._heard:
            return
        if self._listening is None or self._listening.done():  # refused, at first or since
            self._listening = asyncio.ensure_future(self._listen())
        await asyncio.shield(self._listening)

    async def _listen(self) -> None:
        await self._subscriber.start()
        await self._subscriber.subscribe(self._channel)
        self._heard = True
        self._look_all()  # what was said since it was heard last

    async def close(self) -> None:
        """Drop the connection, once the store's own is closed: who waits looks there, and is told so."""
        await self._subscriber.close()
        self._look_all()

    def expect(self, intent: str) -> _Waiter:
        """Return a future of the outcome, once `listen` has returned; None: read instead."""
        waiter: _Waiter = self._loop.create_future()
        self._waiters.setdefault(intent, []).append(waiter)
        return waiter

    def leave(self, intent: str, waiter: _Waiter) -> None:
        """Wait no more."""
        waiters = self._waiters.get(intent, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(intent, None)

    async def _told(self, waiter: _Waiter) -> Outcome | None:
        """Return what *waiter* is told, None when it is time to look."""
        # not by asyncio.wait, which costs a result two turns of the loop
        self._net.add(waiter)
        try:
            return await waiter
        finally:
            self._net.drop(waiter)

    async def sent(self, intent: str, waiter: _Waiter) -> Outcome:
        """Return the outcome of an intent that was just sent, *waiter* being there before: nothing is read."""
        return await self._told(waiter) or await self.outcome(intent)

    async def outcome(self, intent: str) -> Outcome:
        """Return how *intent* ends, whoever sent it; NotFound if it is not there."""
        await self.listen()
        news: asyncio.Event | None = None
        try:
            while True:
                waiter = self.expect(intent)
                try:
                    outcome, reply = await inspection.outcome_and_reply(self._store, intent)
                    if outcome is None and reply != self.name:
                        # another process sent it: its news are published for who asks
                        news = news or await self.watch(intent)
                        await self._store.watch(intent)
                        outcome, _ = await inspection.outcome_and_reply(self._store, intent)
                    if outcome is not None:
                        return outcome
                    if (outcome := await self._told(waiter)) is not None:
                        return outcome
                finally:
                    self.leave(intent, waiter)
        finally:
            if news is not None:
                self.unwatch(intent, news)

    async def watch(self, intent: str) -> asyncio.Event:
        """Return an event that is set at every news of *intent*, as long as `Store.watch` was asked for them."""
        await self.listen()
        event = asyncio.Event()
        self._watched.setdefault(intent, []).append(event)
        try:
            await self._subscriber.subscribe(self._store.keys_of(intent).news(intent))
        except BaseException:
            self.unwatch(intent, event)
            raise
        return event

    def unwatch(self, intent: str, event: asyncio.Event) -> None:
        """Watch no more."""
        events = self._watched[intent]
        events.remove(event)
        if not events:
            del self._watched[intent]
            self._subscriber.unsubscribe(self._store.keys_of(intent).news(intent))

    def _on_message(self, _: str, data: bytes) -> None:
        intent, rest = data[:36].decode(), data[36:]
        for event in self._watched.get(intent, ()):
            event.set()
        waiters = self._waiters.get(intent)
        if not waiters or rest == b"+":
            return
        if rest == b"?":  # too large for a message
            for waiter in waiters:
                _look(waiter)
            return
        outcome = inspection.unpack_outcome(rest)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    def _on_subscribed(self, reconnected: bool) -> None:
        if reconnected:
            self._heard = self._subscriber.hears(self._channel)  # this user's rights may have changed
            self._look_all()

    def _look_all(self) -> None:
        for events in self._watched.values():
            for event in events:
                event.set()
        for waiters in self._waiters.values():
            for waiter in waiters:
                _look(waiter)


class _Net:
    """Has waiters look again, those first who have waited longest; one timer for all: one each was 2 us a result."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._since: dict[_Waiter, float] = {}  # in the order of time
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: _Waiter) -> None:
        self._since[waiter] = monotonic()
        if self._timer is None:
            self._arm()

    def drop(self, waiter: _Waiter) -> None:
        self._since.pop(waiter, None)

    def _arm(self) -> None:
        tick = max(RECHECK / 10, 1 / _A_SECOND)
        self._timer = later(self._loop, tick, self._pull, round(tick * _A_SECOND))

    def _pull(self, most: int) -> None:
        self._timer = None
        due = monotonic() - RECHECK
        for waiter, since in list(islice(self._since.items(), most)):
            if since > due:
                break
            self.drop(waiter)
            _look(waiter)
        if self._since:
            self._arm()


def _look(waiter: _Waiter) -> None:
    if not waiter.done():
        waiter.set_result(None)
