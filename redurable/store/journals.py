"""
Journals as they are stored: read in parts, and what their entries tell of an intent.

However long a journal is, the server is asked for about a MiB of it at a time, so that others are served in between.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, get_args

import msgspec

from redurable.codec import misfit_of
from redurable.errors import CodecError, NotFound
from redurable.ids import call_text
from redurable.model import (
    Arrived,
    AttemptFailed,
    Called,
    CancelRequested,
    Compensating,
    Entry,
    Reopened,
    Status,
    StepDone,
    StepFailedEntry,
    StepTried,
    decode_entry,
)
from redurable.store.store import Store

__all__ = ["entries_of", "failures_of", "history", "last_step", "parts", "readable", "undone_of"]

_PART = 1 << 20  # bytes of a journal that are read at a time
_FIRST, _GROWTH, _MOST = 4, 16, 10_000  # entries: of a first read, of one beside that before, of any
_KINDS: dict[object, Any] = {kind.__struct_config__.tag: kind for kind in get_args(Entry)}
_CONTINUED = b"\x1e"  # the tag of `Continued`


async def entries_of(store: Store, intent: str, start: int = 0) -> list[bytes]:
    """Return the journal of *intent* from index *start* (0 = first) on, as long as it was at the last read."""
    key, mux = store.keys_of(intent).journal(intent), store.mux
    found: list[bytes] = []
    async for part in parts(lambda at, count: mux.command("LRANGE", key, at, at + count - 1), start):
        found += part
    return found


async def parts(
    read: Callable[[int, int], Awaitable[Any]], start: int = 0, known: Sequence[bytes] = ()
) -> AsyncIterator[list[bytes]]:
    """
    Give a journal from index *start* on, to its end as it was at the last read, about a MiB at a time.

    Args:
        read: Answers entries: from this index on, at most so many.
        known: Entries before *start*. What the last ones weigh says how many are asked for next.
    """
    while True:
        count = _FIRST
        if known:
            count = max(1, min(_PART // (max(map(len, known)) or 1), _GROWTH * len(known), _MOST))
        known = part = await read(start, count)
        yield part
        if len(part) < count:
            return
        start += count


def readable(raw: bytes, seq: int) -> Entry:
    """
    Return the entry in *raw*, the *seq*-th (1 = first) of its journal.

    Raises:
        CodecError: JOURNAL_UNREADABLE; a later version wrote it, or something else did.
    """
    try:
        entry: Entry = decode_entry(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        what, why = _misfit(raw, error)
        raise CodecError(
            f"entry {seq} of the journal{what} cannot be read: {why}",
            code="JOURNAL_UNREADABLE",
            hint="a later version of redurable wrote it: upgrade this one. Or something else did: then "
            "redurable intents kill ID ends the intent",
        ) from None
    return entry


def _misfit(raw: bytes, error: Exception) -> tuple[str, str]:
    """Say what kind of entry it is, if that can be seen, and why it cannot be read."""
    tag = raw[1] if len(raw) > 1 and raw[0] >> 4 == 9 and raw[1] < 0x80 else None  # an array that a number begins
    kind = _KINDS.get(tag)
    if tag is not None and kind is None:
        return "", f"it is of kind {tag}, which this version does not know"
    if kind is None:
        return "", misfit_of(error, ())
    return f" ({kind.__name__})", misfit_of(error, ("kind", *kind.__struct_fields__))


async def history(store: Store, intent: str, since: int = 0) -> list[tuple[int, Entry]]:
    """
    Return (seq, entry) of the journal after seq *since*; NotFound when the intent is not there.

    Seqs go on through `continue_as_new`; of turns that are over nothing is left.
    """
    key, mux = store.keys_of(intent).journal(intent), store.mux
    there = mux.command("EXISTS", store.keys_of(intent).head(intent))
    before = 0
    while True:
        first = mux.command("LRANGE", key, 0, 0)
        found = await entries_of(store, intent, max(0, since - before))
        begun = _entries_before(await mux.command("LRANGE", key, 0, 0))
        if not await there:
            raise NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")
        if begun == before == _entries_before(await first):
            start = max(since, before) + 1
            return [(seq, _absolute(readable(raw, seq), before)) for seq, raw in enumerate(found, start)]
        before = begun  # a turn began: its entries are counted from another number


def _entries_before(first: list[bytes]) -> int:
    """Return how many entries earlier turns had, by the first of this one."""
    return msgspec.msgpack.decode(first[0])[3] if first and first[0][1:2] == _CONTINUED else 0


def _absolute(entry: Entry, before: int) -> Entry:
    if before and isinstance(entry, Reopened):
        return msgspec.structs.replace(entry, voided=[seq + before for seq in entry.voided])
    return entry


def voided_of(entries: Iterable[bytes]) -> set[int]:
    """Return the seqs that operators' retries voided."""
    voided: set[int] = set()
    for seq, raw in enumerate(entries, 1):
        entry = readable(raw, seq)
        if isinstance(entry, Reopened):
            voided.update(entry.voided)
    return voided


def failures_of(entries: Iterable[bytes]) -> list[int]:
    """
    Return the seqs (1 = first) of the live entries that made an intent fail: what a retry has to void.

    A step's failure that the handler dealt with is not one of them: its scope, or one above, recorded more after it.
    For journals without undo work, see `undone_of`.
    """
    raw = list(entries)
    gone = voided_of(raw)
    live = [(seq, readable(data, seq)) for seq, data in enumerate(raw, 1) if seq not in gone]
    voided: set[int] = set()
    failed: set[tuple[str, str, int | str]] = set()
    called = {entry.child: (seq, entry) for seq, entry in live if isinstance(entry, Called)}
    last: dict[str, int] = {}  # the last entry of each scope
    for seq, entry in live:
        scope = getattr(entry, "scope", None)
        if isinstance(entry, AttemptFailed | CancelRequested):
            voided.add(seq)
        elif scope is not None:
            last[scope] = seq
    for seq, entry in live:
        if isinstance(entry, Arrived) and entry.status is not Status.COMPLETED:
            call = called.get(entry.key)
            above = last.values() if call is None else _above(call[1].scope, last)
            if max(above, default=0) <= seq:
                voided |= {seq} if call is None else {seq, call[0]}  # and what failed is called anew
        if isinstance(entry, StepFailedEntry) and max(_above(entry.scope, last), default=0) <= seq:
            voided.add(seq)
            failed.add((entry.scope, entry.name, entry.n))
    done = {(e.scope, e.name, e.n) for _, e in live if isinstance(e, StepDone | StepFailedEntry)} - failed
    tried = {s for s, e in live if isinstance(e, StepTried) and (e.scope, e.name, e.n) not in done}
    return sorted(voided | tried)


def undone_of(entries: Iterable[bytes]) -> list[str] | None:
    """
    Return the undo work of an intent, in order, each as people read it; None if none has begun.

    The journal does not say which steps it took back, so none of them can be relied on, nor done again: within the
    intent they would have the idempotency keys of those that were undone. It may be empty: of work that died in its
    first try nothing is recorded, and it may have been done all the same.
    """
    raw = list(entries)
    gone = voided_of(raw)
    live = [readable(data, seq) for seq, data in enumerate(raw, 1) if seq not in gone]
    begun = next((at for at, entry in enumerate(live) if isinstance(entry, Compensating)), None)
    if begun is None:
        return None
    work: dict[str, str] = {}
    for entry in live[begun:]:
        if isinstance(entry, StepDone | StepFailedEntry | StepTried) and entry.scope == "compensate":
            how = "" if isinstance(entry, StepDone) else " (failed)"
            work[call_text(entry.name, entry.n)] = " (not ended)" if isinstance(entry, StepTried) else how
    return [name + how for name, how in work.items()]


def _above(scope: str, last: dict[str, int]) -> list[int]:
    """Return where *scope*, and those that it is a branch of, recorded last."""
    return [at for other, at in last.items() if other == "" or f"{scope}/".startswith(f"{other}/")]


def last_step(entries: Iterable[bytes]) -> str | None:
    """Return the name of the last step in *entries*."""
    for raw in reversed(list(entries)):
        try:
            entry = decode_entry(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # a later version's
        if isinstance(entry, StepDone | StepFailedEntry | StepTried):
            return f"{entry.name}#{entry.n}"
    return None
