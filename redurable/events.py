"""
What the floors below tell the floors above, without knowing them.

A lower floor calls `emit("step.recorded", intent=..., step=...)`; telemetry and tests subscribe. Invariants: a
subscriber that raises is logged once and never disturbs the emitter; with no subscriber an emit costs one
truth test, and one that nobody asked for by name a look-up. Names are `noun.verb-past`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Subscriber", "emit", "subscribe"]

Subscriber = Callable[[str, dict[str, Any]], None]
_subscribers: tuple[tuple[Subscriber, frozenset[str] | None], ...] = ()


def subscribe(subscriber: Subscriber, names: Iterable[str] | None = None) -> Callable[[], None]:
    """Call *subscriber(name, fields)* at every event (of *names*) from now on; return a function that ends it."""
    global _subscribers
    mine = (subscriber, None if names is None else frozenset(names))
    _subscribers = (*_subscribers, mine)

    def unsubscribe() -> None:
        global _subscribers
        _subscribers = tuple(s for s in _subscribers if s is not mine)

    return unsubscribe


def emit(name: str, /, **fields: Any) -> None:
    """Tell every subscriber that *name* happened."""
    for subscriber, names in _subscribers:
        if names is not None and name not in names:
            continue
        try:
            subscriber(name, fields)
        except Exception:
            logging.getLogger("redurable").exception("an event subscriber failed on %s", name)
