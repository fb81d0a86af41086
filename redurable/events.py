"""
What the floors below tell the floors above, without knowing them.

What comes tens of thousands of times a second and has only numbers to tell is not emitted: it is put into lists that
whoever asked for them empties (`gather`, `gathered`), at a tenth of the price.

A lower floor calls `emit("step.recorded", intent=..., step=...)`; telemetry and tests subscribe. Invariants: a
subscriber that raises is logged once and never disturbs the emitter; an event that nobody asks for costs a look into
a dict. Names are `noun.verb-past`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Numbers", "Subscriber", "emit", "gather", "gathered", "subscribe", "wanted"]


class Numbers(dict[str, list[float]]):
    """Lists of numbers by name; a name that is new begins an empty one."""

    def __missing__(self, name: str) -> list[float]:
        found = self[name] = []
        return found


Subscriber = Callable[[str, dict[str, Any]], None]
_everything: tuple[Subscriber, ...] = ()
_named: dict[str, tuple[Subscriber, ...]] = {}
_gathered: dict[str, dict[str, Numbers]] = {}
_failed: set[int] = set()  # ids of subscribers whose failure has been logged: events are too many to log each


def subscribe(subscriber: Subscriber, names: Iterable[str] | None = None) -> Callable[[], None]:
    """
    Call *subscriber(name, fields)* at every event (of *names*) from now on; return a function that ends it.

    Name what you need: some events come tens of thousands of times a second, and cost nothing while nobody asks.
    """
    global _everything
    mine = None if names is None else tuple(names)
    if mine is None:
        _everything = (*_everything, subscriber)
    for name in mine or ():
        _named[name] = (*_named.get(name, ()), subscriber)

    def unsubscribe() -> None:
        global _everything
        if mine is None:
            _everything = tuple(s for s in _everything if s is not subscriber)
        for name in mine or ():
            _named[name] = tuple(s for s in _named[name] if s is not subscriber)
        _failed.discard(id(subscriber))

    return unsubscribe


def wanted(name: str) -> bool:
    """Return whether anyone asks for *name*; for emitters to whom gathering the fields is dear."""
    return bool(_everything or _named.get(name))


def emit(name: str, /, **fields: Any) -> None:
    """Tell every subscriber that *name* happened."""
    for subscriber in (*_everything, *_named.get(name, ())):
        try:
            subscriber(name, fields)
        except Exception:
            if id(subscriber) not in _failed:
                _failed.add(id(subscriber))
                logging.getLogger("redurable").exception("an event subscriber failed on %s", name)


def gather(name: str) -> dict[str, Numbers]:
    """
    Ask that numbers of *name* be gathered for as long as the process lives; return them by key.

    They grow at their ends while you look, from any thread: take `n = len(list)` of them, then `del list[:n]`.
    """
    return _gathered.setdefault(name, {})


def gathered(name: str, key: str) -> Numbers | None:
    """Return where numbers of *name* go for *key*, None while nobody asks; ask once for many of them."""
    found = _gathered.get(name)
    if found is None:
        return None
    numbers = found.get(key)
    return found.setdefault(key, Numbers()) if numbers is None else numbers
