"""
What must hold in Redis between any two scripts: the diagram of `redurable.model` and the table of `store.keys`.

`check` is for one intent, `check_all` for a namespace: no orphan of any kind. Both only read; they may run beside a
live system if nothing is under way, and after any crash.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from redurable.errors import StoreError
from redurable.model import Status, decode_entry
from redurable.store.inspection import decode_envelope, unpack_outcome
from redurable.store.keys import GROUP, Keys, meta_key
from redurable.store.store import Store

__all__ = ["check", "check_all", "entries_of"]

_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
_KINDS = {
    r"qs": "set",
    r"w": "hash",
    r"z": "set",
    r"b:.+": "string",
    r"y": "set",
    r"y:.+": "hash",
    r"dv": "hash",
    r"t": "zset",
    r"s:[^:]+:.+": "zset",
    r"v:[^:]+:.+": "hash",
    r"forms": "hash",
    r"limits": "set",
    r"l:[^:]+(:.+)?": "hash",
    r"l[ulw]:[^:]+(:.+)?": "zset",
    r"x:(done|failed|asked)": "zset",
    r"q:[^:]+:(high|normal|low)": "stream",
    r"c:[^:]+:.+": "stream",
    rf"i:{_ID}": "hash",
    rf"p:{_ID}": "string",
    rf"j:{_ID}": "list",
    rf"k:{_ID}": "hash",
    rf"d:{_ID}": "hash",
    rf"e:{_ID}": "stream",
    rf"m:{_ID}": "hash",
    rf"o:{_ID}": "string",
}
_FIELDS = {
    "status", "queue", "created", "at", "reply", "digest", "max", "deadline", "lane", "start", "wake", "reason",
    "fence", "attempt", "base", "started", "finished", "losses", "lost", "canceling", "watch", "cursors", "redriven",
    "changed", "imported", "held", "limit", "long", "turn", "owes", "session", "place", "busy", "kept", "told",
    "paused", "version", "forked", "until", "said", "since",
}  # fmt: skip


async def _head(store: Store, keys: Keys, intent: str) -> tuple[dict[str, str], bytes | None]:
    """Return the head's fields without its short outcome, and that."""
    flat = await store.mux.command("HGETALL", keys.head(intent))
    raw = dict(zip(flat[::2], flat[1::2], strict=True))
    short = raw.pop(b"outcome", None)
    return {name.decode(): value.decode() for name, value in raw.items()}, short


async def entries_of(store: Store, keys: Keys) -> list[tuple[str, str, str]]:
    """Return (stream, entry id, intent) of everything in the partition's streams."""
    found = []
    for raw in await store.mux.command("SMEMBERS", keys.streams):
        for entry, fields in await store.mux.command("XRANGE", raw, "-", "+"):
            assert fields[0] == b"i", f"{raw!r} holds {fields}"
            found.append((raw.decode(), entry.decode(), fields[1].decode()))
    return found


async def _pending(store: Store, stream: str, first: str = "-", last: str = "+") -> list[Any]:
    try:
        return list(await store.mux.command("XPENDING", stream, GROUP, first, last, 100_000))
    except StoreError as error:
        if "NOGROUP" in str(error):  # nobody has read the stream yet
            return []
        raise


async def check(store: Store, intent: str, places: list[str] | None = None) -> str | None:
    """
    Assert what holds for *intent* in its state; return its status, None when it is gone without a trace.

    *places* are its stream entries as `at` spells them, when the caller has them already.
    """
    keys, mux = store.keys_of(intent), store.mux
    head, short = await _head(store, keys, intent)
    live = places
    if live is None:
        live = [f"{keys.lane_of(s)[1]}/{e}" for s, e, i in await entries_of(store, keys) if i == intent]
    timer = await mux.command("ZSCORE", keys.timers, intent)
    views = [await mux.command("ZSCORE", view, intent) is not None for view in (keys.done, keys.failed)]
    names = (keys.envelope(intent), keys.journal(intent), keys.outcome(intent), keys.checkpoint(intent))
    there = [bool(await mux.command("EXISTS", name)) for name in names]
    if not head:
        assert (live, timer, views, there) == ([], None, [False, False], [False] * 4), f"{intent} is gone, but not all"
        return None
    assert head.keys() <= _FIELDS, f"unknown fields of a head: {head.keys() - _FIELDS}"
    body, journal, outcome, cursors = there
    status = Status(head["status"])
    assert body, f"{intent} has no envelope"
    decode_envelope(await mux.command("GET", keys.envelope(intent)))
    for raw in await mux.command("LRANGE", keys.journal(intent), 0, -1):
        decode_entry(raw)
    await _check_places(store, keys, head, live, intent)
    if status.final:
        _check_final(head, intent)
        owed = "owes" in head or head.get("reply", "")[:1] == "^"
        assert (timer is None) != owed, f"{intent} is {status}: it owes {owed}, its timer is {timer}"
        assert views == [status is Status.COMPLETED, status is not Status.COMPLETED], f"{intent} {status}: {views}"
        assert not cursors, f"{intent} is {status} and has cursors"
        assert (short is None) == outcome, f"{intent} has its outcome in no place, or in two"
        ended = unpack_outcome(short or await mux.command("GET", keys.outcome(intent)) or b"")
        assert ended.status is status, f"{intent} is {status}, its outcome says {ended.status}"
    else:
        assert views == [False, False], f"{intent} is {status} and in a view: {views}"
        assert (outcome, short) == (False, None), f"{intent} is {status} and has an outcome"
        times = () if status is Status.PAUSED else ("deadline", "start", "wake")
        due = min((int(head[name]) for name in times if name in head), default=None)
        found = None if timer is None else int(float(timer))
        assert found == due, f"{intent} {status}: its timer says {found}, its head {due}"
    assert journal or "base" not in head or int(head["base"]) == 0
    return str(status)


async def _check_places(store: Store, keys: Keys, head: dict[str, str], live: list[str], intent: str) -> None:
    status, at = head["status"], head.get("at")
    assert live == ([at] if at else []), f"{status}: at is {at}, its entries {live}"
    assert bool(at) == (status in ("SUBMITTED", "IN_PROGRESS")), f"{status}: at is {at}"
    status = _underneath(head)
    assert ("reason" in head) == (status == "WAITING"), f"{status}: reason is {head.get('reason')}"
    assert "wake" not in head or status == "WAITING", f"{status} has a wake"
    waits = status == "CREATED" and "session" in head  # behind its session, if it has no start
    assert waits or ("start" in head) == (status == "CREATED"), f"{status}: start is {head.get('start')}"
    if "session" in head:
        line, key = keys.line(head["queue"], head["session"]), "session"
        score = await store.mux.command("ZSCORE", line, intent)
        inside = status in ("SUBMITTED", "IN_PROGRESS", "WAITING") or (waits and "start" not in head)
        assert (score is not None) == inside, f"{intent} is {status}, its place in {key} {head[key]} is {score}"
        assert score is None or (score == b"0") == (status != "CREATED"), f"{intent} {status}: place {score}"
        assert score in (None, b"0", head.get("place", "").encode()), f"{intent}: {score}, {head}"
    assert int(head.get("losses", 0)) >= 0
    if status != "CREATED" and at:
        lane, entry = at.split("/")
        rows = await _pending(store, keys.stream(head["queue"], lane), entry, entry)
        owner = rows[0][1].decode() if rows else None
        if status == "IN_PROGRESS":
            _, rest = head["fence"].split(":", 1)
            assert owner == rest.rsplit(":", 1)[0], f"{head['fence']} holds the lease, {owner} the entry"
            assert int(head["base"]) <= await store.mux.command("LLEN", keys.journal(intent))


def _underneath(head: dict[str, str]) -> str:
    """Return the state of an intent, of a paused one that to which it is resumed."""
    assert (head["status"] == "PAUSED") <= ("paused" in head), f"{head['status']} does not know what it was"
    assert "paused" not in head or head["status"] in ("PAUSED", "IN_PROGRESS"), f"{head['status']} has {head['paused']}"
    return head["paused"].split(":", 1)[0] if head["status"] == "PAUSED" else head["status"]


def _check_final(head: dict[str, str], intent: str) -> None:
    assert head.get("reply", "^")[0] in "^~", f"{intent} is {head['status']} and still has a reply"
    for name in ("base", "watch", "cursors"):
        assert name not in head, f"{intent} is {head['status']} and still has {name}"
    assert int(head["finished"]) >= int(head["created"])


async def check_all(store: Store) -> Counter[str]:
    """Assert that *store*'s namespace holds no orphan, and `check` every intent; return how many have each status."""
    mux = store.mux
    found: Counter[str] = Counter()
    names: set[str] = set()
    cursor = b"0"
    while True:
        cursor, some = await mux.command("SCAN", cursor, "MATCH", f"{store.namespace}:*", "COUNT", 1000)
        names.update(raw.decode() for raw in some)
        if cursor == b"0":
            break
    names.discard(meta_key(store.namespace))
    kinds = {name: (await mux.command("TYPE", name)).decode() for name in sorted(names)}
    gone = {
        name for name, kind in kinds.items() if kind == "none"
    }  # since the walk: the last timer was taken away, say
    names -= gone
    kinds = {name: kind for name, kind in kinds.items() if name not in gone}
    for keys in store.keys:
        mine = {name[len(keys.prefix) :]: kind for name, kind in kinds.items() if name.startswith(keys.prefix)}
        names.difference_update(keys.prefix + tail for tail in mine)
        found += await _check_partition(store, keys, mine)
    assert not names, f"keys of no partition: {names}"
    return found


async def _check_partition(store: Store, keys: Keys, mine: dict[str, str]) -> Counter[str]:
    mux = store.mux
    for tail, kind in mine.items():
        expected = next((k for pattern, k in _KINDS.items() if re.fullmatch(pattern, tail)), None)
        assert expected is not None, f"{keys.prefix}{tail} is not in the table of store/keys.py"
        assert kind == expected, f"{keys.prefix}{tail} is a {kind}, not a {expected}"
        lives = await mux.command("TTL", keys.prefix + tail)
        # the state of a session is kept for a while after its last intent; what debounced sends become, a day
        lasting = tail[:2] not in ("v:", "b:", "e:") or f"s{tail[1:]}" in mine
        assert (lives == -1) == lasting, f"{keys.prefix}{tail}: {lives} s"
        if tail[:2] == "s:":
            await _check_line(store, keys, keys.prefix + tail)
    intents = {tail[2:] for tail in mine if tail.startswith("i:")}
    for tail in mine:
        if re.fullmatch(rf"[pjkodem]:{_ID}", tail):
            assert tail[2:] in intents, f"{keys.prefix}{tail} belongs to no intent"
    known = {raw.decode() for raw in await mux.command("SMEMBERS", keys.streams)}
    streams = {keys.prefix + tail for tail, kind in mine.items() if kind == "stream" and tail[:2] != "e:"}
    assert streams <= known, f"streams that nobody would find: {streams - known}"
    places: dict[str, list[str]] = {intent: [] for intent in intents}
    for stream, entry, intent in await entries_of(store, keys):
        assert intent in intents, f"{stream} {entry} names {intent}, which is gone"
        places[intent].append(f"{keys.lane_of(stream)[1]}/{entry}")
    planned = {tail[2:] for tail in mine if tail.startswith("y:")}
    assert planned == {raw.decode() for raw in await mux.command("SMEMBERS", keys.schedules)}
    for name in planned:
        status, wake = await mux.command("HMGET", keys.schedule(name), "status", "wake")
        timer = await mux.command("ZSCORE", keys.timers, f"@{name}")
        assert timer == (wake or None if status == b"ACTIVE" else None), f"{name} is {status}: {timer}, {wake}"
    used = {raw.decode() for raw in await mux.command("SMEMBERS", keys.limits)}
    kept = {tail.split(":", 1)[1] for tail in mine if re.match(r"l[ulw]?:", tail)}
    assert kept <= used, f"limits that nobody would find: {kept - used}"
    members = {f"@{name}" for name in planned} | {f"~{limit}" for limit in used}
    for view in (keys.timers, keys.done, keys.failed):
        for raw in await mux.command("ZRANGE", view, 0, -1):
            if view != keys.timers or raw.decode() not in members:
                assert raw.decode() in intents, f"{view} names {raw!r}, which is gone"
    for stream in streams:
        await _check_pending(store, stream)
    return Counter([str(await check(store, intent, places[intent])) for intent in sorted(intents)])


async def _check_line(store: Store, keys: Keys, line: str) -> None:
    flat = await store.mux.command("ZRANGE", line, 0, -1, "WITHSCORES")
    scores = flat[1::2]
    assert scores[0] == b"0", f"{line} has no holder"
    assert b"0" not in scores[1:], f"{line} has two"
    for raw in flat[::2]:
        queue, session = await store.mux.command("HMGET", keys.head(raw.decode()), "queue", "session")
        assert (queue, session) == tuple(name.encode() for name in keys.session_of(line)), f"{line} holds {raw!r}"


async def _check_pending(store: Store, stream: str) -> None:
    for entry, owner, _, _ in await _pending(store, stream):
        there = await store.mux.command("XRANGE", stream, entry, entry)
        assert there, f"{stream}: {owner!r} has {entry!r} pending, which was deleted"
