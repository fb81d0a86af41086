"""
Who is outside an intent in memory: the one that resolves its promises, and the children that it calls.

A promise is answered when the handler comes to wait for it, once a turn; a child is run once, where it is called.
What a test got wrong in what it gives is kept as `error`, since the engine would take it for the handler's.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from typing import Any

import msgspec

from redurable.codec import encode
from redurable.errors import ConfigurationError, IntentFailed, SerialisationError
from redurable.forms import Ask
from redurable.ids import promise_text
from redurable.model import ErrorInfo, Status
from redurable.runtime.handlers import spec_of
from redurable.testing.memory import MemoryIntent

__all__ = ["Outside"]

_decode_ask = msgspec.msgpack.Decoder(Ask).decode
Child = Callable[[str, Any, bool], Coroutine[Any, Any, None]]


class Outside:
    """
    What a test says of the world around *intent*.

    Args:
        resolve: By a promise's name, or name#index: its value, an exception to reject it with, or a function that
            returns or raises one.
        children: By queue or handler: the result of calls to it, an exception that fails them, or a function, async or
            not, called with the payload.
    """

    def __init__(self, resolve: Mapping[str, Any], children: Mapping[Any, Any]) -> None:
        self.error: Exception | None = None
        self._answers = dict(resolve)
        if wrong := [name for name in self._answers if not isinstance(name, str)]:
            raise ConfigurationError(f"resolve= is by the names of promises, not by {wrong[0]!r}")
        self._stubs = {key if isinstance(key, str) else spec_of(key).queue: stub for key, stub in children.items()}
        self._answered: set[tuple[int, str]] = set()
        self._used: set[str] = set()
        self._asked_for: dict[str, bool] = {}  # key -> whether it was answered
        self._called: set[str] = set()
        self._ended: dict[str, tuple[Any, ErrorInfo | None, Status]] = {}

    def attach(self, intent: MemoryIntent) -> dict[str, Child]:
        """Answer what *intent* asks for; return what stands in for the children that it calls."""
        self._intent = intent
        intent.on_ask = self._asked
        return {f"call {queue}": self._child(queue, stub) for queue, stub in self._stubs.items()}

    def unused(self, came_so_far: bool) -> str:
        """
        Say what the test gave and nobody asked for, "" if that is nothing, or no wonder.

        It is a wonder when the handler *came_so_far* as it can, or has asked for something else that nobody answered.
        """
        told = []
        unmet = [promise_text(key) for key, answered in self._asked_for.items() if not answered]
        if (names := [name for name in self._answers if name not in self._used]) and (came_so_far or unmet):
            asked = ", ".join(promise_text(key) for key in self._asked_for) or "nothing"
            told.append(f"resolve= has {', '.join(map(repr, names))}, the handler asked for: {asked}")
        if came_so_far and (queues := [queue for queue in self._stubs if queue not in self._called]):
            called = ", ".join(sorted(self._called)) or "nothing"
            told.append(f"children= has {', '.join(map(repr, queues))}, the handler called: {called}")
        return "; ".join(told)

    def _asked(self, key: str) -> None:
        name = key.rpartition("#")[0]
        found = next((k for k in (key, name) if k in self._answers), None)
        self._asked_for[key] = found is not None
        if found is not None:
            self._used.add(found)
        place = int(self._intent.head.get("turn", 1)), key
        if found is not None and place not in self._answered:
            self._answered.add(place)
            asyncio.get_running_loop().call_soon(self._answer, key, self._answers[found], context=Context())

    def _answer(self, key: str, answer: Any) -> None:
        value, error = None, _raised(answer)
        if error is None:
            try:
                value = answer() if callable(answer) else answer
            except Exception as raised:
                error = raised
        about = self._intent.asks.get(key, b"")
        outcomes = _decode_ask(about).outcomes if about else ()
        if outcomes and error is None:
            value = value if isinstance(value, dict) else {"outcome": value}
            if value.get("outcome") not in outcomes:
                self.error = ConfigurationError(
                    f"resolve= answers approval {promise_text(key)!r} with {value.get('outcome')!r}; it allows "
                    f"{', '.join(outcomes)}",
                    code="BAD_OUTCOME",
                )
                return
        try:
            encode(value, f"resolve={{{promise_text(key)!r}: ...}}")
        except SerialisationError as refused:
            self.error = refused
            return
        self._intent.resolve(key, value, None if error is None else ErrorInfo.of(error))

    def _child(self, queue: str, stub: Any) -> Child:
        async def child(id: str, payload: Any, waited: bool) -> None:
            self._called.add(queue)
            if id not in self._ended:
                self._ended[id] = await self._run(stub, payload)
            if waited:
                self._intent.resolve(id, *self._ended[id])

        return child

    async def _run(self, stub: Any, payload: Any) -> tuple[Any, ErrorInfo | None, Status]:
        try:
            if (given := _raised(stub)) is not None:
                raise given
            value = stub(payload) if callable(stub) else stub
            value = await value if inspect.isawaitable(value) else value
        except IntentFailed as failed:
            return None, failed.error or ErrorInfo.of(failed), Status(failed.status)
        except Exception as error:
            return None, ErrorInfo.of(error), Status.FAILED
        try:
            encode(value, "a result in children=")
        except SerialisationError as refused:
            self.error = refused
            return None, ErrorInfo.of(refused), Status.FAILED
        return value, None, Status.COMPLETED


def _raised(stub: Any) -> Exception | None:
    """Return the exception that *stub* stands for."""
    if isinstance(stub, type) and issubclass(stub, Exception):
        return stub()
    return stub if isinstance(stub, Exception) else None
