"""The suite: its scenarios by name, the machine that it ran on, one run of all or some of them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from redurable.bench import latency, memory, parked, recovery, sending, throughput
from redurable.bench.bed import Bed
from redurable.bench.report import Row, row
from redurable.bench.run import QUICK, Run, Sizes
from redurable.errors import ConfigurationError
from redurable.store.private import PrivateServer

__all__ = ["SCENARIOS", "Report", "chosen", "measure"]

Scenario = Callable[[Run], Awaitable[list[Row]]]


async def _floor(run: Run) -> list[Row]:
    """The raw floor: the bare multiplexer with a script of record's commands and bytes."""
    rates = [await run.floor_rate() for _ in range(run.repeat)]
    gathered = [await run.floor.gathered(run.sizes.floor) for _ in range(run.repeat)]
    alone = [(await run.floor_latency())[0] for _ in range(run.repeat)]
    return [
        row("floor: bare calls, by 100 tasks", "/s", rates),
        row("floor: the same, 25 items a call", "/s", gathered, rates),
        row("floor: bare call, awaited, p50", "ms", alone),
    ]


SCENARIOS: dict[str, Scenario] = {
    "floor": _floor,
    "steps": throughput.steps,
    "noop": throughput.noop,
    "one-step": throughput.one_step,
    "sequential": latency.sequential,
    "send": sending.sending,
    "latency": latency.idle_and_loaded,
    "memory": memory.memory,
    "parked": parked.parked,
    "metrics": throughput.metrics,
    "two-processes": throughput.two_processes,
    "recovery": recovery.recovery,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured where; *took* has the seconds of each scenario."""

    machine: dict[str, Any]
    repeat: int
    quick: bool
    took: dict[str, float]
    rows: dict[str, list[Row]]


def chosen(names: Iterable[str]) -> list[str]:
    """
    Return the scenarios of *names* in the suite's order, all of them for none.

    Raises:
        ConfigurationError: There is no such scenario.
    """
    asked = {part.strip() for name in names for part in name.split(",") if part.strip()}
    unknown = sorted(asked - set(SCENARIOS))
    if unknown:
        raise ConfigurationError(f"there is no scenario {unknown[0]!r}", hint=f"choose of: {', '.join(SCENARIOS)}")
    return [name for name in SCENARIOS if not asked or name in asked]


def measure(
    url: str | None, names: list[str], *, repeat: int, quick: bool, sizes: Sizes | None, note: Callable[[str], None]
) -> Report:
    """
    Run the scenarios *names*, on a private server unless a *url* is given.

    Raises:
        RedurableError: BENCH_FAILED when a worker ended or hung; what the store raises.
    """
    sizes = sizes or (QUICK if quick else Sizes())
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        if url is not None:
            return runner.run(_measure(url, False, names, sizes, repeat, quick, note))
        # a rewrite of the file in the middle of a figure would be noise: it is done between the scenarios
        with PrivateServer(args=("--auto-aof-rewrite-percentage", "0")) as server:
            return runner.run(_measure(server.url, True, names, sizes, repeat, quick, note))


async def _measure(
    url: str, private: bool, names: list[str], sizes: Sizes, repeat: int, quick: bool, note: Callable[[str], None]
) -> Report:
    bed = Bed(url, private=private)  # its connection belongs to this loop
    await bed.open()
    try:
        run = Run(bed, sizes, repeat, note)
        rows: dict[str, list[Row]] = {}
        took: dict[str, float] = {}
        for name in names:
            note(f"measuring {name} ...")
            begun = time.monotonic()
            rows[name] = await SCENARIOS[name](run)
            took[name] = round(time.monotonic() - begun, 1)
        return Report(await _machine(bed), repeat, quick, took, rows)
    finally:
        await bed.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The producer's loop is of the kind that workers use."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


async def _machine(bed: Bed) -> dict[str, Any]:
    server = await bed.info("server")
    kept = dict(zip(*[iter(await bed.mux.command("CONFIG", "GET", "append*"))] * 2, strict=False))
    name = "valkey" if "valkey_version" in server else "redis"
    return {
        "redurable": _version("redurable"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "uvloop": _version("uvloop"),
        "server": f"{name} {server.get('valkey_version') or server.get('redis_version')}",
        "appendonly": kept.get(b"appendonly", b"?").decode(),
        "appendfsync": kept.get(b"appendfsync", b"?").decode(),
        "connection": bed.url.split(":", 1)[0],
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
