"""What a client does with whole intents: copy, take out, put in, remove. `Client` is one of these."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from redurable import spans
from redurable.answers import check_outside
from redurable.clock import now_ms
from redurable.codec import digest, encode
from redurable.codecs.base import Vault
from redurable.errors import IdempotencyConflict, NotFound
from redurable.ids import IntentId, derived_id, new_id, partition_of
from redurable.journal.forks import Past, past
from redurable.model import Envelope, Forked, Status, encode_entry
from redurable.options import check_texts
from redurable.portable import Parts
from redurable.runtime.turns import turn_seed
from redurable.store import archive
from redurable.store.inspection import decode_envelope, every
from redurable.store.journals import readable
from redurable.store.keys import UNPINNED
from redurable.store.store import Store

__all__ = ["SAME", "Archive"]

SAME: Any = object()
_TAKEN = ("queue", "session", "max")  # of the head


class Archive:
    """The part of a client that copies, moves and removes intents."""

    _limit: int
    _vault: Vault | None

    async def _store(self) -> Store:
        raise NotImplementedError

    async def fork(
        self, intent: str, from_step: str, *, payload: Any = SAME, idempotency_key: str | None = None
    ) -> IntentId[Any]:
        """
        Send a new intent that begins with the journal of *intent* up to *from_step*, and return its id.

        Its handler is given what was recorded until then, and goes on by itself from there: the step runs anew, with
        other idempotency keys, and so does all that comes after it. *intent* may be open or have ended, and is left
        as it is. Results, timers and values of promises are kept; a promise without a value waits for one of its own
        (tokens that were given away open the other's), and children that had not ended are called again. Queue, type,
        labels and session are the same, it goes to the end of the session's line; what its handler writes to the state
        before the step is written again. It is for the queue's current deployment version, has no deadline, and no
        parent waits for it.

        Args:
            from_step: A step, or another call, as the history names it: "charge" (the first of that name), "charge#2",
                "branch/charge#1", or a promise's name.
            payload: Given to the handler in the place of the other's; what is recorded does not change with it. If it
                does not fit the handler's type, the fork is FAILED as soon as a worker takes it (TYPE_MISMATCH).
            idempotency_key: A second fork of *intent* with it returns the first one's id.

        Raises:
            NotFound: INTENT_NOT_FOUND; STEP_NOT_FOUND, its message lists those that there are.
            IdempotencyConflict: The key was used with another step or payload.
            PayloadTooLarge, SerialisationError, CodecError: Nothing was stored.
            WrongState: It changed hands again and again meanwhile.
        """
        check_outside("forks an intent")
        check_texts("", idempotency_key, None)
        store = await self._store()
        same = payload is SAME
        data = None if same else encode(payload, "the payload", self._limit)
        token = digest([str(intent), from_step, same, None if same else payload])
        if data is not None and self._vault is not None:
            data = await self._vault.seal(data)
        parts = await archive.parts_of(store, intent)
        for seq, raw in enumerate(parts.journal, 1):
            readable(raw, seq)  # else it is said which entry cannot be read
        kept = past(parts.journal, from_step)
        partition = partition_of(intent)
        if idempotency_key is None:
            new = new_id(partition)
        else:
            new = derived_id(partition, store.namespace, "fork", intent, idempotency_key)
        body = _envelope(parts.body, data, idempotency_key or "")
        if await archive.place(store, new, _forked(str(intent), from_step, parts, kept, body), token) == "CONFLICT":
            raise IdempotencyConflict(
                f"idempotency key {idempotency_key!r} was used for another fork of {intent}",
                hint="use one key per logical call; the first fork is unchanged",
            )
        return IntentId(new)

    async def delete(self, intent: str) -> None:
        """
        Remove the finished *intent* now, whatever its retention; its idempotency key may be used again.

        Raises:
            NotFound: It is not there.
            WrongState: It is open; it is unchanged.
        """
        await archive.delete(await self._store(), intent)

    async def export(self, intent: str) -> dict[str, Any]:
        """
        Return all that is stored of *intent* at one moment, as an object that JSON holds; it goes on undisturbed.

        Raises:
            NotFound: It is not there.
            WrongState: It changed hands again and again meanwhile.
        """
        return await archive.export(await self._store(), intent)

    async def export_all(
        self,
        *,
        queue: str | None = None,
        status: Status | str | None = None,
        label: tuple[str, str] | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """
        Give the record of each intent that fits, as `export` does, one after the other: however many, in little memory.

        What is sent, ends or is removed meanwhile may be among them or not. One may come twice while many are sent; it
        is imported once all the same.

        Raises:
            WrongState: One changed hands again and again meanwhile; those after it were not given.
            StoreUnavailable: Some were given and some were not.
        """
        store = await self._store()
        wanted = None if status is None else Status.of(status)
        async with contextlib.aclosing(every(store, queue=queue, status=wanted, label=label)) as found:
            async for one in found:
                try:
                    record = await archive.export(store, one.id)
                except NotFound:
                    continue
                yield record

    async def import_(self, record: dict[str, Any]) -> bool:
        """
        Store an exported intent under its id; return False when the very same is there already.

        An open one goes on from its journal; a finished one is kept for its retention, and for a day at least. The
        original goes on too, unless it is deleted: import into another namespace, or after a loss.

        Raises:
            ConfigurationError: BAD_IMPORT; nothing was stored.
            WrongState: INTENT_EXISTS; the intent that has this id is unchanged.
        """
        return await archive.import_record(await self._store(), record)


def _envelope(body: bytes, payload: bytes | None, key: str) -> bytes:
    """Return the envelope of a fork, the payload as it is stored if it stays the same."""
    trace = {} if spans.observer is None else spans.observer.carrier()
    envelope: Envelope = msgspec.structs.replace(
        decode_envelope(body), idempotency_key=key, parent="", trace=trace,
        **({} if payload is None else {"payload": msgspec.Raw(payload)}),
    )  # fmt: skip
    if not getattr(envelope, "session", ""):  # as its sender would write it
        envelope = Envelope(*(getattr(envelope, name) for name in Envelope.__struct_fields__))
    return encode_entry(envelope)


def _forked(source: str, step: str, parts: Parts, kept: Past, body: bytes) -> Parts:
    """Return what is stored of a fork: an intent that no attempt was made at, and that has a journal all the same."""
    now = now_ms()
    seed = kept.seed or turn_seed(source, int(parts.head.get("turn", 1)))
    began = kept.began or int(parts.head.get("started", now))
    head = {name: parts.head[name] for name in _TAKEN if name in parts.head}
    if "session" in head:
        head["place"] = ""  # the end of the line
    arrivals = {}
    for key, (before, seq) in kept.arrived.items():
        mark, _, told = parts.arrivals.get(key, b"").partition(b":")
        arrivals[key] = b"=%d:%s" % (seq, told if mark == b"=%d" % before else secrets.token_hex(8).encode())
    return Parts(
        head=head | {"status": "SUBMITTED", "created": str(now), "attempt": "0", "forked": source},
        body=body,
        journal=[*kept.journal, encode_entry(Forked(now, source, step, seed, began))],
        arrivals=arrivals,
        lane=UNPINNED,
    )
