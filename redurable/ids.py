"""
Intent ids: UUIDs that carry their partition, so that any client finds an intent from its id alone.

A fresh id is a UUIDv7 (RFC 9562) whose 12 `rand_a` bits are the partition. With an idempotency key the id is
a UUIDv8 derived from queue, session key and idempotency key, with the partition in the same bits: the intent's
own record is then the deduplication record.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from array import array
from typing import Generic, TypeVar

from redurable.errors import NotFound

__all__ = [
    "MAX_PARTITIONS",
    "IntentId",
    "call_text",
    "derived_id",
    "new_id",
    "partition_for",
    "partition_in",
    "partition_of",
    "promise_text",
]

MAX_PARTITIONS = 4096
_FORM = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[78]([0-9a-f]{3})-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
R = TypeVar("R")


class IntentId(str, Generic[R]):
    """An intent's id, a string that remembers the type of the result for type checkers."""

    __slots__ = ()


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_chance: list[int] = []


def _random() -> int:
    """Return 64 bits of chance; the system is asked for many at once, a call an id was a third of a send's CPU."""
    try:
        return _chance.pop()
    except IndexError:
        fresh = array("Q", os.urandom(4096))
        _chance.extend(fresh[1:])
        return fresh[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_chance.clear)  # else parent and child would choose the same


def new_id(partition: int) -> str:
    """Return a fresh UUIDv7 in *partition*; ids of one process sort by millisecond."""
    ms = time.time_ns() // 1_000_000
    rest = _random() & 0x3FFF_FFFF_FFFF_FFFF
    return _text((ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7000 << 64 | partition << 64 | 0x8 << 60 | rest)


def _joined(parts: tuple[str, ...]) -> bytes:
    # lengths, not a separator: a key may hold any character, and ("a", "b") must differ from ("a\0b",)
    texts = [part.encode("utf-8", "surrogatepass") for part in parts]
    return b"".join(b"%d:%s" % (len(text), text) for text in texts)


def derived_id(partition: int, *parts: str) -> str:
    """Return the UUIDv8 that *parts* always give in *partition*."""
    digest = hashlib.blake2b(_joined(parts), digest_size=16, person=b"redurable-id").digest()
    value = int.from_bytes(digest, "big")
    value &= ~(0xFFFF << 64 | 0xC000_0000_0000_0000)
    return _text(value | (0x8000 | partition) << 64 | 0x8000_0000_0000_0000)


def partition_for(count: int, *parts: str) -> int:
    """Return the partition that *parts* (a queue and a key) hash to, of *count*."""
    if count == 1:
        return 0
    digest = hashlib.blake2b(_joined(parts), digest_size=4, person=b"redurable-pt").digest()
    return int.from_bytes(digest, "big") % count


def partition_in(ours: str) -> int:
    """Return the partition in an id that this module has made."""
    return int(ours[15:18], 16)


def partition_of(intent_id: str) -> int:
    """
    Return the partition in *intent_id*.

    Raises:
        NotFound: It is not an intent id of ours.
    """
    match = _FORM.fullmatch(intent_id) if isinstance(intent_id, str) else None
    if match is not None:
        return int(match[1], 16)
    raise NotFound(
        f"{intent_id!r} is not an intent id", hint="ids look like 0192f0c1-2345-7000-8abc-0123456789ab (see send)"
    )


def promise_text(key: str) -> str:
    """Return how people write the promise (or child) under *key*: its index only where it has another than 0."""
    return key.removesuffix("#0")


def call_text(name: str, n: int | str) -> str:
    """
    Return how people read a durable call: name#n, n = 1 is the first.

    The number behind a promise's name is its index, whatever shows it; so how often it was waited for is told in words.
    """
    if name.startswith("promise "):
        return name if n == 1 else f"{name}, wait {n}"
    return f"{name}#{n}"
