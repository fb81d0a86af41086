"""
Random verbs by several pretend workers, producers and operators, against one real server, beside a model of it.

After every step the model's states are the server's, and nothing in the namespace is an orphan. Verbs of owners that
lost their lease change nothing; so does whatever is sent a second time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from redurable.config import parse_url
from redurable.errors import WrongState
from redurable.ids import derived_id
from redurable.model import AttemptFailed, ErrorInfo, encode_entry
from redurable.options import Debounce
from redurable.store import control
from redurable.store.bursts import Burst
from redurable.store.keeper import Keeper, Pending
from redurable.store.keys import SOLO, UNPINNED
from redurable.store.lease import Lease, shelve
from redurable.store.schedules import Plan, alter, fire, fresh, read
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from redurable.ticks import Rhythm, due
from tests.store.world import BODY, FINAL, NOW_MS, QUEUE, STEP, World, result_of
from tests.support.invariants import check_all

WORKERS = ("w1", "w2", "w3")
KEEP = 5000
EVERY = 400  # ms
_counter = itertools.count(1)


@dataclass
class Intent:
    """What the model knows of an intent."""

    status: str
    lane: str
    deadline: int | None = None
    start: int | None = None
    wake: int | None = None
    most: int = 3
    attempt: int = 0
    epoch: int = 0
    journal: int = 0
    losses: int = 0
    lost: bytes | None = None
    holder: str | None = None  # to whom it was delivered, who has not claimed it
    canceling: bool = False
    lease: Lease | None = None
    cursor: bytes | None = None
    removal: int = 0
    until: int | None = None  # the end of its burst
    begun: bool = False  # the next claim writes an entry
    claims: int = -1  # how long its journal was when a claim had written one
    reason: str = ""
    arrivals: dict[str, str] = field(default_factory=dict)  # "?", "-", or the digest of what came
    pausing: bool = False  # to be paused once its owner hands it back
    back: tuple[str, Any] = ("", None)  # what one that is PAUSED is resumed to

    def give_up(self) -> None:
        """Its attempt is over: the lease is dead."""
        self.lease = None

    def queue_up(self, lane: str = UNPINNED) -> None:
        self.status, self.lane, self.holder, self.wake, self.start = "SUBMITTED", lane, None, None, None
        self.give_up()
        if self.pausing:
            self.status, self.back, self.pausing = "PAUSED", ("SUBMITTED", lane), False

    def wait(self, reason: str, wake: int | None) -> None:
        self.status, self.reason, self.wake = "WAITING", reason, wake
        if self.pausing:
            self.status, self.back, self.pausing = "PAUSED", ("WAITING", self.journal), False

    def finish(self, status: str, now: int, keep: int) -> None:
        self.status, self.removal, self.wake, self.start = status, now + keep, None, None
        self.cursor, self.holder = None, None
        self.give_up()


@dataclass
class Hand:
    """A worker's hands: its claims' number, and what blocking reads put there."""

    number: int = 0
    given: list[Any] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    server: PrivateServer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = NOW_MS
        self.serial = next(_counter)
        self.ids = itertools.count()
        self.intents: dict[str, Intent] = {}
        self.dead: list[Lease] = []
        self.hands = {name: Hand() for name in WORKERS}
        self.last_call: tuple[Any, ...] | None = None
        self.run(self._open())

    async def _open(self) -> None:
        self.store = Store(parse_url(self.server.url), f"machine{self.serial}")
        await self.store.start()
        self.world = World(self.store)
        self.keys = self.store.keys[0]
        self.keepers = {name: Keeper(self.store, 0, name) for name in WORKERS}
        self.streams = [*self.world.streams, self.world.solo]
        await self.keepers["w1"].open(self.streams)
        self.plan = Plan(rhythm=Rhythm(every=EVERY), queue=QUEUE, overlap="skip", window=10 * EVERY)
        self.next, self.last, self.missed, self.skipped = self.now // EVERY * EVERY + EVERY, "", 0, 0
        begun: dict[str, Any] = {"plan": self.plan, "status": "ACTIVE", **fresh(self.plan, "drum", self.now)}
        await alter(self.store, "drum", lambda stored, now: begun)
        self.burst = ""
        call = self.store.mux.call

        def remember(*args: Any) -> Any:
            self.last_call = args
            return call(*args)

        self.store.mux.call = remember  # type: ignore[method-assign]  # to send again what was sent

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    # -- helpers

    def some(self, data: Any, *statuses: str) -> tuple[str, Intent]:
        ids = [i for i, m in self.intents.items() if not statuses or m.status in statuses]
        intent = data.draw(st.sampled_from(ids), label="intent")
        return intent, self.intents[intent]

    def leased(self, data: Any) -> tuple[str, Intent, Lease]:
        intent, model = self.some(data, "IN_PROGRESS")
        assert model.lease is not None
        return intent, model, model.lease

    def again(self, data: Any) -> None:
        """Perhaps send the last call a second time: nothing changes."""
        if data.draw(st.booleans(), label="sent twice") and self.last_call is not None:
            self.run(self._again(self.last_call))

    async def _again(self, sent: tuple[Any, ...]) -> None:
        before = await self.world.dump()
        await self.store.mux.call(*sent)
        assert await self.world.dump() == before, f"{sent[0].name} sent twice changed something"

    def unchanged(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def compared() -> Any:
            before = await self.world.dump()
            answer = await work()
            assert await self.world.dump() == before
            return answer

        return self.run(compared())

    # -- producers

    @rule(
        data=st.data(),
        lane=st.sampled_from(["q:high", "q:normal", "q:low"]),
        delay=st.sampled_from([0, 0, 0, 300]),
        deadline=st.sampled_from([None, None, 200, 900]),
        most=st.sampled_from([None, 1, 2, 3, 4]),
    )
    @precondition(lambda self: len(self.intents) < 7)
    def submit(self, data: Any, lane: str, delay: int, deadline: int | None, most: int | None) -> None:
        intent = derived_id(0, str(self.serial), str(next(self.ids)))
        word = self.run(_word(self.store.submit(
            intent, BODY, QUEUE, lane, reply="c1", delay_ms=delay, max_losses=most,
            deadline="" if deadline is None else f"+{deadline}",
        )))  # fmt: skip
        assert word == "OK"
        self.intents[intent] = Intent(
            "CREATED" if delay else "SUBMITTED", lane, most=most or 3,
            deadline=None if deadline is None else self.now + deadline, start=self.now + delay if delay else None,
        )  # fmt: skip
        self.again(data)

    @rule(data=st.data(), lane=st.sampled_from(["q:high", "q:normal"]), deadline=st.sampled_from([None, 200]))
    @precondition(lambda self: len(self.intents) < 7)
    def debounce(self, data: Any, lane: str, deadline: int | None) -> None:
        burst = Burst(self.store, Debounce(0.3, within=0.7), "", "")
        due = "" if deadline is None else f"+{deadline}"

        async def send() -> bytes:
            return bytes(await burst.submit("", BODY, QUEUE, lane, reply="c1", deadline=due))

        assert self.run(send()) == b"OK"
        open_one = self.intents.get(self.burst)
        takes = open_one is not None and open_one.status == "CREATED"
        assert (burst.intent == self.burst) == takes
        until = open_one.until if open_one is not None and takes else self.now + 700
        assert until is not None
        self.burst = burst.intent
        self.intents[self.burst] = Intent(
            "CREATED", lane, deadline=None if deadline is None else self.now + deadline,
            start=min(self.now + 300, until), until=until,
        )  # fmt: skip
        if open_one is not None and takes:  # what came for it stays
            kept = {name: getattr(open_one, name) for name in ("journal", "begun", "arrivals")}
            self.intents[self.burst] = replace(self.intents[self.burst], **kept)
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: len(self.intents) < 7)
    def tick(self, data: Any) -> None:
        todo = due(self.plan.rhythm, "drum", self.next, self.now, self.plan.catch_up, self.plan.window)
        word = self.run(fire(self.store, "drum", self.now))
        if todo is None:
            assert word == "EARLY"
            return
        assert todo.next is not None
        self.next, self.missed = todo.next, self.missed + todo.missed
        before = self.intents.get(self.last)
        if before is not None and before.status not in FINAL:
            assert word == "SKIPPED"
            self.skipped += 1
        else:
            assert word == "OK"
            stored = self.run(read(self.store, "drum"))
            assert (stored.next, stored.missed, stored.skipped) == (self.next, self.missed, self.skipped)
            self.last = stored.last
            self.intents[self.last] = Intent("SUBMITTED", "q:normal")
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def submit_again(self, data: Any) -> None:
        intent, _ = self.some(data)
        submit = self.store.submit
        assert self.unchanged(lambda: _word(submit(intent, BODY, QUEUE, "q:normal"))) == "EXISTS"

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def cancel(self, data: Any) -> None:
        intent, model = self.some(data)
        word = self.run(self.store.cancel(intent))
        if model.status in FINAL:
            assert word == model.status
        elif model.canceling:
            assert word == "REQUESTED"
        elif not model.attempt:
            assert word == "CANCELED"
            model.finish("CANCELED", self.now, 30 * 86_400_000)
        else:
            assert word == "REQUESTED"
            self.interrupted(model)
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def kill(self, data: Any) -> None:
        intent, model = self.some(data)
        word = self.run(control.kill(self.store, intent))
        if model.status in FINAL:
            assert word == model.status
        else:
            assert word == "CANCELED"
            model.finish("CANCELED", self.now, 30 * 86_400_000)
        self.again(data)

    def interrupted(self, model: Intent) -> None:
        model.journal += 1
        model.canceling, model.deadline = True, None
        if model.status == "WAITING":
            model.queue_up()

    @rule(data=st.data())
    @precondition(lambda self: any(m.status in FINAL[1:] for m in self.intents.values()))
    def redrive(self, data: Any) -> None:
        intent, model = self.some(data, *FINAL[1:])
        self.run(self.store.redrive(intent))
        model.queue_up()
        model.journal += 1
        model.canceling, model.deadline, model.losses, model.lost = False, None, 0, None
        model.attempt = model.attempt if model.begun else 1
        model.begun, model.pausing = True, False
        self.again(data)

    @rule(data=st.data(), key=st.sampled_from(["a#0", "b#0"]), digest=st.sampled_from(["aa", "bb"]))
    @precondition(lambda self: self.intents)
    def resolve(self, data: Any, key: str, digest: str) -> None:
        intent, model = self.some(data)
        self.world.id = intent
        old = model.arrivals.get(key, "")
        word = self.run(self.world.call("resolve", key=key, digest=digest))
        if old in ("aa", "bb"):
            assert word == ("OK" if old == digest else "ALREADY_RESOLVED")
            return
        if old == "-" or model.status in FINAL:
            assert word == ("WITHDRAWN" if old == "-" else model.status)
            return
        assert word == "OK"
        model.arrivals[key] = digest
        model.journal, model.begun = model.journal + 1, True
        if model.status == "WAITING" and old == "?" and model.reason != "RETRY":
            model.queue_up()
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def pause(self, data: Any) -> None:
        intent, model = self.some(data)
        if model.status in FINAL:
            with pytest.raises(WrongState):
                self.run(control.pause(self.store, intent))
            return
        word = self.run(control.pause(self.store, intent))
        assert word == ("REQUESTED" if model.status == "IN_PROGRESS" else "PAUSED")
        if model.status == "IN_PROGRESS":
            model.pausing = True
        elif model.status != "PAUSED":
            model.back = (model.status, model.journal if model.status == "WAITING" else model.lane)
            model.status, model.holder = "PAUSED", None
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: any(m.status not in FINAL for m in self.intents.values()))
    def resume(self, data: Any) -> None:
        intent, model = self.some(data, "CREATED", "SUBMITTED", "IN_PROGRESS", "WAITING", "PAUSED")
        self.run(control.resume(self.store, intent))
        model.pausing = False
        if model.status == "PAUSED":
            to, what = model.back
            if to == "CREATED" or (to == "WAITING" and what == model.journal):
                model.status = to
            else:
                model.queue_up(what if to == "SUBMITTED" else UNPINNED)
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def wake(self, data: Any) -> None:
        intent, model = self.some(data)
        word = self.run(self.store.wake(intent))
        assert word == ("OK" if model.status in ("WAITING", "SUBMITTED") else "WRONG_STATE")
        if model.status == "WAITING":
            model.queue_up()
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def watch(self, data: Any) -> None:
        intent, model = self.some(data)
        assert self.run(_word(self.store.watch(intent))) == model.status
        self.again(data)

    # -- workers

    @rule(data=st.data(), worker=st.sampled_from(WORKERS), count=st.integers(1, 4))
    def claim(self, data: Any, worker: str, count: int) -> None:
        hand = self.hands[worker]
        hand.number += 1
        free = [m for m in self.intents.values() if m.status == "SUBMITTED" and m.holder is None]
        given = [m for m in self.intents.values() if m.status == "SUBMITTED" and m.holder == worker]
        leases = self.run(self._claim(worker, count, hand.number, hand.given))
        hand.given = []
        assert len(leases) == len(given) + min(len(free), max(0, count - len(given)))
        for lease in leases:
            model = self.intents[lease.id]
            assert model.status == "SUBMITTED"
            assert lease.epoch > model.epoch
            assert (lease.attempt, lease.deadline) == (model.attempt + 1, model.deadline)
            model.claims = -1
            if model.begun:
                model.journal += 1
                model.claims = model.journal
                assert len(lease.entries) == model.journal
            assert lease.base == model.journal
            model.begun = True
            model.attempt, model.epoch, model.lease, model.status = lease.attempt, lease.epoch, lease, "IN_PROGRESS"
            model.lane, model.holder = lease.lane, None
        self.again(data)

    async def _claim(self, worker: str, count: int, number: int, given: list[Any]) -> list[Lease]:
        claimed = b"\x95\x06\xa2" + worker.encode() + b"\xa43.11"
        leases = await self.keepers[worker].claim(self.streams, [""] * 5, count, number, claimed, given)
        for old in [m.lease for m in self.intents.values() if m.lease]:
            assert old.id not in {lease.id for lease in leases}
        return leases

    @rule(worker=st.sampled_from(WORKERS))
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def claim_again(self, worker: str) -> None:
        number = self.hands[worker].number
        mine = {m.lease.id for m in self.intents.values()
                if m.lease and m.lease.fence.endswith(f":{worker}:{number}".encode())}  # fmt: skip
        if number:
            keeper = self.keepers[worker]
            again = self.unchanged(lambda: keeper.claim(self.streams, [""] * 5, 4, number, b"", []))
            assert {lease.id for lease in again} == mine

    @rule(worker=st.sampled_from(WORKERS))
    @precondition(lambda self: any(m.status == "SUBMITTED" and not m.holder for m in self.intents.values()))
    def deliver(self, worker: str) -> None:
        place, entry, raw = self.run(self.world.deliver(worker))
        self.intents[raw.decode()].holder = worker
        self.hands[worker].given += [place, entry, raw]

    @rule(data=st.data(), counted=st.booleans(), liveness=st.booleans())
    @precondition(lambda self: any(m.lease or m.holder for m in self.intents.values()))
    def recover(self, data: Any, counted: bool, liveness: bool) -> None:
        held: list[Pending] = self.run(self._pending())
        entry = data.draw(st.sampled_from(held), label="entry")
        intent = self.run(self._intent_of(entry))
        model = self.intents[intent]
        word = self.run(self.keepers["w1"].recover(
            Pending(entry.stream, entry.entry, entry.owner, 0), liveness=liveness, counted=counted
        ))  # fmt: skip
        solo = model.lane == SOLO
        if model.lease is None:
            assert word == "OK"
            model.queue_up(SOLO if solo else UNPINNED)
        else:
            assert word == self.lose(model, counted, liveness, solo)
        self.again(data)

    def lose(self, model: Intent, counted: bool, liveness: bool, solo: bool) -> str:
        lease = model.lease
        assert lease is not None
        self.dead.append(lease)
        if not counted:
            model.queue_up(SOLO if solo else UNPINNED)
            return "OK"
        if lease.k:
            model.losses, model.lost = 0, None
        model.losses += 1
        if model.losses >= model.most and (solo or model.most <= 1):
            model.finish("FAILED", self.now, 30 * 86_400_000)
            return "FAILED"
        if liveness:
            model.lost = lease.fence
        suspect = model.losses >= 2 or model.losses >= model.most - 1
        model.queue_up(SOLO if suspect else UNPINNED)
        return "SUSPECT" if suspect else "OK"

    async def _pending(self) -> list[Pending]:
        found = [await self.keepers["w1"].pending(stream) for stream in self.streams]
        return [entry for some in found for entry in some]

    async def _intent_of(self, entry: Pending) -> str:
        rows = await self.store.mux.command("XRANGE", entry.stream, entry.entry, entry.entry)
        return str(rows[0][1][1].decode())

    @rule(data=st.data())
    @precondition(lambda self: any(m.lease for m in self.intents.values()) or self.dead)
    def renew(self, data: Any) -> None:
        live = [m.lease for m in self.intents.values() if m.lease]
        lease = data.draw(st.sampled_from([*live, *self.dead]), label="lease")
        worker = lease.fence.split(b":")[1].decode()
        self.world.id, self.world.lease = lease.id, lease
        word = self.run(self.world.call("renew", worker=worker, entry=lease.entry, stream_key=lease.stream))
        model = self.intents.get(lease.id)
        assert word == ("OK" if lease in live else "LOST")
        if model is not None and model.lost == lease.fence and lease not in live:
            model.losses, model.lost = model.losses - 1, None
        self.again(data)

    @rule(data=st.data(), ms=st.sampled_from([1, 100, 1000]))
    def time_passes(self, data: Any, ms: int) -> None:
        self.now += ms
        self.store.mux.clock = str(self.now * 1000)

    @rule(data=st.data())
    def timers(self, data: Any) -> None:
        ids, _ = self.run(self.keepers["w1"].due(self.now, 100))
        drum = {"@drum"} if self.next <= self.now else set()
        due = {i for i, m in self.intents.items() if (at := self.due(m)) is not None and at <= self.now}
        assert set(ids) == due | drum
        for intent in [i for i in ids if i not in drum]:
            model = self.intents[intent]
            word = self.run(self.keepers["w2"].fire(self.store, intent))
            others = [at for at in (model.start, model.wake) if at is not None]
            if model.deadline is not None and model.deadline <= min(others, default=model.deadline):
                if not model.attempt:
                    assert word == "TIMED_OUT"
                    model.finish("TIMED_OUT", self.now, 30 * 86_400_000)
                else:
                    assert word == "REQUESTED"
                    self.interrupted(model)
            else:
                assert word == "OK"
                model.queue_up(model.lane if model.status == "CREATED" else UNPINNED)
            self.again(data)

    def due(self, model: Intent) -> int | None:
        if model.status in FINAL or model.status == "PAUSED":
            return None
        return min((at for at in (model.deadline, model.start, model.wake) if at is not None), default=None)

    @rule(data=st.data())
    @precondition(lambda self: self.intents)
    def mend(self, data: Any) -> None:
        intent, model = self.some(data)
        word = self.unchanged(lambda: self.keepers["w3"].mend(intent))
        assert word == ("STALE" if model.status in (*FINAL, "PAUSED") else "OK")

    @rule()
    def sweep(self) -> None:
        old = [i for i, m in self.intents.items() if m.status in FINAL and m.removal <= self.now]
        assert self.run(self.keepers["w1"].sweep(self.now, 100)) == len(old)
        for intent in old:
            del self.intents[intent]

    # -- owners

    @rule(data=st.data(), count=st.integers(1, 3))
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def record(self, data: Any, count: int) -> None:
        _, model, lease = self.leased(data)
        model.journal += count
        assert self.run(_word(lease.record([STEP] * count))) == model.journal
        lease.k += count
        self.again(data)

    @rule(data=st.data(), by=st.sampled_from([-1, 1]))
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def record_miscounted(self, data: Any, by: int) -> None:
        _, _, lease = self.leased(data)
        lease.k += by
        try:
            word = self.unchanged(lambda: _word(lease.record([STEP])))
        finally:
            lease.k -= by
        assert word == ("DUPLICATE" if by < 0 else "REGRESSED")

    @rule(data=st.data(), value=st.sampled_from([b"1", b"2"]))
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def checkpoint(self, data: Any, value: bytes) -> None:
        _, model, lease = self.leased(data)
        assert self.run(_word(lease.checkpoint("fetch#0", value))) == "OK"
        if model.cursor != value:
            model.cursor, model.losses, model.lost = value, 0, None
        self.again(data)

    @rule(data=st.data(), wake=st.sampled_from([None, 0, 150]), blind=st.booleans())
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def park(self, data: Any, wake: int | None, blind: bool) -> None:
        _, model, lease = self.leased(data)
        seen = model.journal - 1 if blind else model.journal
        at = None if wake is None else self.now + wake
        if blind:
            assert self.unchanged(lambda: _word(lease.park(seen, "TIME", at))) == "NEWS"
            return
        assert self.run(_word(lease.park(seen, "TIME", at))) == "OK"
        self.step_back(model, lease)
        model.wait("TIME", at)
        self.again(data)

    @rule(data=st.data(), wake=st.sampled_from([0, 150]), blind=st.booleans())
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def put_down(self, data: Any, wake: int, blind: bool) -> None:
        _, model, lease = self.leased(data)
        if blind:
            assert self.unchanged(lambda: _word(shelve(lease, model.journal - 1, "UNKNOWN_TYPE", 0))) == "NEWS"
            return
        assert self.run(_word(shelve(lease, model.journal, "UNKNOWN_TYPE", self.now + wake))) == "OK"
        if model.claims == model.journal:
            model.journal -= 1
        model.attempt -= 1
        model.begun = bool(model.attempt or model.journal)
        self.dead.append(lease)
        model.give_up()
        model.wait("UNKNOWN_TYPE", self.now + wake)
        self.again(data)

    @rule(data=st.data(), key=st.sampled_from(["a#0", "b#0"]), gives_up=st.booleans())
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def declare(self, data: Any, key: str, gives_up: bool) -> None:
        _, model, lease = self.leased(data)
        asked = lease.withdraw(key) if gives_up else lease.declare(key, model.journal)
        assert self.run(_word(asked)) == "OK"
        if not gives_up:
            model.arrivals[key] = "?"
        elif model.arrivals.get(key) not in ("aa", "bb"):
            model.arrivals[key] = "-"
        self.again(data)

    def step_back(self, model: Intent, lease: Lease) -> None:
        if lease.k:
            model.losses, model.lost = 0, None
        self.dead.append(lease)
        model.give_up()

    @rule(data=st.data(), delay=st.sampled_from([0, 150]), blind=st.booleans())
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def retry(self, data: Any, delay: int, blind: bool) -> None:
        _, model, lease = self.leased(data)
        failure = encode_entry(AttemptFailed(at=self.now, error=ErrorInfo("E", "no"), due=self.now + delay))
        seen = model.journal - 1 if blind else model.journal
        assert self.run(_word(lease.retry(seen, delay, failure))) == "OK"
        self.step_back(model, lease)
        model.journal += 1
        model.wait("RETRY", self.now if blind else self.now + delay)
        self.again(data)

    @rule(data=st.data())
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def release(self, data: Any) -> None:
        _, model, lease = self.leased(data)
        lane = SOLO if lease.lane == SOLO else UNPINNED
        assert self.run(_word(lease.release())) == "OK"
        self.step_back(model, lease)
        model.queue_up(lane)
        self.again(data)

    @rule(data=st.data(), status=st.sampled_from(FINAL))
    @precondition(lambda self: any(m.lease for m in self.intents.values()))
    def settle(self, data: Any, status: str) -> None:
        _, model, lease = self.leased(data)
        assert self.run(_word(lease.settle(status, result_of(status), KEEP))) == "OK"
        self.dead.append(lease)
        model.finish(status, self.now, KEEP)
        self.again(data)

    @rule(
        data=st.data(),
        verb=st.sampled_from(
            ["record", "checkpoint", "note", "park", "retry", "release", "settle", "shelve", "declare", "withdraw"]
        ),
    )
    @precondition(lambda self: self.dead)
    def zombie(self, data: Any, verb: str) -> None:
        """An owner that lost its lease, or gave it up, goes on as if it had not: nothing changes."""
        lease = data.draw(st.sampled_from(self.dead), label="dead lease")
        args: dict[str, tuple[Any, ...]] = {
            "record": ([STEP],), "checkpoint": ("fetch#0", b"zombie"), "note": ("changed", "zombie"),
            "park": (0, "TIME", None), "retry": (0, 0, STEP), "release": (), "settle": ("FAILED", STEP, KEEP),
            "declare": ("a#0", 0), "withdraw": ("a#0",),
        }  # fmt: skip
        late = {"shelve": lambda: shelve(lease, 0, "TIME", 0)}
        word = self.unchanged(lambda: _word(late[verb]() if verb in late else getattr(lease, verb)(*args[verb])))
        assert word in ("FENCED", "WRONG_STATE", "NOT_FOUND", "OK")

    # -- what always holds

    @invariant()
    def the_server_is_what_the_model_says(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        found = await check_all(self.store)
        assert found.total() == len(self.intents)
        for intent, model in self.intents.items():
            head = await self.store.mux.command(
                "HMGET", self.keys.head(intent), "status", "attempt", "losses", "deadline", "start", "wake"
            )
            status, attempt, losses, deadline, start, wake = (v if v is None else v.decode() for v in head)
            assert (status, int(attempt or 0), int(losses or 0)) == (model.status, model.attempt, model.losses)
            assert await self.store.mux.command("LLEN", self.keys.journal(intent)) == model.journal
            if model.status not in FINAL:
                times = [v if v is None else int(v) for v in (deadline, start, wake)]
                assert times == [model.deadline, model.start, model.wake]


async def _word(future: Any) -> Any:
    answer = await future
    return answer.decode() if isinstance(answer, bytes) else answer


@pytest.mark.timeout(300)
def test_random_verbs_keep_every_promise(real: PrivateServer) -> None:
    Machine.server = real
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
