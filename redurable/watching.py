"""
What a client sees of intents as they go on: their history, their events, their progress. `Client` is one of these.

A watcher subscribes first, then reads, then waits; every reconnect reads again, and a slow re-check is the safety net.
What it was given it is never given again, and whoever names the place where he was goes on right behind it, in another
process too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from redurable.clock import now_ms
from redurable.codecs.base import Vault, shown
from redurable.errors import NotFound
from redurable.model import Entry, Status
from redurable.news import Event, Place, check_since
from redurable.reading import Connected, noted, opened
from redurable.store import journals, watching
from redurable.store.results import RECHECK

__all__ = ["Watching"]


class Watching:
    """The part of a client that watches."""

    async def _open(self) -> Connected:
        raise NotImplementedError

    async def observe(self, intent: str, since: int | str = 0) -> AsyncGenerator[tuple[str, Entry | Event], None]:
        """
        Give (place, what) as it happens, until *intent* has ended: entries of its history, events, its progress.

        A *place*, given as *since*, goes on right behind it: each entry and each event is given once, the progress
        whenever another stands. Connections that are lost meanwhile are made again. Entries and events come in their
        own order each, those found together by their times.

        Args:
            since: A place that was given before, or how many entries of the history to leave out.

        Raises:
            NotFound: There is no such intent.
            ConfigurationError: *since* is no place.
            StoreUnavailable: The server is away for longer than the client's patience; go on from the last place.
        """
        place = Place.of(since)
        connected = await self._open()
        async with contextlib.aclosing(_rounds(connected, intent)) as rounds:
            async for ended in rounds:
                async for now, what in _newer(connected, intent, place):
                    place = now
                    yield str(place), what
                if ended:
                    return

    async def stream(self, intent: str, name: str | None = None, since: int = 0) -> AsyncGenerator[Event, None]:
        """
        Give the events of *intent* as they come: what `emit` told, and the items of stream steps.

        Each (step, offset) is given once, or a "reset" says that it comes again; see `Event`. To go on after a
        disconnect, pass the `seq` of the last one as *since*.

        Args:
            name: Only of the step of this name, and of its first call that is met: "write"; or "write#2", the second.
                Then the stream ends with the stream step ("end" is the last event), else with the intent.
            since: The `seq` after which to begin.

        Raises:
            NotFound: There is no such intent; STREAM_NOT_FOUND: it ended, and no step of this name told anything.
            ConfigurationError: *since* is no number of an event.
            StoreUnavailable: As `observe`.
        """
        seq = check_since(since)
        connected = await self._open()
        step: str | None = None
        missed = since > 0
        async with contextlib.aclosing(_rounds(connected, intent)) as rounds:
            async for ended in rounds:
                async for event in _events(connected, intent, seq):
                    seq = event.seq
                    if event.kind == "dropped":
                        missed = True
                    elif name is not None:
                        if step is None and _called(event.step, name):
                            step = event.step
                        if event.step != step:
                            continue
                    yield event
                    if event.kind == "end" and step is not None:
                        return
                if ended and name is not None and step is None and not missed:
                    raise NotFound(
                        f"no step {name!r} of intent {intent} told anything", code="STREAM_NOT_FOUND",
                        hint="`redurable intents watch` shows what it told",
                    )  # fmt: skip


async def _newer(connected: Connected, intent: str, place: Place) -> AsyncIterator[tuple[Place, Entry | Event]]:
    """Give what there is behind *place* now."""
    store, vault = connected.store, connected.vault
    more = True
    while more:
        events = await watching.events(store, intent, place.events)
        more = len(events) >= watching.PAGE
        for seq, what in _merged(await journals.history(store, intent, place.entries), events):
            if isinstance(what, Event):
                place = place._replace(events=what.seq)
                yield place, await _readable(vault, what)
            else:
                place = place._replace(entries=seq)
                yield place, await shown(vault, what)
    progress, at = await watching.progress_at(store, intent)
    if progress is not None and place.seen(progress) != place:
        yield place.seen(progress), Event(kind="progress", at=at or now_ms(), value=await noted(vault, progress))


async def _events(connected: Connected, intent: str, since: int) -> AsyncIterator[Event]:
    """Give the events that there are after number *since* now."""
    more = True
    while more:
        events = await watching.events(connected.store, intent, since)
        more = len(events) >= watching.PAGE
        for event in events:
            since = event.seq
            yield await _readable(connected.vault, event)


async def _rounds(connected: Connected, intent: str) -> AsyncGenerator[bool, None]:
    """Give whether *intent* has ended: now, and whenever there is news of it; once it has, for the last time."""
    store, results = connected.store, connected.results
    news = await results.watch(intent)
    try:
        while True:
            news.clear()
            status = (await store.watch(intent)).decode()
            if status == "NOT_FOUND":
                raise NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
            ended = Status(status).final
            yield ended
            if ended:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK):
                    await news.wait()
    finally:
        results.unwatch(intent, news)


def _merged(entries: list[tuple[int, Entry]], events: list[Event]) -> list[tuple[int, Entry | Event]]:
    """Return both by time, each in its own order."""
    found: list[tuple[int, Entry | Event]] = []
    left = list(reversed(events))
    for seq, entry in entries:
        while left and left[-1].at <= entry.at:
            found.append((0, left.pop()))
        found.append((seq, entry))
    return found + [(0, event) for event in reversed(left)]


def _called(step: str, name: str) -> bool:
    """Return whether *step* is a call of the step *name*, "name" or "name#n", in whatever branch."""
    step = step.split("@", 1)[0] if "@" not in name else step
    plain = step.rpartition("#")[0]
    return any(text == name or text.endswith(f"/{name}") for text in (step, plain) if text)


async def _readable(vault: Vault | None, event: Event) -> Event:
    """Return *event* with its value as plain data; what cannot be opened says so."""
    return msgspec.structs.replace(event, value=await opened(vault, bytes(event.value)))
