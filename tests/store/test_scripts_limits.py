"""The verbs of limits: occupy, linger, vacate, review; sent twice, by whom they are not meant, and after every loss."""

from __future__ import annotations

import random
from typing import Any

import pytest

from redurable.ids import new_id
from redurable.store import control
from redurable.store.keys import limit_keys
from redurable.store.lease import Lease
from redurable.store.limits import Place, Wanted, linger, occupy, review, vacate
from redurable.store.server import PrivateServer
from tests.store.conftest import plain
from tests.store.world import DAY, WORKER, World
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio
TWO = Wanted("two", 2, 0, 0)
RATED = Wanted("rated", 0, 3, 1_000_000)
LEASE_MS, KEPT_MS, LOOK_MS, IDLE_MS = 10_000, 10_000, 5_000, 60_000


async def leases(world: World, count: int, worker: str = "") -> list[Lease]:
    """Send and claim *count* intents, each a ms younger than the one before."""
    await world.keeper.open([*world.streams, world.solo])
    found = []
    for _ in range(count):
        intent = await world.submit(new_id(0))
        (lease,) = await world.claim(worker=worker)
        assert lease.id == intent
        found.append(lease)
        world.advance(1)
    return found


async def take(lease: Lease, *wanted: Wanted, call: str = "", ask: str = "", slack: int = 0) -> Any:
    """Ask for a place; "OK", a refusal, or the number of the full limit."""
    word = await occupy(Place(lease, call, wanted), ask, slack)
    return word.decode() if isinstance(word, bytes) else word


async def give(lease: Lease, *wanted: Wanted, call: str = "", **more: Any) -> None:
    assert await vacate(Place(lease, call, wanted), **more) == b"OK"


async def wait(lease: Lease, *waits: Wanted, call: str = "", seen: int | None = None) -> str:
    """Put the intent down in these lines."""
    word = await linger(lease, [(w, Place(lease, call, waits)) for w in waits], seen, None)
    return str(word.decode())


async def numbers(world: World, limit: str = "two") -> tuple[int, int]:
    """Return places that are taken or kept, and how many wait."""
    _, used, line, _ = limit_keys(world.keys, limit)
    return await world.mux.command("ZCARD", used), await world.mux.command("ZCARD", line)


async def traces(world: World) -> list[str]:
    """Return the keys of all limits."""
    keys = [raw.decode() for raw in await world.mux.command("KEYS", f"{world.store.namespace}:*")]
    return [key for key in keys if key.startswith(f"{world.keys.prefix}l")]


async def again(world: World, work: Any) -> Any:
    """Make a call, send its very bytes again; assert that the second changed nothing and give both answers."""
    sent: list[tuple[Any, ...]] = []
    call = world.mux.call

    def keep(*args: Any) -> Any:
        sent.append(args)
        return call(*args)

    world.mux.call = keep  # type: ignore[method-assign]  # to send again what was sent
    try:
        first = await work
    finally:
        world.mux.call = call  # type: ignore[method-assign]
    await check_all(world.store)
    before = await world.dump()
    second = await world.mux.call(*sent[-1])
    assert await world.dump() == before, "sent twice it changed something"
    return first, second.decode() if isinstance(second, bytes) else second


class TestOccupy:
    async def test_so_many_as_the_limit_allows_and_the_next_waits(self, world: World) -> None:
        a, b, c = await leases(world, 3)
        assert [await take(a, TWO), await take(b, TWO), await take(c, TWO)] == ["OK", "OK", 1]
        assert await numbers(world) == (2, 1)

    async def test_sent_twice_it_answers_the_same(self, world: World) -> None:
        a, b, c = await leases(world, 3)
        for lease in (a, b):
            assert await again(world, take(lease, TWO, RATED, ask="1")) == ("OK", "OK")
        assert await again(world, take(c, TWO, RATED, ask="1")) == (1, 1)
        assert await world.mux.command("ZCARD", limit_keys(world.keys, "rated")[3]) == 2

    @pytest.mark.parametrize("state", ["FENCED", "NOT_FOUND", "WRONG_STATE"])
    async def test_only_the_owner_may(self, world: World, state: str) -> None:
        (lease,) = await leases(world, 1)
        if state == "FENCED":
            lease.fence = b"1:w0:1"
        elif state == "WRONG_STATE":
            await lease.settle("COMPLETED", b"", DAY)
        else:
            await world.mux.command(
                "DEL", lease.head, *await world.mux.command("KEYS", f"{world.keys.prefix}*{lease.id}")
            )
            await world.mux.command("DEL", lease.stream)
        before = await world.dump()
        assert await take(lease, TWO) == state
        assert await world.dump() == before

    async def test_two_limits_are_taken_together_or_not_at_all(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert await take(a, one) == "OK"
        assert await take(b, TWO, one) == 2
        assert (await numbers(world), await numbers(world, "one")) == ((0, 0), (1, 1))
        await give(a, one)
        assert await take(b, TWO, one) == "OK"
        assert (await numbers(world), await numbers(world, "one")) == ((1, 0), (1, 0))

    async def test_who_comes_later_does_not_pass_who_waits(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b, c = await leases(world, 3)
        assert [await take(a, one), await take(c, one), await take(b, one)] == ["OK", 1, 1]
        await give(a, one)
        assert await take(c, one) == 1, "b is older"
        assert await take(a, one, call="next") == 1, "it has had its turn"
        assert await take(b, one) == "OK"

    async def test_a_place_that_is_kept_goes_to_the_next_if_nobody_comes(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b, c = await leases(world, 3)
        assert [await take(a, one), await take(b, one), await take(c, one)] == ["OK", 1, 1]
        await give(a, one)
        world.advance(KEPT_MS + 1)
        assert await review(world.store, world.keys, "one") == "REVIEWED"
        assert await take(b, one) == 1, "it comes too late, and is the first in line again"
        assert await take(c, one) == "OK"
        await give(c, one)
        assert await take(b, one) == "OK"

    async def test_the_next_owner_goes_on_in_the_same_place(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        (a,) = await leases(world, 1)
        assert await take(a, one, call="x") == "OK"
        assert await a.release() == b"OK"
        (heir,) = await world.claim()
        assert await take(heir, one, call="x") == "OK"
        await give(a, one, call="x")
        assert await numbers(world, "one") == (1, 0), "what a late owner gives back is not his"
        await give(heir, one, call="x")
        assert await numbers(world, "one") == (0, 0)

    @pytest.mark.parametrize(("number", "more"), [(1, 0), (4, 2)])
    async def test_the_number_of_who_asks_last_is_right(self, world: World, number: int, more: int) -> None:
        a, b, c, d, e = await leases(world, 5)
        assert [await take(x, TWO) for x in (a, b, c, d)] == ["OK", "OK", 1, 1]
        other = Wanted("two", number, 0, 0)
        assert await take(e, other) == 1
        assert await numbers(world) == (2 + more, 3 - more)
        assert int(await world.mux.command("HGET", limit_keys(world.keys, "two")[0], "concurrency")) == number
        await give(a, other)
        await give(b, other)
        assert await numbers(world) == ((1, 2) if number == 1 else (3, 0))


class TestRate:
    async def test_no_time_of_that_length_has_more_in_it(self, world: World) -> None:
        """Whenever they ask, and however long each may take to begin: its slack."""
        dice = random.Random(7)
        holders = await leases(world, 4)
        began: list[tuple[int, int]] = []  # the earliest and the latest moment at which it may have begun
        for n in range(300):
            lease = dice.choice(holders)
            slack = dice.choice((0, 20_000, 300_000))
            if await take(lease, RATED, call=str(n), ask=str(n), slack=slack) == "OK":
                now = int(world.mux.clock)
                began.append((now, now + slack))
            else:
                await give(lease, RATED, call=str(n), gone=True)
            world.advance(dice.randrange(0, 400))
        assert len(began) > 100
        for i, (_, latest) in enumerate(began):
            # even if this one began as late as it may, and all the others as early: three at most in a second
            assert sum(1 for early, late in began if i and early < latest + 1_000_000 and late >= latest) <= 3

    async def test_what_was_not_used_counts_no_more(self, world: World) -> None:
        (a,) = await leases(world, 1)
        for n in range(10):
            assert await take(a, RATED, call="x", ask=str(n)) == "OK"
            await give(a, RATED, call="x", unused=str(n))

    async def test_who_waits_is_called_up_when_the_time_is_over(self, world: World) -> None:
        a, b = await leases(world, 2)
        for n in range(3):
            assert await take(a, RATED, call=str(n), ask=str(n)) == "OK"
        assert await take(b, RATED, ask="1") == 1
        assert await wait(b, RATED) == "OK"
        world.advance(999)
        assert await review(world.store, world.keys, "rated") == "EARLY"
        world.advance(2)
        assert await review(world.store, world.keys, "rated") == "REVIEWED"
        assert await world.state_of(b.id) == "SUBMITTED"

    async def test_an_attempt_that_begins_again_is_counted_again(self, world: World) -> None:
        both = Wanted("both", 2, 3, 1_000_000)
        (a,) = await leases(world, 1)
        for n in range(3):
            assert await take(a, both, ask=f"{n}") == "OK"
            assert await a.release() == b"OK"
            (a,) = await world.claim()
        assert await take(a, both, ask="4") == 1
        assert await numbers(world, "both") == (0, 1)


class TestLinger:
    async def test_what_waits_is_put_down_and_called_up_by_who_makes_room(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert [await take(a, one), await take(b, one)] == ["OK", 1]
        assert await again(world, wait(b, one)) == ("OK", "OK")
        head = dict(zip(*[iter(await world.mux.command("HGETALL", b.head))] * 2, strict=True))
        assert (head[b"status"], head[b"reason"], head[b"limit"]) == (b"WAITING", b"LIMIT", b"one")
        assert b"attempt" not in head, "it has not begun"
        assert await again(world, give(a, one)) == (None, "OK")
        assert await world.state_of(b.id) == "SUBMITTED"
        (heir,) = await world.claim()
        assert (heir.id, heir.attempt, heir.base) == (b.id, 1, 0)
        assert await take(heir, one) == "OK"

    async def test_it_is_refused_when_it_was_called_up_meanwhile(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert [await take(a, one), await take(b, one)] == ["OK", 1]
        await give(a, one)
        assert await wait(b, one) == "NEWS"
        assert await take(b, one) == "OK"

    async def test_it_is_refused_when_something_came_that_was_not_seen(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert [await take(a, one), await take(b, one)] == ["OK", 1]
        assert await world.store.cancel(b.id) == "REQUESTED"
        assert await wait(b, one, seen=0) == "NEWS"
        assert await wait(b, one, seen=1) == "OK"

    async def test_only_the_owner_may(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert [await take(a, one), await take(b, one)] == ["OK", 1]
        assert await control.kill(world.store, b.id) == "CANCELED"
        assert await wait(b, one) == "WRONG_STATE"
        b.fence = b"1:w0:1"
        assert await wait(b, one) == "FENCED"

    async def test_one_that_was_paused_meanwhile_asks_again_when_it_is_resumed(self, world: World) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert [await take(a, one), await take(b, one)] == ["OK", 1]
        assert await control.pause(world.store, b.id) == "REQUESTED"
        assert await wait(b, one) == "OK"
        assert await world.state_of(b.id) == "PAUSED"
        await give(a, one)
        assert await numbers(world, "one") == (0, 0), "nobody is called up who cannot come"
        await control.resume(world.store, b.id)
        (heir,) = await world.claim()
        assert await take(heir, one) == "OK"

    @pytest.mark.parametrize("how", ["cancel", "kill", "pause", "wake"])
    async def test_whatever_becomes_of_one_in_line_the_next_is_called_up(self, world: World, how: str) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b, c = await leases(world, 3)
        assert [await take(x, one) for x in (a, b, c)] == ["OK", 1, 1]
        assert [await wait(x, one) for x in (b, c)] == ["OK", "OK"]
        if how == "cancel":
            assert await world.store.cancel(b.id) == "CANCELED"
        elif how == "kill":
            assert await control.kill(world.store, b.id) == "CANCELED"
        elif how == "pause":
            assert await control.pause(world.store, b.id) == "PAUSED"
        else:
            assert await world.store.wake(b.id) == "OK"
        await give(a, one)
        assert await world.state_of(c.id) == "SUBMITTED"
        if how == "pause":
            await control.resume(world.store, b.id)
            assert await world.state_of(b.id) == "SUBMITTED"


class TestReview:
    async def test_what_a_dead_owner_had_is_free_at_once(self, world: World) -> None:
        a, b, c = await leases(world, 3)
        assert [await take(x, TWO) for x in (a, b, c)] == ["OK", "OK", 1]
        assert await a.settle("COMPLETED", b"", DAY) == b"OK"  # and then it died, before it gave anything back
        assert await numbers(world) == (2, 1)
        world.advance(LOOK_MS + 1)
        assert await review(world.store, world.keys, "two") == "REVIEWED"
        assert await take(c, TWO) == "OK"

    async def test_an_owner_that_lives_has_a_lease_to_end_what_it_does(self, world: World, real: PrivateServer) -> None:
        one = Wanted("one", 1, 0, 0)
        a, b = await leases(world, 2)
        assert [await take(a, one), await take(b, one)] == ["OK", 1]
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as alive:
            alive.subscribe(world.keys.liveness(WORKER))
            alive.get_message(timeout=10)
            assert await control.kill(world.store, a.id) == "CANCELED"
            world.advance(LOOK_MS + 1)
            assert await review(world.store, world.keys, "one") == "REVIEWED"
            assert await take(b, one) == 1, "its body may still run"
            for _ in range(LEASE_MS // LOOK_MS):
                world.advance(LOOK_MS + 1)
                assert await review(world.store, world.keys, "one") == "REVIEWED"
            assert await take(b, one) == "OK"

    async def test_a_place_in_use_stays(self, world: World) -> None:
        a, b = await leases(world, 2)
        assert [await take(x, TWO) for x in (a, b)] == ["OK", "OK"]
        for _ in range(3):
            world.advance(IDLE_MS + 1)
            assert await review(world.store, world.keys, "two") == "REVIEWED"
        assert await numbers(world) == (2, 0)

    async def test_a_limit_that_is_over_leaves_no_key(self, world: World) -> None:
        (a,) = await leases(world, 1)
        assert await take(a, TWO, RATED, ask="1") == "OK"
        assert await a.settle("COMPLETED", b"", DAY) == b"OK"
        world.advance(IDLE_MS + 1)
        for limit in ("two", "rated"):
            assert await review(world.store, world.keys, limit) == "REVIEWED"
            assert await review(world.store, world.keys, limit) == "EARLY", "it is not known any more"
        assert await traces(world) == []

    async def test_two_hundred_that_died_leave_room(self, world: World) -> None:
        """Whatever an owner was at when it died: in its place, called up, in line, put down."""
        dice = random.Random(3)
        await world.keeper.open([*world.streams, world.solo])
        for _ in range(200):
            intent = await world.submit(new_id(0))
            (lease,) = [x for x in await world.claim(50) if x.id == intent] or [None]
            assert lease is not None
            if await take(lease, TWO) != "OK" and dice.random() < 0.7:
                assert await wait(lease, TWO) in ("OK", "NEWS")
            elif dice.random() < 0.2:
                await give(lease, TWO)
            await control.kill(world.store, intent)
            world.advance(dice.choice((1, 500, LOOK_MS)))
            await review(world.store, world.keys, "two")
        for _ in range(3):
            world.advance(IDLE_MS)
            await review(world.store, world.keys, "two")
        assert await numbers(world) == (0, 0)
        assert await traces(world) == []
