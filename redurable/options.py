"""
The options of sending an intent, said once for every function that takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from redurable.clock import Moment, Seconds
from redurable.errors import ConfigurationError
from redurable.model import Priority

__all__ = ["Debounce", "OnBusy", "SendOptions", "check_texts"]

OnBusy = Literal["queue", "reject", "interrupt", "replace"]


@dataclass(frozen=True, slots=True)
class Debounce:
    """
    Which sends become one intent, and when it starts.

    Args:
        quiet: Seconds without another such send, after which it starts.
        key: What they are about, besides queue, type and session key, which they share: "doc-17".
        within: Seconds after the first of them in which it starts at the latest; ten times *quiet* by default.
    """

    quiet: Seconds
    key: str = ""
    within: Seconds | None = None


class SendOptions(TypedDict, total=False):
    """
    How an intent is sent.

    Keys:
        type: The handler's name within the queue, if several share it.
        key: Session key: the intents of one queue that share it run one at a time, in the order of sending.
        on_busy: What to do if the session is not free. "queue": wait in its line. "reject": raise SessionBusy.
            "interrupt": ask its holder to end, as `cancel` does. "replace": cancel those that wait.
        max_queued: How many may wait in the line besides the holder; SessionBusy (SESSION_FULL) if it is full.
        shared: Run beside the session's holder, and only read its state; a handler's own `shared` by default.
        idempotency_key: A second send with it returns the first intent's id for as long as that intent is kept;
            within its session, if it has one.
        delay: Seconds, or a timedelta, before it may start.
        debounce: Seconds, or a `Debounce`: sends that follow each other by less become one intent with the payload and
            the options of the last, which starts when no other came for so long.
        deadline: An aware datetime, or seconds or a timedelta from now; then it ends TIMED_OUT.
        priority: "high", "normal" or "low", among the fresh intents of the queue.
        max_delivery_attempts: Owners that may be lost in a row; the handler's by default.
        labels: Short texts to find it by.
    """

    type: str
    key: str | None
    on_busy: OnBusy
    max_queued: int | None
    shared: bool | None
    idempotency_key: str | None
    delay: Seconds | None
    debounce: Seconds | Debounce | None
    deadline: Moment | None
    priority: Priority | str
    max_delivery_attempts: int | None
    labels: dict[str, str] | None


def check_texts(type: Any, key: Any, labels: Any) -> None:
    """Refuse, with a ConfigurationError, what could not be read again as the texts that an envelope holds."""
    pairs = (labels or {}).items() if isinstance(labels, dict | None) else [(labels, labels)]
    if not all(isinstance(text, str) for text in (type, key or "", *(t for pair in pairs for t in pair))):
        raise ConfigurationError(
            "type and idempotency_key are texts, labels a dict of texts",
            hint='write {"order": "17"}, not {"order": 17}',
        )
