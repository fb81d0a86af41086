"""
Pub/sub on a connection of its own: hints that save waiting, never the only way to learn a thing.

After every (re)connect all channels are subscribed again and `on_subscribed` is called: whoever relies on a message
reads the state anew then. A ping a few times a minute notices a half-open link.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from redurable.errors import StoreError, StoreUnavailable
from redurable.store.link import Link, pack
from redurable.store.refusals import refusal
from redurable.store.topology import Topology
from redurable.tasks import background, later

__all__ = ["Subscriber"]

_PING = 15.0


class Subscriber:
    """
    Calls *on_message(channel, data)* for every message, *on_subscribed(reconnected)* after each (re)connect.

    Channels are subscribed while the connection is away, too: they are asked for at the next connect.
    """

    def __init__(
        self,
        topology: Topology,
        on_message: Callable[[str, bytes], None],
        on_subscribed: Callable[[bool], None],
    ) -> None:
        self._topology = topology
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._channels: dict[str, asyncio.Future[None]] = {}
        self._closed = False
        self._first = True
        self._heard = True
        self._ping: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Open the connection, unless it is open; StoreUnavailable if it cannot be."""
        if self._link is None:
            await self._open()

    def hears(self, channel: str) -> bool:
        """Whether the server has confirmed *channel*, on the last connection that there was."""
        confirmed = self._channels.get(channel)
        return confirmed is not None and _ended(confirmed) is None

    async def subscribe(self, channel: str) -> None:
        """
        Return once messages of *channel* arrive; one that was refused is asked for again.

        Raises:
            StoreError: The server refuses.
            StoreUnavailable: This was closed.
        """
        if self._closed:
            raise _closed()
        confirmed = self._channels.get(channel)
        if confirmed is None or isinstance(_ended(confirmed), StoreError):
            confirmed = self._channels[channel] = self._loop.create_future()
            if self._link is not None:
                self._link.write(pack(("SUBSCRIBE", channel)))
        await asyncio.shield(confirmed)

    def unsubscribe(self, channel: str) -> None:
        """Stop messages of *channel*."""
        confirmed = self._channels.pop(channel, None)
        if confirmed is not None:
            confirmed.cancel()
            if self._link is not None:
                self._link.write(pack(("UNSUBSCRIBE", channel)))

    async def close(self) -> None:
        """Drop the connection."""
        self._closed = True
        if self._ping is not None:
            self._ping.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._link is not None:
            self._link.close()
            self._link = None
        for confirmed in self._channels.values():
            _refuse(confirmed, _closed())

    async def _open(self) -> None:
        link = await Link.open(self._topology, self._on_reply, self._on_lost)
        if self._closed or self._link is not None:  # meanwhile
            link.close()
            if self._closed:
                raise _closed()
            return
        self._link = link
        self._heard = True
        for channel, confirmed in list(self._channels.items()):
            if confirmed.done():
                self._channels[channel] = self._loop.create_future()
            self._link.write(pack(("SUBSCRIBE", channel)))
        self._arm()
        reconnected, self._first = not self._first, False
        waits = list(self._channels.values())
        if waits:
            background(self._announce(waits, reconnected))
        else:
            self._on_subscribed(reconnected)

    async def _announce(self, waits: list[asyncio.Future[None]], reconnected: bool) -> None:
        await asyncio.wait(waits)
        if not self._closed:
            self._on_subscribed(reconnected)

    def _arm(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
        self._ping = later(self._loop, _PING, self._check)

    def _check(self) -> None:
        if self._link is None:
            return
        if not self._heard:
            self._link.close()
            self._on_lost(TimeoutError("no answer to a ping"))
            return
        self._heard = False
        self._link.write(pack(("PING",)))
        self._arm()

    def _on_reply(self, reply: Any) -> None:
        self._heard = True
        if isinstance(reply, Exception):  # which channel it belongs to is not said; a user may have all of ours or none
            for waiting in self._channels.values():
                _refuse(waiting, refusal(reply))
            return
        if not isinstance(reply, list) or len(reply) != 3:
            return
        kind, channel, data = reply
        if kind == b"message":
            self._on_message(channel.decode(), data)
        elif kind == b"subscribe":
            confirmed = self._channels.get(channel.decode())
            if confirmed is not None and not confirmed.done():
                confirmed.set_result(None)

    def _on_lost(self, _: Exception | None) -> None:
        self._link = None
        if not self._closed and (self._opening is None or self._opening.done()):
            self._opening = background(self._reopen())

    async def _reopen(self) -> None:
        delay = 0.005
        while not self._closed and self._link is None:
            try:
                await self._open()
            except StoreError:
                await asyncio.sleep(delay * (0.5 + random.random()))
                delay = min(delay * 2, 0.4)


def _refuse(confirmed: asyncio.Future[None], error: StoreError) -> None:
    if not confirmed.done():
        confirmed.set_exception(error)
        confirmed.exception()  # perhaps nobody waits any more


def _ended(confirmed: asyncio.Future[None]) -> BaseException | bool | None:
    """Return None where it was confirmed, how it was refused, or False while it is not known."""
    if not confirmed.done() or confirmed.cancelled():
        return False
    return confirmed.exception()


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the connection was closed")
