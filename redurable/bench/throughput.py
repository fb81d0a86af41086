"""How many steps and intents a worker gets through, what each costs in CPU, commands and bytes on the wire."""

from __future__ import annotations

from typing import Any

from redurable.bench.app import PAYLOAD
from redurable.bench.report import Row, Target, at_least, at_most, row
from redurable.bench.run import Drained, Run, drain

__all__ = ["metrics", "noop", "one_step", "steps", "two_processes"]


async def steps(run: Run) -> list[Row]:
    """Intents of many steps, 100 at a time."""
    sizes = run.sizes
    total = sizes.long_intents * sizes.steps
    floors: list[float] = []
    drained: list[Drained] = []
    async with run.at_work("steps") as stage:
        await drain(run, stage, "bench.steps", [sizes.steps] * 20)
        for _ in range(run.repeat):
            floors.append(await run.floor_rate())
            drained.append(await drain(run, stage, "bench.steps", [sizes.steps] * sizes.long_intents))
    rates = [total / d.all for d in drained]
    return [
        row("durable steps, one worker process", "/s", rates, floors, at_least(0.5, "ratio")),
        *_cpu("step", drained, total, at_most(8.0)),
        *_traffic("step", drained, total),
    ]


async def noop(run: Run) -> list[Row]:
    """Intents that do nothing: what an intent itself costs."""
    return await _drains(run, "bench.noop", "no-op intents, one worker process", at_least(0.12, "ratio"))


async def one_step(run: Run) -> list[Row]:
    """Intents of one step."""
    rows = await _drains(run, "bench.one", "one-step intents, one worker process", at_least(0.08, "ratio"))
    async with run.at_work("one_step") as stage:
        await stage.client.call("bench.one", PAYLOAD)
        before = await run.counts()
        for _ in range(200):
            await stage.client.call("bench.one", PAYLOAD)
        work = (await run.counts()).since(before).commands
    each = {name: round(count / 200, 2) for name, count in sorted(work.items())}
    scripts = round(work.get("evalsha", 0) / 200, 1)  # a renewal or two aside
    name = "script calls a one-step intent, alone"
    return [*rows, row(name, "", [scripts], target=at_most(4.0), commands=each)]


async def two_processes(run: Run) -> list[Row]:
    """No-op intents drained by a worker of two processes."""
    return (await _drains(run, "bench.noop", "no-op intents, --processes 2", None, processes=2))[:1]


async def metrics(run: Run) -> list[Row]:
    """What counting costs a worker: the same drained by turns by two workers, of which one serves metrics."""
    sizes = run.sizes
    return [
        await _counted(run, "steps", "bench.steps", [sizes.steps] * (sizes.long_intents // 4), sizes.steps, "step"),
        await _counted(run, "noop", "bench.noop", [PAYLOAD] * (sizes.intents // 5), 1, "no-op intent"),
    ]


async def _counted(run: Run, handler: str, queue: str, payloads: list[Any], units: int, what: str) -> Row:
    """Return the CPU of the worker that counts beside that of the one that does not, *units* of *what* an intent."""
    costs: dict[bool, list[float]] = {False: [], True: []}
    pairs = 1 + 6 * run.repeat  # small and many: a pair's two halves meet the same mood of the machine
    within = 60.0 + 10.0 * pairs
    async with (
        run.at_work(handler, within=within) as plain,
        run.at_work(handler, metrics=True, within=within) as counting,
    ):
        for n in range(pairs):
            for on in ((False, True), (True, False))[n % 2]:  # the machine's moods fall on both alike
                done = await drain(run, counting if on else plain, queue, payloads)
                if n and done.work.worker_cpu is not None:  # the first pair warms
                    costs[on].append(done.work.worker_cpu / done.count / units * 1e6)
    return row(f"worker CPU a {what} with metrics, beside without", "us", costs[True] or [0.0], costs[False])


async def _drains(run: Run, queue: str, name: str, target: Target | None, processes: int = 1) -> list[Row]:
    count = run.sizes.intents
    floors: list[float] = []
    drained: list[Drained] = []
    async with run.at_work("noop" if queue == "bench.noop" else "one_step", processes) as stage:
        await drain(run, stage, queue, [PAYLOAD] * 300)
        for _ in range(run.repeat):
            floors.append(await run.floor_rate())
            drained.append(await drain(run, stage, queue, [PAYLOAD] * count))
    what = "no-op intent" if queue == "bench.noop" else "one-step intent"
    return [
        row(name, "/s", [d.count / d.outcomes for d in drained], floors, target),
        *_cpu(what, drained, count, None),
        *_traffic(what, drained, count),
    ]


def _cpu(what: str, drained: list[Drained], units: int, target: Target | None) -> list[Row]:
    rows = []
    ours = [d.work.worker_cpu for d in drained]
    known = [cpu for cpu in ours if cpu is not None]
    if len(known) == len(ours):
        rows.append(row(f"worker CPU a {what}", "us", [cpu / units * 1e6 for cpu in known], target=target))
    rows.append(row(f"Redis CPU a {what}", "us", [d.work.server_cpu / units * 1e6 for d in drained]))
    return rows


def _traffic(what: str, drained: list[Drained], units: int) -> list[Row]:
    last = drained[-1].whole.commands
    each = {name: round(count / units, 4) for name, count in sorted(last.items()) if count / units >= 0.001}
    return [
        row(f"script calls a {what}", "", [d.whole.commands.get("evalsha", 0) / units for d in drained]),
        row(f"Redis commands a {what}", "", [sum(d.whole.commands.values()) / units for d in drained], commands=each),
        row(f"bytes on the wire a {what}", "B", [(d.whole.wire_in + d.whole.wire_out) / units for d in drained]),
    ]
