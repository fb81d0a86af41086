"""
One connection to Redis: redis-py opens, secures and authenticates it, then its transport speaks our protocol.

Invariants: replies reach `on_reply` in the order of the commands; after `on_lost` nothing more comes and writes
are dropped; a link is used by one event loop. RESP2, so that a pub/sub link and a command link read alike.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import hiredis

from redurable.clock import monotonic
from redurable.store.topology import Topology, translated

__all__ = ["Link", "pack"]

pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command  # its stub knows tuples of one


class Link(asyncio.Protocol):
    """A connection whose commands are packed bytes and whose replies are parsed objects (errors included)."""

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[Exception | None], None]) -> None:
        self._on_reply = on_reply
        self._on_lost = on_lost
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._keep: Any = None
        self._fd = -1  # of the socket, where what it says can be read past the transport

    @classmethod
    async def open(
        cls,
        topology: Topology,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[Exception | None], None],
    ) -> Link:
        """
        Return a connected, authenticated link.

        Raises:
            StoreUnavailable: It could not be opened; nothing is left behind.
        """
        link = cls(on_reply, on_lost)
        connection = topology.connection()
        try:
            await connection.connect()
            # redis-py has no public way to give its transport away
            transport = connection._writer.transport
            if transport.is_closing() or connection._reader.at_eof():
                raise ConnectionResetError("closed by the server")
        except BaseException as error:
            await connection.disconnect(nowait=True)
            ours = translated(error, topology.address)
            if ours is error:
                raise
            raise ours from error
        link._keep = connection  # its finaliser would close the socket
        link._transport = transport
        transport.set_protocol(link)
        transport.set_write_buffer_limits(0)  # uvloop then writes at once, as asyncio does, not when the turn ends
        transport.resume_reading()
        if transport.get_extra_info("ssl_object") is None:
            link._fd = transport.get_extra_info("socket").fileno()
        return link

    @property
    def peer(self) -> str:
        """The server's IP address; "" over a unix socket, or when the connection is gone."""
        found = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(found[0]) if isinstance(found, tuple) else ""

    def write(self, data: bytes) -> None:
        """Send packed commands."""
        if self._transport is not None:
            self._transport.write(data)

    def poll(self, seconds: float) -> bool:
        """
        Read for up to *seconds* without giving the loop its turn; whether anything came.

        An end or an error of the connection is left for the transport to find.
        """
        transport = self._transport
        if self._fd < 0 or transport is None or transport.is_closing():
            return False
        until = monotonic() + seconds
        while True:
            try:
                data = os.read(self._fd, 4096)
            except BlockingIOError:
                if monotonic() < until:
                    continue
                return False
            except OSError:
                return False
            if data:
                self.data_received(data)
            return data != b""

    def close(self) -> None:
        """Drop the connection; `on_lost` is not called."""
        self._on_lost = _nothing
        self._on_reply = _nothing
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
            self._keep._reader = self._keep._writer = None

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        on_reply = self._on_reply
        try:
            reply = reader.gets()
            while reply is not False:
                on_reply(reply)
                reply = reader.gets()
        except hiredis.ProtocolError as error:
            self._lost(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)

    def _lost(self, exc: Exception | None) -> None:
        on_lost = self._on_lost
        self.close()
        on_lost(exc)


def _nothing(_: Any) -> None:
    return None
