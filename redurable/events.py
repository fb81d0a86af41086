"""
What the floors below tell the floors above, without knowing them.

A lower floor calls `emit("step.recorded", intent=..., step=...)`; telemetry and tests subscribe. Invariants: a
subscriber that raises is logged once and never disturbs the emitter; with no subscriber an emit costs one
truth test. Names are `noun.verb-past`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

__all__ = ["Subscriber", "emit", "subscribe"]

Subscriber = Callable[[str, dict[str, Any]], None]
_subscribers: tuple[Subscriber, ...] = ()
_failed: set[int] = set()  # ids of subscribers whose failure has been logged: events are too many to log each


def subscribe(subscriber: Subscriber) -> Callable[[], None]:
    """Call *subscriber(name, fields)* at every event from now on; return a function that ends it."""
    global _subscribers
    _subscribers = (*_subscribers, subscriber)

    def unsubscribe() -> None:
        global _subscribers
        _subscribers = tuple(s for s in _subscribers if s is not subscriber)
        _failed.discard(id(subscriber))

    return unsubscribe


def emit(name: str, /, **fields: Any) -> None:
    """Tell every subscriber that *name* happened."""
    for subscriber in _subscribers:
        try:
            subscriber(name, fields)
        except Exception:
            if id(subscriber) not in _failed:
                _failed.add(id(subscriber))
                logging.getLogger("redurable").exception("an event subscriber failed on %s", name)
