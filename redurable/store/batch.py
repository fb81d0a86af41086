"""
What the multiplexer sends: a plain command, or a script with the items of several calls.

Each has whom to answer; an answer or a failure is given to each of them once. One that fails to take its answer keeps
nobody else from theirs.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import hiredis

from redurable.clock import monotonic
from redurable.events import emit
from redurable.store.link import pack
from redurable.store.refusals import refusal
from redurable.store.scripts import Script

__all__ = ["Batch", "Command", "Sink"]


class Sink(Protocol):
    """What an answer is given to: a future, or an object that must hear it even when nobody waits any more."""

    def done(self) -> bool: ...
    def set_result(self, reply: Any, /) -> None: ...
    def set_exception(self, error: Exception, /) -> None: ...


class Command:
    """A command that stands alone."""

    __slots__ = ("born", "futures", "packed")

    def __init__(self, packed: bytes, future: asyncio.Future[Any]) -> None:
        self.packed = packed
        self.futures: list[Sink] = [future]
        self.born = monotonic()

    def answer(self, reply: Any) -> None:
        """Give *reply*, or the error that it is, to whoever asked; ValueError: it cannot be theirs."""
        future = self.futures[0]
        if not future.done():
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(refusal(reply))
            else:
                future.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Give *error* to everyone who asked."""
        for future in self.futures:
            if not future.done():
                future.set_exception(error)
                if isinstance(future, asyncio.Future):
                    future.exception()  # whoever wanted it may be gone: not worth a report at exit


class Batch(Command):
    """A script, and the items gathered for it until it is sealed."""

    __slots__ = ("args", "keys", "loads", "script")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.loads = 0
        self.keys: list[Any] = []
        self.args: list[Any] = []
        self.futures = []
        self.packed = b""
        self.born = monotonic()

    def seal(self, clock: str) -> None:
        """Pack what was gathered; *clock* is the time in us that the script sees, "" for the server's own."""
        self.packed = pack(("EVALSHA", self.script.sha, len(self.keys), *self.keys, clock, *self.args))
        self.keys, self.args = [], []

    def answer(self, reply: Any) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self.fail(refusal(reply))
            return
        if not isinstance(reply, list) or len(reply) != len(self.futures):
            raise ValueError("not this script's")
        for future, item in zip(self.futures, reply, strict=True):
            if not future.done():
                try:
                    if isinstance(item, hiredis.ReplyError):
                        future.set_exception(refusal(item))
                    else:
                        future.set_result(item)
                except Exception as error:
                    emit("task.failed", task="an answer", error=error)
                    future.set_exception(error)
