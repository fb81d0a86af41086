"""
A TCP proxy between a client and a server that does what networks do: cuts, delays, goes silent, loses an answer.

It runs in the loop of the test. All switches act on the connections that are open and on those to come.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Proxy"]

_QUIET = 0.02  # s without an answer, after which the server is taken to have answered all it was sent


class _Pair:
    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far
        self.losing: asyncio.Future[None] | None = None

    def cut(self) -> None:
        for writer in (self.near, self.far):
            writer.transport.abort()


class Proxy:
    """
    A proxy before the server at (*host*, *port*), or at the socket *path*.

    Attributes:
        port: Where it listens on 127.0.0.1.
        accepting: False closes every new connection at once.
        latency: Seconds that every chunk is late, each way.
        connections: How many were ever accepted.
        sent: Bytes that clients sent through it.
    """

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1", path: str | None = None) -> None:
        self._target = (host, port)
        self._path = path
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._traps: list[tuple[bytes, asyncio.Future[None]]] = []
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepting = True
        self.latency = 0.0
        self.connections = 0
        self.sent = 0

    @property
    def url(self) -> str:
        """The URL of the server through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._pairs)

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> int:
        """Reset every open connection, both ways; return how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()
        return len(pairs)

    def freeze(self) -> None:
        """Let nothing pass in any direction, and close nothing: a cable that was pulled."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let everything pass again, also what was kept meanwhile."""
        self._flowing.set()

    def lose_answer(self, to: bytes = b"") -> asyncio.Future[None]:
        """
        Cut the next connection that sends something with *to* in it, once the server has executed and answered it.

        The answers are thrown away. The future is done when the connection is cut.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._traps.append((to, done))
        return done

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.accepting:
            near.transport.abort()
            return
        try:
            if self._path:
                far_reader, far = await asyncio.open_unix_connection(self._path)
            else:
                far_reader, far = await asyncio.open_connection(*self._target)
        except OSError:
            near.transport.abort()
            return
        pair = _Pair(near, far)
        self._pairs.add(pair)
        pumps = [
            asyncio.create_task(self._pump(pair, reader, far, outward=True)),
            asyncio.create_task(self._pump(pair, far_reader, near, outward=False)),
        ]
        self._tasks.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        pair.cut()
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        self._tasks.difference_update(pumps)
        self._pairs.discard(pair)

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outward: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self.latency:
                    await asyncio.sleep(self.latency)
                await self._flowing.wait()
                if outward:
                    self.sent += len(data)
                    self._spring(pair, data)
                elif pair.losing is not None:
                    await self._swallow(pair, reader)
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            return

    def _spring(self, pair: _Pair, data: bytes) -> None:
        for trap in self._traps:
            if trap[0] in data:
                pair.losing = trap[1]
                self._traps.remove(trap)
                return

    async def _swallow(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        try:
            while await asyncio.wait_for(reader.read(1 << 16), _QUIET):
                pass
        except TimeoutError:
            pass
        pair.cut()
        assert pair.losing is not None
        if not pair.losing.done():
            pair.losing.set_result(None)
