"""
Very many of one thing: turns of one intent, and intents that are cancelled by one call. In two sizes each.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

import psutil

from redurable.model import Status
from redurable.store.scripts import load_all
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from tests.crash.killing import Drill
from tests.support.fleet import Fleet, until
from tests.support.invariants import check_all

__all__ = ["bulk_drill", "turn_drill"]

_SLOW_US = 5000
_LOOKS = 20


async def turn_drill(plan: Drill) -> dict[str, Any]:
    """
    Let *plan.intents* intents go on for *plan.steps* turns each in one worker.

    Asserted: they end with that number, once; their journals never grow; from a fifth of the way to the end the
    worker's memory grows by less than 5 MiB and Redis by less than 256 KiB.
    """
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            (worker,) = await fleet.start(concurrency=plan.concurrency)
            process = psutil.Process(worker.pid)
            began = time.monotonic()
            intents = list(await fleet.client.send_many("turns", [{"n": plan.steps, "done": 0}] * plan.intents))
            seen: list[tuple[int, float, float]] = []  # turn, worker's bytes, server's
            for n in range(1, _LOOKS):
                await until(lambda n=n: _turned(fleet, intents[0], plan.steps * n // _LOOKS), plan.within, 0.05)  # type: ignore[misc]
                info = await fleet.client.get(intents[0])
                assert info.entries < 10, f"the journal has {info.entries} entries in turn {info.turn}"
                seen.append((info.turn, process.memory_info().rss, await _data(await fleet.store())))
            async with asyncio.timeout(plan.within):
                results = await asyncio.gather(*(fleet.client.wait_for(i) for i in intents))
            took = time.monotonic() - began
            assert results == [plan.steps] * plan.intents
            seen.append((plan.steps, process.memory_info().rss, await _data(await fleet.store())))
            await fleet.reap()
            assert await check_all(await fleet.store()) == {"COMPLETED": plan.intents}
    warm = seen[_LOOKS // 5 :]
    grown = [max(second) - median(second[:3]) for second in list(zip(*warm, strict=True))[1:]]
    assert grown[0] < 5 * 2**20, seen
    assert grown[1] < 256 * 2**10, seen  # buffers of connections come and go
    assert all(a[0] <= b[0] for a, b in pairwise(seen))
    return {
        "turns": plan.steps * plan.intents,
        "turns/s": round(plan.steps * plan.intents / took),
        "worker grew by MiB": round(grown[0] / 2**20, 2),
        "Redis grew by KiB": round(grown[1] / 2**10, 2),
    }


async def _turned(fleet: Fleet, intent: str, turn: int) -> bool:
    info = await fleet.client.get(intent)
    return info.turn >= turn or info.status.final


async def _data(store: Store) -> float:
    """Return the bytes of the data; buffers of connections and of the append-only file come and go."""
    text = (await store.mux.command("INFO", "memory")).decode()
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return float(info["used_memory_dataset"]) - float(info.get("mem_aof_buffer", 0))


async def bulk_drill(plan: Drill) -> dict[str, Any]:
    """
    Cancel *plan.intents* intents by one call, half of them parked and half of them never begun.

    Asserted: the dry run counts them exactly, for each half and for both; then all are CANCELED and nothing is left
    open. Told: how long the server took for any one command, by its own slow log, and what another client's calls
    took meanwhile.
    """
    half = plan.intents // 2
    with PrivateServer(args=("--slowlog-log-slower-than", str(_SLOW_US), "--slowlog-max-len", "1000")) as server:
        alone = _first(server.pid)
        async with Fleet(server) as fleet:
            await fleet.start(concurrency=plan.concurrency)
            client, store = fleet.client, await fleet.store()
            await client.send_many("nobody", [None] * half)
            parked = list(await client.send_many("asks", [None] * half))
            for intent in [*parked[:: max(1, half // 50)], parked[-1]]:
                await until(lambda i=intent: _waits(fleet, i), plan.within, 0.01)  # type: ignore[misc]
            slow = {"before": await _slow(store)}
            for queue in ("nobody", "asks"):
                assert (await client.each("cancel", queue=queue, dry_run=True)).chosen == half
            asked = time.monotonic()
            assert (await client.each("cancel", older_than=0, dry_run=True)).chosen == 2 * half
            counted = time.monotonic() - asked
            slow["dry run"] = await _slow(store)
            calls = [await _calls(store)]
            bystander = _bystander(server.url)
            _first(bystander.pid)
            asked = time.monotonic()
            done = await client.each("cancel", older_than=0)
            took = time.monotonic() - asked
            assert done.chosen == sum(done.answers.values()) == 2 * half
            assert done.answers == {"CANCELED": half, "REQUESTED": half}
            await until(lambda: _ended(store, 2 * half), plan.within, 0.1)
            ended = time.monotonic() - asked
            waited = (await asyncio.to_thread(bystander.communicate))[0].split()
            calls.append(await _calls(store))
            slow["cancel"] = await _slow(store)
            assert (await client.each("cancel", older_than=0, dry_run=True)).chosen == 0
            await fleet.reap()
            assert await check_all(store) == {"CANCELED": 2 * half}
    return {
        "intents": 2 * half,
        "dry run s": round(counted, 2),
        "asked of all s": round(took, 2),
        "all ended s": round(ended, 2),
        "the server went before all others": alone,
        "commands": calls[1] - calls[0],
        f"commands over {_SLOW_US / 1000:g} ms": slow,
        "a bystander's call, ms": dict(zip(("p50", "p99", "max"), map(float, waited), strict=True)),
    }


async def _waits(fleet: Fleet, intent: str) -> bool:
    return (await fleet.client.get(intent)).status is Status.WAITING


async def _ended(store: Store, count: int) -> bool:
    return bool(await store.mux.command("ZCARD", store.keys[0].failed) == count)


async def _calls(store: Store) -> int:
    text = (await store.mux.command("INFO", "commandstats")).decode()
    return sum(int(line.split("calls=", 1)[1].split(",", 1)[0]) for line in text.splitlines() if "calls=" in line)


async def _slow(store: Store) -> dict[str, str]:
    """Return how many slow commands there were since the last look, and the longest, by command or script."""
    names = {script.sha: f"script {name}" for name, script in load_all().items()}
    found: dict[str, list[float]] = {}
    for _, _, micros, words, *_ in await store.mux.command("SLOWLOG", "GET", -1):
        name = names.get(words[1] if len(words) > 1 else b"") or words[0].decode().upper()
        found.setdefault(name, []).append(micros / 1000)
    await store.mux.command("SLOWLOG", "RESET")
    return {name: f"{len(took)}, at most {max(took):.1f} ms" for name, took in found.items()}


def _first(pid: int) -> bool:
    """Let a process go before all others; whether the system lets us. Its times are then those of its own work."""
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, PermissionError):
        return False
    return True


def _bystander(url: str) -> subprocess.Popen[str]:
    """Start a process that asks the server for nothing, again and again, until its input is closed."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", _BYSTANDER, url], stdin=pipe, stdout=pipe, text=True)


_BYSTANDER = """
import select, sys, time, redis
asks, took = redis.Redis.from_url(sys.argv[1]), []
asks.ping()
while not took or not select.select([sys.stdin], [], [], 0.001)[0]:
    begun = time.perf_counter()
    asks.ping()
    took.append((time.perf_counter() - begun) * 1000)
took.sort()
print(*(round(took[int(len(took) * share)], 2) for share in (0.5, 0.99)), round(took[-1], 2))
"""
