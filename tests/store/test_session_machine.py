"""
Random verbs on one session by pretend senders, workers and operators, beside a list that says what its line must be.

After every step the line in Redis is the list, its first holds the session and nobody else can be claimed, and the
namespace holds no orphan. Whatever is sent a second time changes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from redurable.config import parse_url
from redurable.errors import NotFound, WrongState
from redurable.ids import derived_id
from redurable.store import sessions
from redurable.store.keeper import Pending
from redurable.store.lease import Lease, sit
from redurable.store.server import PrivateServer
from redurable.store.session import Entry
from redurable.store.store import Store
from tests.store.world import BODY, DAY, FAILURE, FINAL, NOW_MS, QUEUE, SESSION, World, result_of
from tests.support.invariants import check_all

_counter = itertools.count(1)


class Machine(RuleBasedStateMachine):
    server: PrivateServer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.serial = next(_counter)
        self.ids = itertools.count()
        self.now, self.micros = NOW_MS, 0
        self.line: list[str] = []  # what must be in line, the holder first
        self.place: dict[str, int] = {}  # when each was first put in line
        self.delayed: dict[str, int] = {}
        self.ended: dict[str, str] = {}
        self.lease: Lease | None = None  # of the holder
        self.ran: set[str] = set()
        self.canceling: set[str] = set()
        self.waits = False
        self.last: tuple[Any, ...] | None = None
        self.run(self._open())

    async def _open(self) -> None:
        self.store = Store(parse_url(self.server.url), f"line{self.serial}")
        await self.store.start()
        self.world = World(self.store)
        await self.world.keeper.open([*self.world.streams, self.world.solo])
        call = self.store.mux.call

        def remember(*args: Any) -> Any:
            self.last = args
            return call(*args)

        self.store.mux.call = remember  # type: ignore[method-assign]  # to send again what was sent

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 60))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    def again(self) -> None:
        """Send the last call a second time: nothing changes."""

        async def twice() -> None:
            before = await self.world.dump()
            assert self.last is not None
            await self.store.mux.call(*self.last)
            assert await self.world.dump() == before, f"{self.last[0].name} sent twice changed something"

        self.run(twice())

    def append(self, intent: str) -> None:
        self.place[intent] = next(self.ids)
        self.line.append(intent)

    def tick(self) -> None:
        """Let a microsecond pass: no two intents come to a line at the same moment, which says their places."""
        self.micros += 1
        self.store.mux.clock = str(self.now * 1000 + self.micros)

    def interrupted(self, intent: str) -> None:
        """Let the holder, if it waits, continue to meet its cancel, which it does once."""
        if intent not in self.canceling:
            self.canceling.add(intent)
            self.waits = False

    def gone(self, intent: str, status: str) -> None:
        self.canceling.discard(intent)
        if self.line[:1] == [intent]:
            self.lease, self.waits = None, False
        if intent in self.line:
            self.line.remove(intent)
        self.delayed.pop(intent, None)
        self.ended[intent] = status

    # -- senders

    @rule(
        delay=st.sampled_from([0, 0, 0, 300]),
        busy=st.sampled_from(["queue", "queue", "reject"]),
        most=st.sampled_from([None, None, 0, 2]),
        lane=st.sampled_from(["q:high", "q:normal"]),
    )
    @precondition(lambda self: len(self.line) + len(self.delayed) < 7)
    def send(self, delay: int, busy: str, most: int | None, lane: str) -> None:
        intent = derived_id(0, "line", str(next(self.ids)))
        self.tick()
        entry = Entry(SESSION) if delay else Entry(SESSION, busy, most)
        word = self.run(self._word(self.store.submit(intent, BODY, QUEUE, lane, delay_ms=delay, entry=entry)))
        if delay:
            assert word == "QUEUED"
            self.delayed[intent] = self.now + delay
        elif self.line and busy == "reject":
            assert word == "BUSY"
            return
        elif self.line and most is not None and len(self.line) - 1 >= most:
            assert word == "FULL"
            return
        else:
            assert word == ("QUEUED" if self.line else "OK")
            self.append(intent)
        self.again()

    async def _word(self, future: Any) -> str:
        return str((await future).decode())

    @rule(data=st.data())
    @precondition(lambda self: self.line or self.delayed)
    def cancel(self, data: Any) -> None:
        intent = data.draw(st.sampled_from([*self.line, *self.delayed]))
        word = self.run(self.store.cancel(intent))
        if self.line[:1] == [intent] and intent in self.ran:
            assert word == "REQUESTED"
            self.interrupted(intent)
            self.again()
            return
        assert word == "CANCELED"
        self.gone(intent, "CANCELED")
        self.again()

    @rule(data=st.data(), on_busy=st.sampled_from(["interrupt", "replace"]))
    @precondition(lambda self: 0 < len(self.line) < 6)
    def make_way(self, data: Any, on_busy: str) -> None:
        intent = derived_id(0, "line", str(next(self.ids)))
        self.tick()
        entry = Entry(SESSION, on_busy)
        assert self.run(self._word(self.store.submit(intent, BODY, QUEUE, "q:normal", entry=entry))) == "QUEUED"
        ahead = list(self.line)
        self.append(intent)
        if data.draw(st.booleans(), label="the sender dies"):
            self.run(self.world.keeper.mend(intent))
        else:
            self.run(self.store.make_way(intent, QUEUE, SESSION, on_busy))
        if on_busy == "interrupt":
            if ahead[0] in self.ran:
                self.interrupted(ahead[0])
            else:
                self.gone(ahead[0], "CANCELED")
        else:
            for other in ahead[1:]:
                self.gone(other, "CANCELED")

    # -- workers

    @rule()
    @precondition(lambda self: self.line and self.lease is None and not self.waits)
    def claim(self) -> None:
        leases = self.run(self.world.claim(9))
        assert [lease.id for lease in leases] == self.line[:1]
        self.lease = leases[0]
        sit(self.lease, SESSION, shared=False)
        self.ran.add(self.lease.id)

    @rule()
    @precondition(lambda self: self.lease is not None or self.waits or not self.line)
    def nobody_else_can_be_claimed(self) -> None:
        assert self.run(self.world.claim(9)) == []

    @rule(verb=st.sampled_from(["park", "retry", "release"]))
    @precondition(lambda self: self.lease is not None)
    def put_down(self, verb: str) -> None:
        lease = self.lease
        assert lease is not None

        async def down() -> bytes:
            seen = await self.store.mux.command("LLEN", self.store.keys[0].journal(lease.id))
            if verb == "park":
                return bytes(await lease.park(seen, "PROMISE", None))
            if verb == "retry":
                return bytes(await lease.retry(seen, 60_000, FAILURE))
            return bytes(await lease.release())

        assert self.run(down()) == b"OK"
        self.again()
        self.lease, self.waits = None, verb != "release"

    @rule()
    @precondition(lambda self: self.waits)
    def wake(self) -> None:
        assert self.run(self.store.wake(self.line[0])) == "OK"
        self.waits = False

    @rule(status=st.sampled_from(FINAL))
    @precondition(lambda self: self.lease is not None)
    def settle(self, status: str) -> None:
        lease = self.lease
        assert lease is not None
        assert self.run(self._settle(lease, status)) == b"OK"
        self.again()
        self.gone(lease.id, status)

    async def _settle(self, lease: Lease, status: str) -> bytes:
        return bytes(await lease.settle(status, result_of(status), DAY))

    @rule()
    @precondition(lambda self: self.lease is not None)
    def lose(self) -> None:
        lease = self.lease
        assert lease is not None
        word = self.run(self.world.keeper.recover(Pending(lease.stream, lease.entry, "w1", 0), counted=False))
        assert word == "OK"
        self.lease = None
        assert self.run(self._settle(lease, "COMPLETED")) in (b"FENCED", b"WRONG_STATE")

    @rule(ms=st.sampled_from([1, 200, 400]))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.tick()
        due = sorted((at, intent) for intent, at in self.delayed.items() if at <= self.now)
        for _, intent in due:
            self.tick()
            assert self.run(self.world.keeper.fire(self.store, intent)) == ("QUEUED" if self.line else "OK")
            del self.delayed[intent]
            self.append(intent)
            self.again()

    # -- operators

    @rule(data=st.data())
    @precondition(lambda self: any(s != "COMPLETED" for s in self.ended.values()) and len(self.line) < 7)
    def redrive(self, data: Any) -> None:
        intent = data.draw(st.sampled_from([i for i, s in self.ended.items() if s != "COMPLETED"]))
        self.tick()
        self.run(self.store.redrive(intent))
        self.again()
        del self.ended[intent]
        self.ran.add(intent)
        if intent not in self.place:  # it was delayed, and ended before it was due
            self.append(intent)
            return
        behind = sorted([*self.line[1:], intent], key=self.place.__getitem__)
        self.line = [*self.line[:1], *behind]

    @rule()
    def skip(self) -> None:
        try:
            intent = self.run(sessions.skip(self.store, QUEUE, SESSION))
        except NotFound:
            assert not self.line
        except WrongState:
            assert self.lease is not None
        else:
            assert intent == self.line[0]
            assert self.lease is None
            self.gone(intent, "FAILED")
            self.again()

    @rule(data=st.data())
    @precondition(lambda self: self.line)
    def mend(self, data: Any) -> None:
        intent = data.draw(st.sampled_from(self.line))
        assert self.run(self.world.keeper.mend(intent)) == "OK"

    # -- what must hold

    @invariant()
    def the_line_is_the_list(self) -> None:
        assert self.run(self.world.line()) == self.line
        assert self.run(check_all(self.store)).total() == len(self.line) + len(self.delayed) + len(self.ended)


@pytest.mark.timeout(300)
def test_random_verbs_keep_the_line(real: PrivateServer) -> None:
    Machine.server = real
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
