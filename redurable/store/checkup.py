"""
What a server is asked before work is trusted to it: its settings, its state, and a rehearsal of our commands.

Nothing is written. The rehearsal queues every command that redurable uses behind a MULTI and discards the lot: the
server says of each one what it would say in earnest (NOPERM, OOM, READONLY, ...), and runs none. One connection of its
own, on which nothing is ever sent twice, and three round trips; what the server will not tell is None, never a guess.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import msgspec

from redurable.config import Address
from redurable.errors import StoreUnavailable
from redurable.store.inspection import WorkerInfo
from redurable.store.keys import GROUP, Keys, meta_key
from redurable.store.link import Link, pack
from redurable.store.refusals import PATIENCE
from redurable.store.scripts import load_all
from redurable.store.topology import Topology

__all__ = ["SETTINGS", "Facts", "examine", "rehearsed"]

# CONFIG GET of these alone: the whole of it has the passwords in it
SETTINGS = (
    "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "stop-writes-on-bgsave-error", "maxmemory",
    "maxmemory-policy", "maxclients", "timeout", "tcp-keepalive", "client-output-buffer-limit",
    "min-replicas-to-write", "min-replicas-max-lag",
)  # fmt: skip
_WITHIN = 5.0  # s for an answer
# what the Python side sends by itself, beside what the scripts do
_OURS = (
    "EVALSHA", "EXISTS", "GET", "HDEL", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HSETNX", "LLEN", "LRANGE", "MGET",
    "PUBLISH", "SCAN", "SMEMBERS", "SUBSCRIBE", "TIME", "UNLINK", "UNSUBSCRIBE", "XACK", "XLEN", "XPENDING", "XRANGE",
    "ZADD", "ZCARD", "ZMSCORE", "ZRANDMEMBER", "ZRANGE", "ZRANGEBYSCORE", "ZRANK", "ZREM", "ZREVRANGE",
)  # fmt: skip
_OURS_OF_TWO = (("MEMORY", "USAGE"), ("PUBSUB", "NUMSUB"), ("SCRIPT", "LOAD"), ("XINFO", "GROUPS"))
_CONTAINERS = {"MEMORY", "PUBSUB", "SCRIPT", "XGROUP", "XINFO"}
_CALL = re.compile(rb"redis\.p?call\(\s*'([A-Z]+)'(?:,\s*'([A-Z]+)')?")
_LONGEST = 5  # arguments that a command of ours needs at least


@dataclass(frozen=True, slots=True)
class Facts:
    """
    What one server said of itself.

    Attributes:
        info: The fields of INFO; empty when it is forbidden.
        config: The settings of `SETTINGS` that it has; None when CONFIG is forbidden.
        ahead: Seconds that its clock is ahead of this machine's, sure to half a `round_trip`.
        round_trip: Seconds that the first question took.
        pings: Seconds that each of some PINGs took.
        meta: Format and partitions of the namespace as stored; None when there is no such namespace.
        refused: What it would not do now: command -> the error's text. None when it could not be asked.
        workers: The namespace's registered workers, with whether each is alive.
        near: How far it is: "here" (a socket, loopback), "private" or "public" by its IP address.
    """

    address: Address
    namespace: str
    info: Mapping[str, str]
    config: Mapping[str, str] | None
    ahead: float | None
    round_trip: float
    pings: tuple[float, ...]
    meta: tuple[str | None, str | None] | None
    refused: Mapping[str, str] | None
    workers: tuple[WorkerInfo, ...]
    near: str


async def examine(address: Address, namespace: str, *, pings: int = 0) -> Facts:
    """
    Ask the server at *address*; with *pings* also how fast it answers, and who works there.

    Raises:
        StoreUnavailable: It cannot be reached, refuses the credentials, or stopped answering.
        ConfigurationError: BAD_URL: Sentinel or Cluster, which this version does not serve.
    """
    line = await _Line.open(Topology(address))
    try:
        return await _examine(line, address, namespace, pings)
    finally:
        line.close()


async def _examine(line: _Line, address: Address, namespace: str, pings: int) -> Facts:
    keys = Keys(namespace, 0)
    begun, wall = time.perf_counter(), time.time()
    clock, info, meta, *settings, multi = await line.ask([
        ("TIME",), ("INFO",), ("HMGET", meta_key(namespace), "format", "partitions"),
        *(("CONFIG", "GET", name) for name in SETTINGS), ("MULTI",),
    ])  # fmt: skip
    config = [part for reply in settings if not _is_error(reply) for part in reply]
    took = time.perf_counter() - begun
    ahead = None if _is_error(clock) else int(clock[0]) + int(clock[1]) / 1e6 - wall - took / 2
    refused = None
    if not _is_error(multi):
        commands = list(rehearsed(f"{keys.prefix}rehearsal"))
        replies = await line.ask([words for _, words in commands] + [("DISCARD",)])
        # the arity of each is found by trying: the wrong ones are errors of another kind
        wanted = ("NOPERM", *PATIENCE)
        told = ((name, str(reply)) for (name, _), reply in zip(commands, replies, strict=False) if _is_error(reply))
        refused = {name: text for name, text in told if text.startswith(wanted)}
    times = []
    for _ in range(pings):
        begun = time.perf_counter()
        await line.ask([("PING",)])
        times.append(time.perf_counter() - begun)
    there = not _is_error(meta) and any(value is not None for value in meta)
    return Facts(
        address=address,
        namespace=namespace,
        info={} if _is_error(info) else _fields(info.decode("utf-8", "replace")),
        config=_pairs(config) if config else None,
        ahead=ahead,
        round_trip=took,
        pings=tuple(times),
        meta=(_text(meta[0]), _text(meta[1])) if there else None,
        refused=refused,
        workers=await _workers(line, keys) if pings and there else (),
        near=_distance(address, line.peer),
    )


def rehearsed(key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give each command that redurable uses, by name and in every length that it may have, on *key* alone."""
    found = {(name.decode(), word.decode()) for s in load_all().values() for name, word in _CALL.findall(s.source)}
    found |= {(name, "") for name in _OURS} | set(_OURS_OF_TWO)
    for name, word in sorted(found):
        if name == "XREADGROUP":
            yield name, (name, "GROUP", GROUP, "w", "STREAMS", key, ">")
        elif name == "EVALSHA":
            yield name, (name, key, "1", key)
        else:
            start = (name, word) if name in _CONTAINERS else (name,)
            for count in range(_LONGEST + 1):
                yield " ".join(start), (*start, *(key,) * count)


async def _workers(line: _Line, keys: Keys) -> tuple[WorkerInfo, ...]:
    (rows,) = await line.ask([("HGETALL", keys.workers)])
    if _is_error(rows):
        return ()
    found = []
    for name, value in zip(rows[::2], rows[1::2], strict=True):
        with contextlib.suppress(msgspec.MsgspecError):  # another version's; whoever can read it counts it
            if not name.endswith(b"#"):
                found.append(msgspec.msgpack.decode(value, type=WorkerInfo))
    (seen,) = await line.ask([("PUBSUB", "NUMSUB", *(keys.liveness(worker.id) for worker in found))])
    counts = (0,) * len(found) if _is_error(seen) else seen[1::2]
    return tuple(msgspec.structs.replace(w, alive=n > 0) for w, n in zip(found, counts, strict=True))


def _fields(text: str) -> dict[str, str]:
    return {name: value for name, colon, value in (line.partition(":") for line in text.splitlines()) if colon}


def _pairs(reply: Sequence[bytes]) -> dict[str, str]:
    texts = [value.decode("utf-8", "replace") for value in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _is_error(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError)


def _distance(address: Address, peer: str) -> str:
    if address.kind == "unix":
        return "here"
    try:
        place = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return "public"
    return "here" if place.is_loopback else "private" if place.is_private else "public"


class _Line:
    """A connection on which questions are asked in flushes; when it is lost, so is the examination."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._topology: Topology
        self._link: Link
        self._lost: Exception | None = None

    @classmethod
    async def open(cls, topology: Topology) -> _Line:
        line = cls()
        line._topology = topology
        line._link = await Link.open(topology, line._on_reply, line._on_lost)
        return line

    @property
    def peer(self) -> str:
        """The server's IP address, "" for a socket."""
        return self._link.peer

    async def ask(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Return the replies to *commands*, errors among them."""
        if self._lost is not None:
            raise self._lost
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in commands]
        self._waiting.extend(futures)
        self._link.write(b"".join(pack(words) for words in commands))
        try:
            async with asyncio.timeout(_WITHIN):
                return [await future for future in futures]
        except TimeoutError:
            raise self._unavailable(f"no answer for {_WITHIN:g} s") from None

    def close(self) -> None:
        self._link.close()

    def _on_reply(self, reply: Any) -> None:
        future = self._waiting.popleft()
        if not future.done():
            future.set_result(reply)

    def _on_lost(self, error: Exception | None) -> None:
        self._lost = self._unavailable(str(error or "closed by the server"))
        for future in self._waiting:
            if not future.done():
                future.set_exception(self._lost)
                future.exception()  # those behind the first are not looked at

    def _unavailable(self, reason: str) -> StoreUnavailable:
        return StoreUnavailable(f"the connection to {self._topology.address.display} was lost: {reason}")
