"""
Events, progress and waits as people and machines read them.

Items of streams are results of steps: shown when asked for.
"""

from __future__ import annotations

from typing import Any

from redurable.cli.entries import shortened
from redurable.cli.output import clock, iso, moment
from redurable.ids import promise_text
from redurable.news import Event, Progress, Wait

__all__ = ["as_fields", "line", "progress_fields", "progress_text", "wait_fields", "wait_name", "wait_text"]


def progress_fields(progress: Progress | None) -> dict[str, Any] | None:
    """Return what JSON says of a progress."""
    return None if progress is None else {"done": progress.done, "total": progress.total, "note": progress.note}


def progress_text(progress: Progress | None, *, short: bool = False) -> str:
    """Return a progress for people; a *short* one has no note."""
    if progress is None:
        return ""
    share = f" ({progress.done / progress.total:.0%})" if progress.total and not short else ""
    text = f"{progress.done:g}" if progress.total is None else f"{progress.done:g}/{progress.total:g}{share}"
    return text if short or not progress.note else f"{text} {progress.note}"


def wait_fields(wait: Wait) -> dict[str, Any]:
    """Return what JSON says of a wait."""
    found = {field: getattr(wait, field) for field in wait.__struct_fields__}
    return found | {"since": iso(wait.since), "until": iso(wait.until)}


def wait_name(wait: Wait) -> str:
    """Return what a promise or approval is called, with its index unless that is 0; of others the name or id."""
    return promise_text(f"{wait.name}#{wait.index}")


def wait_text(wait: Wait) -> str:
    """Return a wait for people, in a line."""
    what = f"{wait.kind} {wait_name(wait)}" + (f": {wait.detail}" if wait.detail else "")
    times = [f"{word} {moment(at)}" for word, at in (("since", wait.since), ("until", wait.until)) if at]
    return ", ".join((what, *times))


def as_fields(event: Event, *, values: bool = False) -> dict[str, Any]:
    """Return what JSON says of an event."""
    found = {
        "kind": event.kind, "seq": event.seq, "at": iso(event.at) if event.at else None, "step": event.step,
        "offset": event.offset,
    }  # fmt: skip
    if event.kind == "progress":
        return {"kind": event.kind, "at": found["at"], "value": progress_fields(event.value)}
    return found if event.kind == "item" and not values else found | {"value": event.value}


def line(event: Event, *, values: bool = False) -> str:
    """Return an event as one line of `watch`."""
    if event.kind == "progress":
        where, what = "", progress_text(event.value)
    elif event.kind == "dropped":
        where, what = "", f"{event.value} events before this are gone"
    elif event.kind == "reset":
        where, what = f"{event.step}[{event.offset}]", "begins anew: what it told from here on is void"
    elif event.kind == "end":
        where, what = event.step, f"after {event.offset} items" + (f": {event.value}" if event.value else "")
    else:
        where = f"{event.step}[{event.offset}]"
        what = shortened(event.value) if event.kind == "event" or values else ""
    time = clock(event.at) if event.at else ""
    return "  ".join(filter(None, (f"{'':>5}", time, f"{event.kind:<16}", where, what)))
