"""
Stream steps: an async generator whose items are recorded, replayed, and told to whoever watches as they come.

Two kinds, by what a body can do that has to run again after its worker died, or after it raised:

- it begins anew (the default; an LLM's answer): the call is one step, recorded when the body has ended, as the list of
  its items. The handler is given them then, so nothing that it did with one is ever undone; watchers see each at once,
  and a reset if the body has to begin anew;
- it goes on (`resume=True`; pages of a table): items are recorded in chunks, each a step of its own, and the handler is
  given them chunk by chunk. A body that runs again asks `resume_offset` how many are recorded, and yields what follows.
  A chunk ends with the first item that comes `PACE` after it was asked for, or when it is large.

Invariants: the handler sees an item once it is recorded, and the same ones on every replay; watchers are told of it
before it is recorded, and of the end after that is.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from types import GenericAlias
from typing import Any, Generic, TypeVar, get_args, get_origin

from redurable.codec import NIL, Typed, encode, typed
from redurable.errors import ConfigurationError, PayloadTooLarge, StepFailed, UsageError
from redurable.journal.cursor import INSIDE, inside_of
from redurable.journal.fingerprint import fingerprint
from redurable.news import pack
from redurable.runtime.bodies import on_loop
from redurable.runtime.scope import Scope, current_scope, scope_var
from redurable.runtime.spec import StepSpec, remember, return_annotation
from redurable.runtime.steps import perform
from redurable.runtime.telling import ENDED, telling_of

__all__ = ["Stream", "lasting_place", "resume_offset", "stream_step"]

T = TypeVar("T")
PACE = 0.1  # s
CHUNK_BYTES, CHUNK_ITEMS = 262_144, 1000
_STREAMS = (AsyncIterator, AsyncGenerator, AsyncIterable)
_pulled: ContextVar[Stream[Any] | None] = ContextVar("redurable_pulled", default=None)


class _Spec(StepSpec):
    """The spec of what a stream step records: *shape* makes its annotation out of that of an item."""

    __slots__ = ("_shape", "_source")

    def __init__(self, body: Callable[..., Any], source: Callable[..., Any], shape: Any, **options: Any) -> None:
        super().__init__(body, **options)
        self.code = fingerprint(source)
        self._source, self._shape = source, shape

    @property
    def typed(self) -> Typed:
        """The codec of what is recorded."""
        if self._typed is None:
            annotation = return_annotation(self._source)
            item = get_args(annotation)[0] if get_origin(annotation) in _STREAMS else Any
            self._typed = typed(self._shape(item))
        return self._typed


def _list_of(item: Any) -> Any:
    return GenericAlias(list, (item,))


def stream_step(function: Callable[..., Any], resume: bool, run_in: str | None, **options: Any) -> Callable[..., Any]:
    """Return the async generator function *function* as a stream step."""
    if run_in not in (None, "loop"):
        raise ConfigurationError(
            f"step {function.__qualname__} is async and runs on the loop", code="BAD_HANDLER",
            hint="make it a plain def that returns a list to run it elsewhere",
        )  # fmt: skip

    @functools.wraps(function)
    async def collect(*args: Any, **kwargs: Any) -> list[Any]:
        return await _collected(function(*args, **kwargs))

    @functools.wraps(function)
    async def pull(*args: Any, **kwargs: Any) -> tuple[list[Any], bool]:
        stream = _pulled.get()
        assert stream is not None
        return await stream.pull(lambda: function(*args, **kwargs))

    whole = _Spec(collect, function, _list_of, **options)
    chunk = (
        _Spec(pull, function, lambda item: GenericAlias(tuple, (_list_of(item), bool)), **options) if resume else None
    )
    what = f"step {whole.name!r}"

    @functools.wraps(function)
    def call_stream(*args: Any, **kwargs: Any) -> Any:
        if (scope_var.get() or current_scope(what)) is None:
            return function(*args, **kwargs)
        return Stream[Any](whole, chunk, args, kwargs)

    remember(call_stream, whole)
    call_stream.__redurable_step__ = True  # type: ignore[attr-defined]  # our own mark: a step is no handler
    return call_stream


async def _collected(source: AsyncGenerator[Any, None]) -> list[Any]:
    """Return all items of *source*, in the body of a step; tell each as it comes."""
    scope = scope_var.get()
    assert scope is not None
    telling, part = telling_of(scope), f"i:{scope.place().removesuffix(INSIDE)}"
    telling.say(part, "begin", 0)
    items: list[Any] = []
    size, limit = 0, scope.attempt.limit
    async with aclosing(source):
        async for item in source:
            data = encode(item, "an item of a stream", limit)
            size += len(data)
            if size > limit:
                raise PayloadTooLarge(
                    f"the items of a stream are more than {limit:,} bytes",
                    hint="record them as they come, by @step(resume=True), or raise REDURABLE_MAX_PAYLOAD (bytes)",
                )
            telling.say(part, "item", len(items), data)
            items.append(item)
    return items


class Stream(Generic[T]):
    """
    The items of one call of a stream step: `async for item in generate(...)`, in a plain handler `for item in ...`.

    Attributes:
        began: How many items were recorded when its body began, the last time.
        place, now: Where the body is for its checkpoints and idempotency keys, and for what it calls.
    """

    def __init__(self, whole: StepSpec, chunk: StepSpec | None, args: Any, kwargs: Any) -> None:
        self.began = 0
        self.place = ""
        self.now = ""
        self._whole, self._chunk = whole, chunk
        self._args, self._kwargs = args, kwargs
        self._part = ""
        self._chunks = 0
        self._offset = 0  # items recorded
        self._ready: deque[Any] = deque()
        self._over = False
        self._source: AsyncGenerator[Any, None] | None = None
        self._broken: Exception | None = None

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            scope = current_scope(f"step {self._whole.name!r}")
            if scope is None:
                raise UsageError(
                    f"the items of step {self._whole.name!r} were asked for outside of its intent",
                    code="OUTSIDE_INTENT",
                )
            if self._chunk is None or self._chunk.name in scope.attempt.stand_ins:
                await self._all(scope)
            else:
                await self._more(scope, self._chunk)
        item: T = self._ready.popleft()
        return item

    async def aclose(self) -> None:
        """End it: no more items are asked for."""
        self._over = True
        self._ready.clear()
        await self._close()

    def __iter__(self) -> Iterator[T]:
        from redurable.runtime.calls import scope_of_thread

        over: Any = object()
        scope = scope_of_thread(f"step {self._whole.name!r}")
        if scope is None:
            raise UsageError(f"`for` over step {self._whole.name!r}, outside of its intent", code="OUTSIDE_INTENT")

        async def following() -> Any:
            scope_var.set(scope)
            return await anext(self, over)

        while (item := on_loop(scope.attempt.loop, following())) is not over:
            yield item

    async def _all(self, scope: Scope) -> None:
        spec = self._whole
        n = spec.number(scope, self._args, self._kwargs)
        part = _part_of(scope, spec, n)
        token = _pulled.set(None)
        try:
            items = await perform(scope, spec, n, self._args, self._kwargs)
        except StepFailed as failure:
            self._over = True
            await _tell_end(scope, part, None, failure)
            raise
        finally:
            _pulled.reset(token)
        await _tell_end(scope, part, items)
        self._ready.extend(items)
        self._over = True

    async def _more(self, scope: Scope, spec: StepSpec) -> None:
        n = spec.number(scope, self._args, self._kwargs)
        if isinstance(n, str) and self._chunks:
            n = f"{n}+{self._chunks}"
        self._chunks += 1
        if not self._part:
            self._part = _part_of(scope, spec, n)
            self.place = f"{self._part[2:]}{INSIDE}"
        token = _pulled.set(self)
        try:
            items, more = await perform(scope, spec, n, self._args, self._kwargs)
        except StepFailed as failure:
            self._over = True
            await _tell_end(scope, self._part, None, failure)
            raise
        finally:
            _pulled.reset(token)
        self._offset += len(items)
        self._ready.extend(items)
        if not more:
            self._over = True
            telling = telling_of(scope)
            if await telling.reached(self._part) != ENDED:
                telling.say(self._part, "end", self._offset)

    async def pull(self, begin: Callable[[], AsyncGenerator[Any, None]]) -> tuple[list[Any], bool]:
        """Return the next items of the body, in the step of a chunk, and whether there may be more."""
        scope = scope_var.get()
        assert scope is not None
        telling, self.now = telling_of(scope), scope.place()
        if self._broken is not None:
            broken, self._broken = self._broken, None
            raise broken
        if self._source is None:
            telling.say(self._part, "begin", self._offset)
            self.began, self._source = self._offset, begin()
        items: list[Any] = []
        size, most = 0, min(CHUNK_BYTES, scope.attempt.limit // 2)
        clock = asyncio.get_running_loop().time
        until = clock() + PACE
        try:
            while True:
                item = await anext(self._source)
                data = encode(item, "an item of a stream", scope.attempt.limit)
                telling.say(self._part, "item", self._offset + len(items), data)
                items.append(item)
                size += len(data)
                if size >= most or len(items) >= CHUNK_ITEMS or clock() >= until:
                    return items, True
        except StopAsyncIteration:
            self._source = None
            return items, False
        except Exception as error:
            await self._close()
            if not items:
                raise
            self._broken = error  # what came before it is recorded first
            return items, True
        except BaseException:
            self._source = None
            raise

    async def _close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            await source.aclose()


def _part_of(scope: Scope, spec: StepSpec, n: int | str) -> str:
    place = scope.place_of(n)
    return f"i:{inside_of((place, spec.name, n)).removesuffix(INSIDE)}"


async def _tell_end(scope: Scope, part: str, items: list[Any] | None, failure: StepFailed | None = None) -> None:
    """Tell that a stream is over, and before it those of its *items* that nobody told (a stub's, say)."""
    telling = telling_of(scope)
    reached = await telling.reached(part)
    if reached == ENDED:
        return
    for at, item in enumerate(items or ()):
        if at >= reached:
            telling.say(part, "item", at, encode(item, "an item of a stream"))
    count = reached if items is None else len(items)
    telling.say(part, "end", count, NIL if failure is None else pack(failure.type))


def lasting_place(scope: Scope) -> str:
    """Return the place that checkpoints and idempotency keys are named by: for all chunks of a stream the same."""
    place, stream = scope.place(), _pulled.get()
    return stream.place if stream is not None and stream.now == place else place


def resume_offset() -> int:
    """
    Return, in the body of a stream step, how many of its items are recorded: it goes on after them.

    0 the first time, in a body that always begins anew (without `resume=True`), and outside an intent.

    Raises:
        UsageError: In a handler, but in no step.
    """
    scope = current_scope("resume_offset()")
    stream = _pulled.get()
    if scope is not None and not scope.inside:
        raise UsageError("resume_offset() is for the body of a stream step; it was called outside of one")
    return 0 if stream is None else stream.began
