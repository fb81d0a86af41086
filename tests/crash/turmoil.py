"""
Everything at once: random programs, operators who cancel, pause, kill, retry and answer, and a machine that fails.

Processes are killed and frozen; the server is frozen, killed and restarted, its scripts flushed, its connections cut.
In the end the operators resume and answer whatever waits: then everything has to end, within a bound, and the books
have to agree.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter, defaultdict
from typing import Any

from redurable.errors import RedurableError
from redurable.model import Arrived, Called, Claimed, Status, StepDone
from redurable.store.server import PrivateServer
from tests.crash.killing import Drill
from tests.crash.turmoil_app import PROMISES, QUEUE, expected
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

__all__ = ["turmoil_drill"]

_DEPTH = 2
# how often operators do what; and what they may be told of an intent that moved on while they looked
_VERBS = {"resolve": 12, "pause": 4, "resume": 6, "cancel": 1, "kill": 0.3, "retry": 2, "get": 3}
_LAWFUL = {"WRONG_STATE", "ALREADY_UNDONE", "ALREADY_RESOLVED", "PROMISE_WITHDRAWN", "TOO_MANY_UNASKED"}


async def turmoil_drill(plan: Drill) -> dict[str, Any]:
    """
    Play *plan*, its `steps` being how many operators there are and `pace` the mean time between strokes of fate.

    Asserted: everything ends when nothing is held back any more; what completed has the whole result; a step's body
    never ran after its result was recorded; each child was called by one parent and heard once; no orphan is left in
    Redis.
    """
    began = time.monotonic()
    dice = random.Random(plan.seed)
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            await _start(fleet, plan, 4)
            seeds = {}
            for n in range(plan.intents):
                seed = dice.randrange(1_000_000)
                key = f"s{n % 7}" if n % 3 == 0 else None
                seeds[await fleet.client.send(QUEUE, {"seed": seed, "depth": _DEPTH}, key=key)] = seed
            told: Counter[str] = Counter()
            over = asyncio.Event()
            operators = [
                asyncio.create_task(_operate(fleet, random.Random(dice.random()), told, over))
                for _ in range(plan.steps)
            ]
            strokes = await _fate(fleet, server, plan, dice)
            over.set()
            await asyncio.gather(*operators)
            settled = time.monotonic()
            await _let_go(fleet, plan.within)
            figures: dict[str, Any] = {"strokes": dict(strokes), "told": dict(told)}
            figures["seconds to rest"] = round(time.monotonic() - settled, 1)
            found = await fleet.client.list(limit=100_000)
            figures["ended"] = dict(Counter(str(i.status) for i in found))
            for intent, seed in seeds.items():
                if (await fleet.client.get(intent)).status is Status.COMPLETED:
                    assert await fleet.client.wait_for(intent) == expected(seed, _DEPTH), intent
            await _judge(fleet, [i.id for i in found])
            await fleet.reap(30)
            counted = await check_all(await fleet.store())
            assert sum(counted.values()) == len(found)
            troubles = [e for n in ("task.failed", "loop.failed") for e in fleet.events(n)]
            assert not troubles, troubles
    return figures | {"seconds in all": round(time.monotonic() - began, 1)}


async def _start(fleet: Fleet, plan: Drill, count: int) -> None:
    await fleet.start(count, target="tests.crash.turmoil_app", concurrency=plan.concurrency)


async def _fate(fleet: Fleet, server: PrivateServer, plan: Drill, dice: random.Random) -> Counter[str]:
    """Strike *plan.kills* times."""
    store = await fleet.store()
    strokes: Counter[str] = Counter()
    for _ in range(plan.kills):
        await asyncio.sleep(0.2 + dice.uniform(0, 2) * plan.pace)
        stroke = dice.choice(("kill", "kill", "kill", "freeze", "server", "restart", "flush", "cut"))
        strokes[stroke] += 1
        alive = [p for p in fleet.processes if p.alive]
        victim = dice.choice(alive)
        match stroke:
            case "kill":
                victim.kill()
                await victim.ended()
                await _start(fleet, plan, 1)
            case "freeze":
                victim.freeze()
                await asyncio.sleep(dice.uniform(0.1, 2))
                victim.thaw()
            case "server":
                os.kill(server.pid, signal.SIGSTOP)
                await asyncio.sleep(dice.uniform(0.1, 1.5))
                os.kill(server.pid, signal.SIGCONT)
            case "restart":
                server.kill()
                await asyncio.sleep(dice.uniform(0.1, 1))
                await asyncio.to_thread(server.start)
            case "flush":
                await store.mux.command("SCRIPT", "FLUSH")
            case "cut":
                await store.mux.command("CLIENT", "KILL", "TYPE", dice.choice(("normal", "pubsub")), "SKIPME", "yes")
    return strokes


async def _operate(fleet: Fleet, dice: random.Random, told: Counter[str], over: asyncio.Event) -> None:
    """Do what operators do, to intents at random, until it is *over*."""
    client = fleet.client
    while not over.is_set():
        found = await client.list(queue=QUEUE, limit=1000)
        for intent in dice.sample(found, min(20, len(found))):
            (verb,) = dice.choices(list(_VERBS), list(_VERBS.values()))
            words = (dice.choice(PROMISES), 1) if verb == "resolve" else ()
            told[await _ask(fleet, verb, intent.id, *words)] += 1
        await asyncio.sleep(dice.uniform(0, 0.2))


async def _ask(fleet: Fleet, verb: str, *words: Any) -> str:
    """Ask for *verb*; return it, with why it was refused."""
    try:
        await getattr(fleet.client, verb)(*words)
    except RedurableError as error:
        if error.code not in _LAWFUL:
            raise
        return f"{verb}: {error.code}"
    return verb


async def _let_go(fleet: Fleet, within: float) -> None:
    """Resume and answer whatever is held back until everything has ended."""
    client = fleet.client

    async def ended() -> bool:
        waiting = [i for i in await client.list(limit=100_000) if not i.status.final]
        for intent in waiting:
            if intent.status is Status.PAUSED:
                await _ask(fleet, "resume", intent.id)
            elif intent.reason == "PROMISE":
                for name in PROMISES:
                    await _ask(fleet, "resolve", intent.id, name, 1)
        if waiting:
            return False
        store = await fleet.store()
        timers = [raw for keys in store.keys for raw in await store.mux.command("ZRANGE", keys.timers, 0, -1)]
        return all(raw.startswith(b"~") for raw in timers)  # a limit that nobody uses is looked at once more

    try:
        await until(ended, within, 0.3)
    except AssertionError:
        found = [i.id for i in await client.list(limit=100_000) if not i.status.final]
        lines = await fleet.unfinished(found)
        for intent in found:
            lines += [intent, *(f"  {seq} {entry}" for seq, entry in await client.history(intent))]
        raise AssertionError("not at rest:\n" + "\n".join(lines)) from None


async def _judge(fleet: Fleet, intents: list[str]) -> None:
    ran: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in fleet.ledger():
        ran[line.intent, line.step].append(line.epoch)
    called: Counter[str] = Counter()
    for intent in intents:
        epoch = 0
        heard: Counter[str] = Counter()
        entries = [entry for _, entry in await fleet.client.history(intent)]
        first = min((int(e.epoch) for e in entries if isinstance(e, Claimed)), default=2**63)
        for entry in entries:
            if isinstance(entry, Claimed):
                epoch = int(entry.epoch)
            elif isinstance(entry, StepDone) and entry.name in ("work", "rationed"):
                epochs = [0 if e < first else e for e in ran[intent, f"{entry.name}:{entry.n}"]]
                assert epochs, f"{intent}: {entry.n} was recorded and never ran"
                assert max(epochs) <= epoch, f"{intent}: {entry.n} recorded in {epoch}, ran in {epochs}"
                assert len(set(epochs)) == len(epochs), f"{intent}: {entry.n} ran twice in an attempt: {epochs}"
            elif isinstance(entry, Called):
                called[entry.child] += 1
            elif isinstance(entry, Arrived) and "#" not in entry.key:
                heard[entry.key] += 1
        assert max(heard.values(), default=1) == 1, f"{intent} heard a child twice"
    assert max(called.values(), default=1) == 1
    assert set(called) <= set(intents)
