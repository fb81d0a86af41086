"""
Where an observer may stand around the work: a send, an attempt, a step. `telemetry.tracing` is the one there is.

Events tell what happened; a trace has to be *around* it, so that spans of users' own nest in ours, and its context has
to travel with the intent. Invariants: without an observer, which is the default, each place costs one `if`; what is
under an observer goes the same way through the journal, only not the short one.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol

__all__ = ["Observer", "Seen", "discover", "sending", "step", "watch"]


class Seen(Protocol):
    """What an observer is told of the thing that it stands around."""

    def done(self, how: str, /, **facts: Any) -> None:
        """It has ended as *how* says; without this word it came to nothing that counts."""
        ...


class Observer(Protocol):
    """Gives a context for each send, attempt and step; leaving it must be enough to end it."""

    def carrier(self) -> dict[str, str]:
        """Return the current context as an envelope carries it."""
        ...

    def ids(self) -> dict[str, str]:
        """Return what log lines of the current context are to bear; nothing outside of one."""
        ...

    def sending(self, to: Any) -> AbstractContextManager[Seen]:
        """Stand around the sending of intents to a queue, or to a handler's."""
        ...

    def attempt(self, lease: Any, carrier: dict[str, str], handler: str, losses: int) -> AbstractContextManager[Seen]:
        """Stand around one attempt under *lease*, of an intent that came with *carrier*."""
        ...

    def step(self, lease: Any, identity: tuple[str, str, int | str]) -> AbstractContextManager[Seen]:
        """Stand around a step's body, all its tries in this attempt, until its entry is in the journal."""
        ...


class _Unseen:
    def __enter__(self) -> _Unseen:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def done(self, how: str, /, **facts: Any) -> None:
        return None


_UNSEEN: AbstractContextManager[Seen] = _Unseen()
observer: Observer | None = None


def watch(new: Observer | None) -> Observer | None:
    """Let *new* observe from now on (None: nobody); return who did before."""
    global observer
    before, observer = observer, new
    return before


def sending(to: Any) -> AbstractContextManager[Seen]:
    """Return what to be within while intents are sent to *to*."""
    return _UNSEEN if observer is None else observer.sending(to)


def step(lease: Any, identity: tuple[str, str, int | str]) -> AbstractContextManager[Seen]:
    """Return what to be within while a step is tried."""
    return _UNSEEN if observer is None else observer.step(lease, identity)


def discover() -> None:
    """
    Observe for the tracing that this program has set up, if it has: called when a client opens.

    A program traces once it has given OpenTelemetry a tracer provider. The observer stands on a floor above, so it is
    asked for by its name, and only then: without tracing nothing is imported.
    """
    api = sys.modules.get("opentelemetry.trace")
    if observer is None and api is not None:
        provider = api.get_tracer_provider()
        if not isinstance(provider, api.ProxyTracerProvider | api.NoOpTracerProvider):
            import_module("redurable.telemetry.tracing").observe(provider)
