"""The blocking twin of `redurable.watching`: iterators that wait. `redurable.sync.Client` is one of these."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

from redurable import client as _client
from redurable.model import Entry
from redurable.news import Event

__all__ = ["Following"]

T = TypeVar("T")
_OVER = object()


class Following:
    """The part of a blocking client that watches."""

    _client: _client.Client

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        raise NotImplementedError

    def observe(self, intent: str, since: int | str = 0) -> Iterator[tuple[str, Entry | Event]]:
        """Give (place, what) as it happens, until *intent* has ended; see `redurable.Client.observe`."""
        return self._follow(self._client.observe(intent, since))

    def stream(self, intent: str, name: str | None = None, since: int = 0) -> Iterator[Event]:
        """Give the events of *intent* as they come; see `redurable.Client.stream`."""
        return self._follow(self._client.stream(intent, name, since))

    def _follow(self, source: AsyncGenerator[T, None]) -> Iterator[T]:
        async def following() -> Any:
            return await anext(source, _OVER)

        try:
            while (item := self._wait(following())) is not _OVER:
                yield item
        finally:
            self._wait(source.aclose())
