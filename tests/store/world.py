"""
A namespace with one intent that can be brought into any state, and scripts called by the names in their headers.

`World.call("settle", fence=STALE)` fills in every key and arg that is not given as the verb's rightful caller would.
The clock stands still at `NOW` (us) until `advance`.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec

from redurable.ids import new_id
from redurable.model import (
    Arrived,
    AttemptFailed,
    CancelRequested,
    Continued,
    Envelope,
    ErrorInfo,
    Reopened,
    Status,
    StepDone,
    encode_entry,
)
from redurable.store.keeper import Keeper
from redurable.store.keys import GROUP, SOLO, UNPINNED, told_keys
from redurable.store.lease import Lease, sit
from redurable.store.scripts import load
from redurable.store.session import Entry, Session
from redurable.store.store import Store, failure_of
from tests.support.invariants import check_all

NOW = 1_700_000_000_000_000
NOW_MS = NOW // 1000
DAY = 86_400_000
STALE = b"1:w0:1"
QUEUE = "mail"
SESSION = "customer-7"
WORKER = "w1"
CLAIMED = b"\x95\x06" + msgspec.msgpack.encode(WORKER) + msgspec.msgpack.encode("3.11")
BODY = msgspec.msgpack.encode(Envelope(type="", payload=msgspec.Raw(b"\xc0")))
STEP = encode_entry(StepDone("", "fetch", 0, NOW_MS, code=b"12345678", value=msgspec.Raw(b"\x2a")))
FAILURE = encode_entry(AttemptFailed(at=NOW_MS, error=ErrorInfo("ValueError", "no"), due=NOW_MS))
CANCEL = encode_entry(CancelRequested(at=NOW_MS, status=Status.CANCELED))
TIMEOUT = encode_entry(CancelRequested(at=NOW_MS, status=Status.TIMED_OUT))
VALUE = encode_entry(Arrived("answer#0", NOW_MS, Status.COMPLETED, msgspec.Raw(b"\x01")))
REOPENED = encode_entry(Reopened(at=NOW_MS, voided=[]))

# what is said of a promise
ARRIVAL = {"key": "answer#0", "about": b"", "form": "", "schema": b"", "since": "", "most": 3, "digest": "aa",
    "answered": [], "token": "",
}  # fmt: skip

OPEN = ("CREATED", "SUBMITTED", "DELIVERED", "IN_PROGRESS", "WAITING")
FINAL = ("COMPLETED", "FAILED", "CANCELED", "TIMED_OUT")
_ENDS = {"cancel": "CANCELED", "kill": "CANCELED", "expire": "TIMED_OUT", "recover": "FAILED", "skip": "FAILED"}
STATES = ("GONE", *OPEN, *FINAL)
NEXT_TURN: dict[str, Any] = {"turn": 2, "first": encode_entry(Continued(NOW_MS, 2, 0)), "kept": [], "body": BODY}
IMPORTED: dict[str, Any] = {
    "status": "SUBMITTED", "fields": ["queue", QUEUE, "created", NOW_MS], "entries": [STEP], "kept": [],
    "brought": [],
    "keep": NOW_MS + DAY, "result": "",
}  # fmt: skip
CHILD = "0192f0c1-2345-7000-8abc-0123456789ab"
TOLD: dict[str, Any] = {
    "number": 1, "turn": 1, "skip": 0, "most": 1000, "life": 60, "progress": b"", "told": [b"a", b"b"],
    "places": ["e:", 2],
}  # fmt: skip


def result_of(status: str) -> bytes:
    """Return a packed outcome of *status*."""
    return b"" if status == "COMPLETED" else failure_of(Status(status), "TEST", "by a test")


class World:
    """One namespace, one keeper, one intent."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.mux = store.mux
        self.mux.clock = str(NOW)
        self.keeper = Keeper(store, 0, WORKER)
        self.keys = store.keys[0]
        self.id = new_id(0)
        self.lease: Lease | None = None
        self.numbers = 0
        self.journaled = 0
        self.streams, (self.solo,) = self.keeper.streams_of(QUEUE)

    def advance(self, ms: int) -> None:
        """Move the clock."""
        self.mux.clock = str(int(self.mux.clock) + ms * 1000)

    # -- bringing the intent into a state

    async def submit(self, intent: str | None = None, lane: str = "q:normal", **options: Any) -> str:
        """Submit an intent (the world's own by default) and return its id."""
        intent = intent or self.id
        # a delayed intent of a session takes its place later
        assert await self.store.submit(intent, BODY, QUEUE, lane, **options) in (b"OK", b"QUEUED")
        return intent

    @property
    def session(self) -> Session:
        """The session that intents of the tests may be in."""
        return Session(self.mux, self.keys, QUEUE, SESSION)

    async def enter(self, intent: str | None = None, lane: str = "q:normal", **options: Any) -> str:
        """Send an intent (the world's own by default) to the session; return the script's word."""
        entry = Entry(SESSION, **{n: options.pop(n) for n in ("on_busy", "max_queued") if n in options})
        word = await self.store.submit(intent or self.id, BODY, QUEUE, lane, entry=entry, **options)
        return str(word.decode())

    async def line(self) -> list[str]:
        """Return the session's line, the holder first."""
        return [raw.decode() for raw in await self.mux.command("ZRANGE", self.session.line, 0, -1)]

    async def state_of(self, intent: str) -> str:
        """Return an intent's status."""
        return str((await self.mux.command("HGET", self.keys.head(intent), "status")).decode())

    async def claim(self, count: int = 1, *, number: int | None = None, worker: str = "", **more: Any) -> list[Lease]:
        """Claim from all streams of the queue, the solo one last."""
        if number is None:
            self.numbers += 1
            number = self.numbers
        keeper = Keeper(self.store, 0, worker) if worker else self.keeper
        streams = [*self.streams, self.solo]
        limits = more.pop("limits", [""] * len(streams))
        return await keeper.claim(streams, limits, count, number, CLAIMED, more.pop("given", []), **more)

    async def bring(self, state: str, steps: int = 0, **options: Any) -> None:
        """Bring the world's intent into *state* by scripts alone, recording *steps* on the way where it can."""
        await self.keeper.open([*self.streams, self.solo])
        if state == "GONE":
            return
        if options.pop("session", False):
            options["entry"] = Entry(SESSION)
        if state == "PAUSED":
            await self.bring(options.pop("paused", "WAITING"), steps, **options)
            assert await self.call("pause") == "PAUSED"
            return
        if state == "CREATED":
            await self.submit(delay_ms=options.pop("delay_ms", 60_000), **options)
            return
        await self.submit(**options)
        if state == "SUBMITTED":
            return
        if state == "DELIVERED":
            await self.deliver()
            return
        (self.lease,) = await self.claim()
        assert self.lease.id == self.id
        if "entry" in options:
            sit(self.lease, SESSION, shared=False)
        if steps:
            assert await self.lease.record([STEP] * steps) == steps
            self.lease.k = steps
        if state == "WAITING":
            assert await self.lease.park(steps, "PROMISE", None) == b"OK"
        elif state in FINAL:
            assert await self.lease.settle(state, result_of(state), DAY) == b"OK"

    async def deliver(self, worker: str = WORKER) -> tuple[int, bytes, bytes]:
        """Read one entry as a worker's blocking read does; return what `claim` is given: (place, entry, id)."""
        for place, stream in enumerate([*self.streams, self.solo], 1):
            read = await self.mux.command("XREADGROUP", "GROUP", GROUP, worker, "COUNT", 1, "STREAMS", stream, ">")
            if read:
                entry, fields = read[0][1][0]
                return place, entry, fields[1]
        raise AssertionError("nothing to deliver")

    # -- calling

    async def call(self, verb: str, **given: Any) -> Any:
        """Run the script *verb* for the world's intent; its answer as text, or as it came when it is no word."""
        script = load(verb, session=load(verb).has_session and await self.field("session") is not None)
        names: list[Any] = []
        for name in script.keys:
            value = given.pop(f"{name}_key", None) or await self._key(name, verb)
            names += value if isinstance(value, list) else [value]
        words: list[Any] = []
        for name in script.args:
            bare = name.rstrip("*")
            value = given.pop(bare) if bare in given else await self._arg(bare, verb, given)
            words += [len(value), *value] if name.endswith("*") else [value]
        if script is not load(verb):
            more, told = await self.session.ending(self.id)
            if "heir" in given:  # what a caller read before the line changed
                told = (given.pop("heir"), *told[1:])
            names += more
            words += told
        assert not given, f"{verb} has no {given}"
        before = await self.status() or "none"
        answer = await self.mux.call(script, 0, names, words)
        after = await self.status() or "none"
        assert before == after or (before in script.before and after in script.after), f"{verb}: {before} -> {after}"
        return answer.decode() if isinstance(answer, bytes) else answer

    async def _at(self) -> tuple[str, str]:
        """Return lane and entry of the intent, of its last lease when it has none."""
        at = await self.mux.command("HGET", self.keys.head(self.id), "at")
        if at:
            lane, entry = at.decode().split("/")
            return lane, entry
        if self.lease is not None:
            return self.lease.lane, self.lease.entry.decode()
        return "q:normal", "1-1"

    async def _paused_lane(self) -> str:
        return (re.findall(r"SUBMITTED:(.*)", await self.field("paused") or "") or [UNPINNED])[0]

    async def _key(self, name: str, verb: str) -> Any:
        keys, intent = self.keys, self.id
        if name == "holder":
            first = await self.mux.command("ZRANGE", keys.line(QUEUE, SESSION), 0, 0)
            return keys.head(first[0].decode() if first else intent)
        if name == "stream" and verb in ("enter", "join"):
            return keys.stream(QUEUE, "q:normal")
        if name == "stream" and verb == "reseat":
            return keys.stream(QUEUE, await self.field("lane") or UNPINNED)
        if name == "stream" and verb == "fire":
            lane = "q:normal" if (await self.status()) == "CREATED" else UNPINNED
            return keys.stream(QUEUE, lane)
        if name == "stream" and verb == "resume":
            return keys.stream(QUEUE, await self._paused_lane())
        if name == "stream":
            return keys.stream(QUEUE, (await self._at())[0])
        view = keys.done if (await self.status()) == "COMPLETED" else keys.failed
        if verb == "settle":
            view = keys.done
        return {
            "line": keys.line(QUEUE, SESSION), "state": keys.state(QUEUE, SESSION),
            "head": keys.head(intent), "journal": keys.journal(intent), "envelope": keys.envelope(intent),
            "outcome": keys.outcome(intent), "cursors": keys.checkpoint(intent), "timers": keys.timers,
            "arrivals": keys.arrivals(intent), "forms": keys.forms, "asked": keys.asked,
            "streams": keys.streams, "view": view, "continuation": keys.stream(QUEUE, UNPINNED),
            "done": keys.done, "failed": keys.failed,
            **dict(zip(("events", "marks"), told_keys(keys, intent), strict=True)),
            "solo": keys.stream(QUEUE, SOLO), "workers": keys.workers, "streams*": [*self.streams, self.solo],
        }[name]  # fmt: skip

    async def _arg(self, name: str, verb: str, given: dict[str, Any]) -> Any:
        if verb == "continue" and name in NEXT_TURN:
            return NEXT_TURN[name]
        if name in ("at", "lane", "entry", "seen", "expected", "first", "start"):
            return await self._place(name, verb)
        if name == "back":
            return await self.field("paused") or ""
        if verb == "import" and name in IMPORTED:
            return IMPORTED[name]
        if verb in ("resolve", "declare", "withdraw", "relayed") and name in ARRIVAL:
            return ARRIVAL[name]
        if verb == "tell" and name in TOLD:
            return TOLD[name]
        length = await self.mux.command("LLEN", self.keys.journal(self.id))
        own = length - (self.lease.base if self.lease else 0)
        return {
            "session": SESSION, "busy": "", "most": "",
            "id": self.id, "fence": self.lease.fence if self.lease else STALE, "k": self.lease.k if self.lease else own,
            "entries": [STEP], "reason": "PROMISE", "wake": {"park": "", "retry": "+1000", "shelve": "+1000"}.get(verb),
            "name": {"note": "changed"}.get(verb, "fetch#0"), "failure": FAILURE, "status": "COMPLETED",
            "result": result_of(_ENDS.get(verb, "COMPLETED")), "keep": DAY, "channels": "t:r:", "hints": "t:h:",
            "value": b"v", "body": BODY, "queue": QUEUE, "reply": "c1", "digest": "", "deadline": "", "max": "",
            "token": "t1", "channel": self.keys.news(self.id), "worker": WORKER, "owner": WORKER,
            "liveness": "", "idle": 0, "base": self.lease.base if self.lease else 0, "counted": 1,
            "continue_lane": UNPINNED, "solo_lane": SOLO, "child": CHILD,
        }[name]  # fmt: skip

    async def _place(self, name: str, verb: str) -> Any:
        lane, entry = await self._at()
        if name == "start":
            return "+60000" if verb == "schedule" else ""
        if name == "first":
            first = await self.mux.command("ZRANGE", self.keys.line(QUEUE, SESSION), 0, 0)
            return first[0] if first else ""
        if name == "lane" and verb == "resume":
            return await self._paused_lane()
        if name == "lane" and verb == "reseat":
            return await self.field("lane") or ""
        if name == "at":
            return await self.mux.command("HGET", self.keys.head(self.id), "at") or ""
        if name == "seen":
            return await self.mux.command("LLEN", self.keys.journal(self.id))
        if name == "expected":
            return await self.mux.command("HGET", self.keys.head(self.id), "status") or ""
        if name == "entry":
            return {"cancel": CANCEL, "expire": TIMEOUT, "redrive": REOPENED, "resolve": VALUE}.get(verb, entry)
        if verb == "recover":
            return lane
        fresh = ("submit", "schedule", "import", "enter", "join")
        if verb in fresh or (verb == "fire" and (await self.status()) == "CREATED"):
            return "q:normal"
        return UNPINNED

    # -- looking

    async def field(self, name: str) -> str | None:
        """Return a field of the head."""
        value = await self.mux.command("HGET", self.keys.head(self.id), name)
        return None if value is None else value.decode()

    async def status(self) -> str | None:
        """Return the status of the head."""
        return await self.field("status")

    async def journal(self) -> list[bytes]:
        """Return the entries."""
        return list(await self.mux.command("LRANGE", self.keys.journal(self.id), 0, -1))

    async def dump(self) -> dict[str, Any]:
        """Return everything that the namespace holds, but for idle times."""
        mux = self.mux
        found: dict[str, Any] = {}
        names = sorted(await mux.command("KEYS", f"{self.store.namespace}:*"))
        kinds = await asyncio.gather(*(mux.command("TYPE", name) for name in names))
        for name, kind in zip(names, kinds, strict=True):
            words = {
                b"string": ("GET", name), b"hash": ("HGETALL", name), b"list": ("LRANGE", name, 0, -1),
                b"zset": ("ZRANGE", name, 0, -1, "WITHSCORES"), b"set": ("SMEMBERS", name),
                b"stream": ("XRANGE", name, "-", "+"),
            }[kind]  # fmt: skip
            value = await mux.command(*words)
            if kind == b"hash":
                value = dict(zip(value[::2], value[1::2], strict=True))
            elif kind == b"set":
                value = sorted(value)
            elif kind == b"stream":
                groups = await mux.command("XINFO", "GROUPS", name)
                value = (value, *[await self._group(name, group) for group in groups])
            found[name.decode()] = value
        return found

    async def _group(self, name: bytes, facts: list[Any]) -> tuple[Any, ...]:
        group = dict(zip(facts[::2], facts[1::2], strict=True))
        rows = await self.mux.command("XPENDING", name, group[b"name"], "-", "+", 1000)
        return group[b"name"], group[b"last-delivered-id"], [(entry, owner, times) for entry, owner, _, times in rows]

    async def twice(self, verb: str, **given: Any) -> tuple[Any, Any]:
        """Send the very same call twice, as after a lost answer; assert that the second changed nothing."""
        sent: list[tuple[Any, ...]] = []
        call = self.mux.call

        def keep(*args: Any) -> Any:
            sent.append(args)
            return call(*args)

        self.mux.call = keep  # type: ignore[method-assign]  # to send again what was sent, byte for byte
        try:
            first = await self.call(verb, **given)
        finally:
            self.mux.call = call  # type: ignore[method-assign]
        await check_all(self.store)
        before = await self.dump()
        second = await self.mux.call(*sent[0])
        assert await self.dump() == before, f"{verb} sent twice changed something"
        return first, second.decode() if isinstance(second, bytes) else second
