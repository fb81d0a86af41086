"""One connection for all: order, batching, and what networks and servers do to it. Nothing here may hang."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import hiredis
import pytest
import redis

from redurable.config import parse_url
from redurable.errors import StoreError, StoreUnavailable
from redurable.events import subscribe
from redurable.ids import new_id
from redurable.store import spin
from redurable.store.link import Link
from redurable.store.multiplexer import Multiplexer
from redurable.store.scripts import CHUNK, load_all, parse
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from redurable.store.topology import Topology
from tests.store.conftest import plain
from tests.store.world import BODY, DAY, FAILURE, QUEUE, STEP, World
from tests.support.invariants import check_all
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio

T = TypeVar("T")
COUNT = parse("count", "-- count: any -> any\n-- by     client\n-- keys   counter\n-- args   by\n-- reply  number\n"
              "return redis.call('INCRBY', counter, by)")  # fmt: skip
TARRY = "for _ = 1, 100000 do end "  # a millisecond: the answer is not there before it is polled for
SLOW = parse("slow", "-- slow: any -> any\n-- by     client\n-- keys   counter\n-- args   by\n-- reply  number\n"
             + TARRY + "return redis.call('INCRBY', counter, by)")  # fmt: skip
Make = Callable[..., Awaitable[Multiplexer]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


async def within(awaitable: Awaitable[T], seconds: float = 10) -> T:
    """Return what *awaitable* gives; a hang is a failure."""
    return await asyncio.wait_for(awaitable, seconds)


@contextlib.contextmanager
def heard(wanted: str) -> Iterator[asyncio.Event]:
    """Give an event that is set when redurable emits *wanted*."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hear(name: str, _: dict[str, Any]) -> None:
        if name == wanted:
            loop.call_soon_threadsafe(told.set)

    end = subscribe(hear)
    try:
        yield told
    finally:
        end()


@pytest.fixture
async def make(real: PrivateServer) -> AsyncIterator[Make]:
    """Make multiplexers that are closed after the test."""
    made: list[Multiplexer] = []

    async def make(url: str = "", *, start: bool = True, **options: Any) -> Multiplexer:
        scripts = (*load_all().values(), COUNT, SLOW)
        mux = Multiplexer(Topology(parse_url(url or real.url)), scripts, **options)
        made.append(mux)
        if start:
            await within(mux.start())
        return mux

    yield make
    for mux in made:
        await within(mux.close())


@pytest.fixture
async def proxy(real: PrivateServer) -> AsyncIterator[Proxy]:
    """A proxy before the shared server."""
    async with Proxy(real.port or 0) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: Proxy, space: str) -> AsyncIterator[World]:
    """A world that reaches its server through the proxy alone."""
    store = Store(parse_url(proxy.url), space)
    await store.start()
    yield World(store)
    proxy.thaw()
    proxy.accepting = True
    await within(check_all(store))
    await within(store.close())


@pytest.fixture
def own(binary: str) -> Iterator[PrivateServer]:
    """A server of the test's own, to be killed and frozen."""
    with PrivateServer(port=0, appendfsync="always", binary=binary) as server:
        yield server


class TestHotPath:
    async def test_every_call_gets_its_own_answer(self, make: Make, space: str) -> None:
        mux = await make()
        words: list[Awaitable[Any]] = []
        for n in range(500):
            words.append(mux.command("ECHO", n))
            words.append(mux.call(COUNT, 0, (f"{space}:{n % 7}",), (0,)))
            if n % 50 == 0:
                await asyncio.sleep(0)
        found = await within(asyncio.gather(*words))
        assert found[::2] == [str(n).encode() for n in range(500)]
        assert set(found[1::2]) == {0}

    # the first leaves at once, since the call before it was alone; the others leave together
    @pytest.mark.parametrize(("calls", "evals"), [(1, 1), (CHUNK + 1, 2), (CHUNK + 2, 3), (61, 4)])
    async def test_calls_of_one_turn_leave_together(
        self, make: Make, space: str, real: PrivateServer, calls: int, evals: int
    ) -> None:
        mux = await make()
        await within(mux.call(COUNT, 0, (f"{space}:a",), (0,)))
        with plain(real) as client:
            client.config_resetstat()
            words = [mux.call(COUNT, 0, (f"{space}:a",), (1,)) for _ in range(calls)]
            assert await within(asyncio.gather(*words)) == list(range(1, calls + 1))
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == evals

    async def test_a_full_call_does_not_wait_for_the_turn_to_end(
        self, make: Make, space: str, real: PrivateServer
    ) -> None:
        mux = await make()
        words = [mux.call(COUNT, 0, (f"{space}:a",), (1,)) for _ in range(2 * CHUNK + 3)]
        with plain(real) as client:
            until = time.monotonic() + 10
            # the loop has no turn here: what arrives was written while the calls were made
            while int(client.get(f"{space}:a") or 0) < 2 * CHUNK:
                assert time.monotonic() < until
            assert int(client.get(f"{space}:a")) == 2 * CHUNK
        assert await within(asyncio.gather(*words)) == list(range(1, 2 * CHUNK + 4))

    async def test_partitions_are_never_in_one_call(self, make: Make, space: str, real: PrivateServer) -> None:
        mux = await make()
        with plain(real) as client:
            client.config_resetstat()
            words = [mux.call(COUNT, p, (f"{space}:{{{p}}}",), (1,)) for p in (0, 1, 0, 1)]
            assert await within(asyncio.gather(*words)) == [1, 1, 2, 2]
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 2

    async def test_an_error_of_one_item_is_its_callers_alone(self, make: Make, space: str) -> None:
        mux = await make()
        await within(mux.command("SET", f"{space}:text", "x"))
        names = ("a", "text", "a")
        words = [mux.call(COUNT, 0, (f"{space}:{name}",), (1,)) for name in names]
        found = await within(asyncio.gather(*words, return_exceptions=True))
        assert [found[0], found[2]] == [1, 2]
        assert isinstance(found[1], StoreError)
        assert not isinstance(found[1], StoreUnavailable)

    async def test_an_error_that_begins_like_a_plea_for_patience_is_told(self, make: Make, space: str) -> None:
        mux = await make()
        words = ("XGROUP", "CREATE", f"{space}:s", "g", "0", "MKSTREAM")
        await within(mux.command(*words))
        with pytest.raises(StoreError, match="BUSYGROUP"):
            await within(mux.command(*words))

    async def test_a_waiter_that_gives_up_disturbs_nobody(self, make: Make, space: str) -> None:
        mux = await make()
        words = [mux.call(COUNT, 0, (f"{space}:a",), (1,)) for _ in range(60)]
        echoes = [mux.command("ECHO", n) for n in range(60)]
        for word in (*words[::2], *echoes[1::2]):
            word.cancel()
        assert await within(asyncio.gather(*words[1::2])) == list(range(2, 61, 2))
        assert await within(asyncio.gather(*echoes[::2])) == [str(n).encode() for n in range(0, 60, 2)]

    async def test_a_sink_hears_what_a_future_would(self, make: Make, space: str) -> None:
        mux = await make()

        class Sink:
            answers: list[Any] = []  # noqa: RUF012  # of this one test

            def done(self) -> bool:
                return False

            def set_result(self, reply: Any, /) -> None:
                self.answers.append(reply)

            def set_exception(self, error: Exception, /) -> None:
                self.answers.append(type(error))

        await within(mux.command("SET", f"{space}:text", "x"))
        for name in ("a", "text", "a"):
            mux.call(COUNT, 0, (f"{space}:{name}",), (1,), Sink())
        await within(mux.command("PING"))
        assert Sink.answers == [1, StoreError, 2]

    @pytest.mark.parametrize("alone", [False, True])
    async def test_a_sink_that_fails_is_told_and_keeps_nobody_from_their_answers(
        self, make: Make, space: str, alone: bool
    ) -> None:
        mux = await make()
        errors: list[Exception] = []

        class Sink:
            def done(self) -> bool:
                return False

            def set_result(self, reply: Any, /) -> None:
                raise RuntimeError("a bug")

            def set_exception(self, error: Exception, /) -> None:
                errors.append(error)

        for _ in range(5):  # the later ones are polled for, if the machine is at rest
            await within(mux.command("PING"))
            words = [] if alone else [mux.call(COUNT, 0, (f"{space}:a",), (0,))]
            mux.call(COUNT, 0, (f"{space}:a",), (0,), Sink())
            words += [mux.call(COUNT, 0, (f"{space}:a",), (0,))]
            assert set(await within(asyncio.gather(*words))) == {0}
        assert [str(error) for error in errors] == ["a bug"] * 5
        assert mux.connects == 1


class Babbler:
    """
    A server that answers every ECHO and script with what it was given, in pieces, and does what servers must not.

    The second reply to a word with "extra" in it is nobody's; one with "half" is cut off, one with "noise" is none.
    """

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._done: set[bytes] = set()  # what went wrong once is answered when it is sent again
        self._gate = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._gate.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._gate.shutdown(socket.SHUT_RDWR)
        self._gate.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._gate.accept()[0],), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        reader = hiredis.Reader()
        with contextlib.suppress(OSError), end:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := end.recv(1 << 16):
                reader.feed(data)
                while (words := reader.gets()) is not False:
                    self._answer(end, words)

    def _answer(self, end: socket.socket, words: list[bytes]) -> None:
        items = words[4 + int(words[2]) :] if words[0] == b"EVALSHA" else words[1:2]
        packed = b"".join(b"$%d\r\n%s\r\n" % (len(item), item) for item in items)
        if words[0] not in (b"ECHO", b"EVALSHA"):
            packed = b"+OK\r\n"
        elif words[0] == b"EVALSHA":
            packed = b"*%d\r\n" % len(items) + packed
        trouble = next((w for w in (b"extra", b"half", b"noise") if w in packed), b"")
        if trouble and packed not in self._done:
            self._done.add(packed)
            if trouble == b"extra":
                end.sendall(packed + b"+OK\r\n")
            elif trouble == b"half":
                end.sendall(packed[: self._dice.randrange(len(packed))])
                end.close()
            else:
                end.sendall(packed[: self._dice.choice([0, len(packed)])] + b"\0no reply\r\n")
            return
        while packed:
            size = self._dice.choice([1, 7, 100] if len(packed) < 100 else [4096, len(packed)])
            end.sendall(packed[:size])
            packed = packed[size:]


class Polls:
    """Counts what a multiplexer polls for."""

    def __init__(self, patch: pytest.MonkeyPatch, cores: int = 2) -> None:
        self.hits: list[bool] = []
        poll = Link.poll

        def counted(link: Link, seconds: float) -> bool:
            self.hits.append(poll(link, seconds))
            return self.hits[-1]

        patch.setattr(Link, "poll", counted)
        patch.setattr(spin, "_cores", lambda: cores)
        # a machine under load answers late, and then calls do not follow one another
        patch.setattr(spin, "LONGEST", 0.05)
        patch.setattr(spin, "_ROW", 10.0)


class TestOneAtATime:
    """Calls that follow one another are polled for; whatever happens, each has its answer."""

    async def test_answers_of_a_near_server_are_polled_for(
        self, make: Make, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls = Polls(monkeypatch)
        mux = await make()
        assert [await within(mux.call(SLOW, 0, (f"{space}:a",), (1,))) for _ in range(50)] == list(range(1, 51))
        assert True in polls.hits  # how often is the machine's affair

    async def test_what_is_too_far_away_is_polled_for_ever_more_rarely(
        self, make: Make, space: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls = Polls(monkeypatch)
        monkeypatch.setattr(spin, "LONGEST", 50e-6)
        mux = await make(proxy.url)  # whose answers need turns of this very loop
        assert [await within(mux.call(COUNT, 0, (f"{space}:a",), (1,))) for _ in range(150)] == list(range(1, 151))
        assert True not in polls.hits
        assert 1 <= len(polls.hits) <= 8

    async def test_nobody_is_polled_for_on_a_single_core(
        self, make: Make, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls = Polls(monkeypatch, cores=1)
        mux = await make()
        assert [await within(mux.call(COUNT, 0, (f"{space}:a",), (1,))) for _ in range(20)] == list(range(1, 21))
        assert polls.hits == []

    async def test_who_is_not_alone_is_not_polled_for(
        self, make: Make, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls = Polls(monkeypatch)
        mux = await make()
        await within(mux.call(COUNT, 0, (f"{space}:a",), (0,)))
        polls.hits.clear()
        words = [mux.call(COUNT, 0, (f"{space}:a",), (1,)) for _ in range(3)]  # the first leaves at once
        assert await within(asyncio.gather(*words)) == [1, 2, 3]
        assert polls.hits == []

    async def test_others_have_their_turns_between_the_calls(
        self, make: Make, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Polls(monkeypatch)
        mux = await make()
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(other())
        for _ in range(50):
            await within(mux.call(COUNT, 0, (f"{space}:a",), (1,)))
        beside.cancel()
        assert turns >= 50

    async def test_a_connection_that_breaks_while_it_is_polled_is_opened_again(
        self, make: Make, space: str, real: PrivateServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls = Polls(monkeypatch)
        mux = await make()
        key = f"{space}:s"
        with plain(real) as client:
            for n in range(60):
                if n % 20 == 10:  # its end is there to be read when the answer is polled for
                    client.client_kill_filter(_type="normal", skipme=True)
                await within(mux.command("EVAL", f"{TARRY} return redis.call('SADD', KEYS[1], ARGV[1])", 1, key, n))
            assert client.scard(key) == 60
        assert mux.connects >= 4
        assert polls.hits

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_whatever_a_server_says_each_call_has_its_own_answer(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        polls = Polls(monkeypatch)
        dice = random.Random(seed)
        babbler = Babbler(seed)
        troubles: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: troubles.append(told))
        mux = await make(babbler.url)

        async def ask(who: str, count: int, *kinds: str) -> None:
            for n in range(count):
                size = dice.choice([1, 1, 1, 10, 4090, 5000, 100_000])
                word = f"{who} {n} {dice.choice(kinds)} {'x' * size}".encode()
                command = mux.command("ECHO", word) if dice.random() < 0.5 else mux.call(COUNT, 0, ("a",), (word,))
                assert await within(command) == word

        await ask("alone", 150, *[""] * 12, "half", "noise")
        for n in range(10):
            assert await within(mux.command("ECHO", f"extra {n}")) == f"extra {n}".encode()
        await asyncio.gather(*(ask(f"one of {n}", 40, *[""] * 12, "half", "noise") for n in range(3)))
        babbler.close()
        assert True in polls.hits
        assert mux.connects > 10
        assert not troubles

    async def test_an_answer_that_is_no_answer_to_its_script_fails_its_calls_and_nobody_waits_for_good(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Polls(monkeypatch)
        babbler = Babbler(0)
        mux = await make(babbler.url)
        words = [
            mux.command("ECHO", "first"),
            mux.command("ECHO", "extra"),
            *(mux.call(COUNT, 0, ("a",), (1,)) for _ in range(3)),
        ]
        found = await within(asyncio.gather(*words, return_exceptions=True))
        babbler.close()
        assert found[:2] == [b"first", b"extra"]
        assert [type(error) for error in found[2:]] == [StoreUnavailable] * 3


# what may be sent, the state before, and what a lost answer makes of the second one
VERBS: dict[str, tuple[str, Any]] = {
    "submit": ("GONE", "EXISTS"), "schedule": ("GONE", "EXISTS"), "record": ("IN_PROGRESS", "DUPLICATE"),
    "checkpoint": ("IN_PROGRESS", "OK"), "note": ("IN_PROGRESS", "OK"), "park": ("IN_PROGRESS", "OK"),
    "retry": ("IN_PROGRESS", "OK"), "release": ("IN_PROGRESS", "OK"), "settle": ("IN_PROGRESS", "OK"),
    "renew": ("IN_PROGRESS", "OK"), "cancel": ("IN_PROGRESS", "REQUESTED"), "redrive": ("FAILED", "OK"),
    "wake": ("WAITING", "OK"), "watch": ("WAITING", "WAITING"), "recover": ("IN_PROGRESS", "GONE"),
    "mend": ("WAITING", "OK"), "sweep": ("COMPLETED", "EARLY"),
    "delete": ("COMPLETED", "OK"), "import": ("GONE", "EXISTS"), "continue": ("IN_PROGRESS", "OK"),
}  # fmt: skip


class TestLostAnswers:
    @pytest.mark.parametrize("verb", VERBS)
    async def test_a_call_whose_answer_was_lost_has_one_effect(self, far: World, proxy: Proxy, verb: str) -> None:
        state, answer = VERBS[verb]
        await far.bring(state)
        cut = proxy.lose_answer(to=b"EVALSHA")
        assert await within(far.call(verb)) == answer
        assert cut.done()
        assert far.mux.connects == 2
        length = {"record": 1, "retry": 1, "cancel": 1, "redrive": 1, "import": 1, "continue": 1}.get(verb, 0)
        assert len(await far.journal()) == length
        once = {"submit": 1, "release": 1, "wake": 1, "redrive": 1, "recover": 1, "import": 1, "continue": 1}
        if verb in once:
            streams = [*far.streams, far.solo]
            assert sum([await far.mux.command("XLEN", s) for s in streams]) == 1

    async def test_a_claim_whose_answer_was_lost_answers_what_it_took(self, far: World, proxy: Proxy) -> None:
        await far.keeper.open([*far.streams, far.solo])
        ids = [await far.submit(new_id(0)) for _ in range(9)]
        cut = proxy.lose_answer(to=b"EVALSHA")
        leases = await within(far.claim(5))
        assert cut.done()
        assert [lease.id for lease in leases] == ids[:5]
        assert [lease.id for lease in await within(far.claim(9))] == ids[5:]

    async def test_a_life_through_a_line_that_breaks_all_the_time(self, far: World, proxy: Proxy) -> None:
        await far.keeper.open([*far.streams, far.solo])
        dice = random.Random(7)
        proxy.latency = 0.001

        async def breaks() -> None:
            while True:
                await asyncio.sleep(dice.uniform(0.005, 0.03))
                if dice.random() < 0.5:
                    proxy.cut()
                else:
                    await proxy.lose_answer(to=b"EVALSHA")

        async def life(intent: str) -> None:
            word = await far.store.submit(intent, BODY, QUEUE, "q:normal")
            assert word in (b"OK", b"EXISTS")

        async def run(lease: Any) -> None:
            for n in range(3):
                answer = await lease.record([STEP])
                assert answer in (n + 1, b"DUPLICATE")
                lease.k += 1
            assert await lease.settle("COMPLETED", b"", DAY) == b"OK"

        breaking = asyncio.create_task(breaks())
        try:
            ids = [new_id(0) for _ in range(30)]
            await within(asyncio.gather(*map(life, ids)), 20)
            done = 0
            while done < len(ids):
                leases = await within(far.claim(7))
                await within(asyncio.gather(*map(run, leases)), 20)
                done += len(leases)
        finally:
            breaking.cancel()
        proxy.latency = 0
        assert far.mux.connects > 2
        assert await within(check_all(far.store)) == {"COMPLETED": 30}
        for intent in ids:
            assert await far.mux.command("LLEN", far.keys.journal(intent)) == 3

    async def test_what_was_not_sent_yet_goes_out_in_its_order(self, make: Make, space: str, proxy: Proxy) -> None:
        mux = await make(proxy.url)
        proxy.accepting = False
        with heard("store.disconnected") as told:
            proxy.cut()
            await within(told.wait())
        words = [mux.command("RPUSH", f"{space}:l", n) for n in range(100)]
        await asyncio.sleep(0)
        assert not mux.connected
        proxy.accepting = True
        assert await within(asyncio.gather(*words)) == list(range(1, 101))


class TestServers:
    async def test_scripts_that_the_server_forgot_are_loaded_again(
        self, make: Make, space: str, real: PrivateServer
    ) -> None:
        mux = await make()
        with plain(real) as client:
            for n in range(3):
                client.script_flush()
                words = [mux.call(COUNT, p, (f"{space}:{p}",), (1,)) for p in range(40)]
                assert await within(asyncio.gather(*words)) == [n + 1] * 40

    async def test_a_user_who_may_not_load_scripts_is_told(self, make: Make, space: str, real: PrivateServer) -> None:
        with plain(real) as client:
            client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">pw", "~*", "+@all", "-script|load")
            client.script_flush()
            mux = await make(f"redis://reader:pw@127.0.0.1:{real.port}/0")
            with pytest.raises(StoreError, match="NOSCRIPT") as caught:
                await within(mux.call(COUNT, 0, (f"{space}:a",), (1,)))
            client.execute_command("ACL", "DELUSER", "reader")
        assert "SCRIPT LOAD" in caught.value.hint

    async def test_a_server_that_is_killed_and_comes_back_loses_no_call(self, own: PrivateServer, make: Make) -> None:
        seen: list[Any] = []
        mux = await make(own.url, on_connect=seen.append)
        key = "n"
        assert await within(mux.call(COUNT, 0, (key,), (1,))) == 1
        own.kill()
        words = [mux.command("SADD", "s", n) for n in range(50)]
        await asyncio.to_thread(own.start)
        assert await within(asyncio.gather(*words)) == [1] * 50
        assert await within(mux.call(COUNT, 0, (key,), (1,))) == 2
        assert len({identity[0] for identity in seen}) == 2, "another run id tells that it was restarted"
        assert mux.identity == seen[-1]

    async def test_it_knows_its_number_at_the_server_it_is_connected_to(self, own: PrivateServer, make: Make) -> None:
        mux = await make(own.url)
        first = await within(mux.command("CLIENT", "ID"))
        assert mux.client == first
        with heard("store.disconnected") as told:
            own.kill()
            await within(told.wait())
        assert mux.client == 0, "another connection may have that number at the next server"
        await asyncio.to_thread(own.start)
        assert await within(mux.command("CLIENT", "ID")) == mux.client != 0

    async def test_a_frozen_server_is_given_up_and_the_call_sent_again(self, own: PrivateServer, make: Make) -> None:
        mux = await make(own.url, silence=0.3)
        assert await within(mux.command("PING")) == b"PONG"
        own.freeze()
        with heard("store.disconnected") as told:
            word = mux.call(COUNT, 0, ("n",), (1,))
            await within(told.wait())
        assert not word.done()
        own.thaw()
        # the call is not safe to send twice, unlike ours: the first was in the frozen server's buffer
        assert await within(word) in (1, 2)

    async def test_a_frozen_server_ends_the_patience(self, own: PrivateServer, make: Make) -> None:
        mux = await make(own.url, patience=0.4)
        own.freeze()
        with pytest.raises(StoreUnavailable):
            await within(mux.command("PING"))
        own.thaw()
        assert await within(mux.command("PING")) == b"PONG"

    async def test_a_pulled_cable_is_noticed(self, make: Make, proxy: Proxy) -> None:
        mux = await make(proxy.url, silence=0.3)
        proxy.freeze()
        with heard("store.disconnected") as told:
            word = mux.command("PING")
            await within(told.wait())
        proxy.cut()
        proxy.thaw()
        assert await within(word) == b"PONG"

    async def test_slow_answers_are_waited_for(self, make: Make, proxy: Proxy) -> None:
        mux = await make(proxy.url, silence=1.0)
        proxy.latency = 0.2
        for _ in range(3):
            assert await within(mux.command("PING")) == b"PONG"
        assert mux.connects == 1

    async def test_a_server_that_still_loads_is_waited_for(self, binary: str, make: Make) -> None:
        with PrivateServer(port=0, appendfsync="always", binary=binary, args=("--key-load-delay", "60")) as own:
            mux = await make(own.url)
            # it looks at its connections once in 1,024 commands that it loads
            await within(asyncio.gather(*(mux.command("SET", f"k{n}", n) for n in range(8000))))
            await within(mux.call(COUNT, 0, ("n",), (1,)))
            own.kill()
            starting = asyncio.create_task(asyncio.to_thread(own.start))
            with heard("store.held") as told:
                words = [mux.call(COUNT, 0, ("n",), (1,)), mux.command("GET", "k7")]
                await within(told.wait())
            assert await within(asyncio.gather(*words)) == [2, b"7"]
            await within(starting)

    @pytest.mark.parametrize(
        ("on", "off", "word"),
        [
            ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
            ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ],
        ids=["replica", "too few replicas"],
    )
    async def test_a_server_that_may_not_write_now_is_waited_for(
        self, own: PrivateServer, make: Make, on: str, off: str, word: str
    ) -> None:
        mux = await make(own.url)
        with plain(own) as client, heard("store.held") as told:
            client.execute_command(*on.split())
            words = [mux.call(COUNT, 0, ("n",), (1,)), mux.command("SADD", "s", "x")]
            await within(told.wait())
            assert not any(w.done() for w in words)
            hasty = await make(own.url, patience=0.2)
            with pytest.raises(StoreUnavailable, match=word):
                await within(hasty.command("SADD", "s", "y"))
            client.execute_command(*off.split())
        assert await within(asyncio.gather(*words)) == [1, 1]

    async def test_a_busy_server_is_waited_for(self, own: PrivateServer, make: Make) -> None:
        mux = await make(own.url)
        with plain(own, socket_timeout=10) as client, plain(own) as judge:
            judge.config_set("lua-time-limit", 20)

            def spin() -> None:
                with contextlib.suppress(Exception):
                    client.eval("while true do end", 0)

            def busy() -> None:
                end = time.monotonic() + 10
                while time.monotonic() < end:
                    try:
                        judge.ping()
                    except redis.ResponseError:  # BUSY
                        return

            spinning = asyncio.create_task(asyncio.to_thread(spin))
            with heard("store.held") as told:
                await asyncio.to_thread(busy)
                word = mux.call(COUNT, 0, ("n",), (1,))
                await within(told.wait())
            late = await make(own.url, start=False)
            also = late.call(COUNT, 0, ("n",), (0,))  # a greeting that is refused is no answer to a call
            await asyncio.sleep(0.05)
            judge.script_kill()
            assert await within(word) == 1
            await within(spinning)
            assert await within(also) in (0, 1)


class TestEnds:
    async def test_a_server_that_is_away_ends_the_patience(self, own: PrivateServer, make: Make) -> None:
        mux = await make(own.url, patience=0.2)
        own.kill()
        words = [mux.command("PING"), mux.call(COUNT, 0, ("n",), (1,))]
        found = await within(asyncio.gather(*words, return_exceptions=True))
        assert [type(error) for error in found] == [StoreUnavailable] * 2
        assert "redurable dev" in found[0].hint
        mux.patience = 5  # a pause between two tries to connect may be longer than 0.2 s
        await asyncio.to_thread(own.start)
        assert await within(mux.call(COUNT, 0, ("n",), (1,))) == 1

    async def test_without_a_limit_patience_does_not_end(self, own: PrivateServer, make: Make) -> None:
        mux = await make(own.url)
        own.kill()
        with heard("store.unreachable") as told:
            word = mux.command("PING")
            await within(told.wait())
        assert not word.done()
        await asyncio.to_thread(own.start)
        assert await within(word) == b"PONG"

    @pytest.mark.parametrize("when", ["open", "sent", "away", "held", "connecting"])
    async def test_close_fails_whatever_is_open(
        self, make: Make, proxy: Proxy, space: str, real: PrivateServer, when: str
    ) -> None:
        mux = await make(proxy.url)
        if when == "away":
            proxy.accepting = False
            proxy.cut()
        if when in ("sent", "connecting"):
            proxy.freeze()
        if when == "connecting":
            proxy.cut()
        words = [mux.call(COUNT, 0, (f"{space}:a",), (1,)), mux.command("PING")]
        if when == "held":
            words = [mux.command("SADD", f"{space}:s", 1)]
            with plain(real) as client, heard("store.held") as told:
                client.config_set("min-replicas-to-write", 1)
                await within(told.wait())
                client.config_set("min-replicas-to-write", 0)
                await within(mux.close())
        elif when != "open":
            await asyncio.sleep(0.05)
        await within(mux.close())
        found = await within(asyncio.gather(*words, return_exceptions=True))
        assert {type(error) for error in found} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable):
            await within(mux.command("PING"))
        with pytest.raises(StoreUnavailable):
            await within(mux.call(COUNT, 0, (f"{space}:a",), (1,)))
        assert not mux.connected

    async def test_start_again_after_a_failure_keeps_what_was_called(self, make: Make, proxy: Proxy) -> None:
        mux = await make(proxy.url, start=False)
        proxy.accepting = False
        word = mux.command("PING")
        with pytest.raises(StoreUnavailable):
            await within(mux.start())
        proxy.accepting = True
        await within(mux.start())
        assert await within(word) == b"PONG"
        connects = mux.connects
        await within(mux.start())
        assert mux.connects == connects == 1

    async def test_a_call_before_start_connects_by_itself(self, make: Make, proxy: Proxy) -> None:
        mux = await make(proxy.url, start=False)
        assert await within(mux.command("PING")) == b"PONG"

    async def test_calls_during_start_share_its_connection(self, make: Make, proxy: Proxy) -> None:
        mux = await make(proxy.url, start=False)
        proxy.latency = 0.02
        starting = asyncio.create_task(mux.start())
        await asyncio.sleep(0.01)
        assert await within(mux.command("PING")) == b"PONG"
        await within(starting)
        assert proxy.connections == 1

    async def test_nothing_is_left_of_a_failed_connect(self, make: Make, own: PrivateServer) -> None:
        mux = await make(own.url, start=False)
        own.kill()
        before = len(asyncio.all_tasks())
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await within(mux.start())
        assert len(asyncio.all_tasks()) == before


async def test_retries_and_failures_survive_a_lost_answer_with_their_order(far: World, proxy: Proxy) -> None:
    await far.bring("IN_PROGRESS")
    assert far.lease is not None
    cut = proxy.lose_answer(to=b"EVALSHA")
    answers = [far.lease.record([STEP]), far.mux.command("ECHO", "between"), far.store.watch(far.id)]
    found = await within(asyncio.gather(*answers))
    assert cut.done()
    assert found == [b"DUPLICATE", b"between", b"IN_PROGRESS"]
    far.lease.k = 1
    assert await within(far.lease.retry(1, 0, FAILURE)) == b"OK"
    assert await far.journal() == [STEP, FAILURE]
