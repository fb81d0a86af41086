"""
What every side of the comparison shares: the payload, the tally that jobs leave, real worker processes, the measures.

It runs in each side's own environment, so it knows nothing but the standard library. A side says how *its* library
sends, waits and works (a `Queue` or a `Steps`); how much of that is done and what is timed is said here, once, for all
of them, ours included.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

HERE = Path(__file__).resolve().parent
PAYLOAD = "p" * 198  # 200 bytes as MessagePack or JSON, two of them the frame
RESULT = "r" * 198
URL = os.environ.get("BENCH_URL", "")  # of the server that the runner started
if URL:
    logging.disable(logging.INFO)  # a log line a job would cost some of them a third of their speed
STRICT = os.environ.get("BENCH_FSYNC") == "always"  # every commit reaches the disk before it is acknowledged
SETTLE = 6.0  # s that two workers have for getting acquainted before one is killed


# --- what jobs leave --------------------------------------------------------------------------------------------------

TICK = 0.01  # s; the tally is kept in slots as long as this
_SLOTS = 60_000  # and before them the number of all
_lock = threading.Lock()
_tally: tuple[int, float, memoryview] | None = None


def tick() -> None:
    """Count this job, in this process, at this moment."""
    global _tally
    with _lock:
        if _tally is None or _tally[0] != os.getpid():  # a forked child has a tally of its own
            _tally = _begin()
        _, origin, counts = _tally
        counts[0] += 1
        counts[1 + int((time.monotonic() - origin) / TICK)] += 1


def _begin() -> tuple[int, float, memoryview]:
    path = Path(os.environ["BENCH_TALLY"], str(os.getpid()))
    fresh = path.with_suffix(".new")
    fresh.write_bytes(bytes(4 + 4 * _SLOTS))
    fresh.rename(path)
    with path.open("r+b") as file:
        counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("I")
    return os.getpid(), float(os.environ["BENCH_ORIGIN"]), counts


def first_time(mark: str) -> bool:
    """Return whether nobody was here before: then tell who is, else tell when somebody came again."""
    try:
        with open(mark, "x") as file:
            file.write(str(os.getpid()))
            return True
    except FileExistsError:
        with contextlib.suppress(FileExistsError), open(f"{mark}.again", "x") as file:
            file.write(str(time.monotonic()))
        return False


class Tally:
    """What the jobs of some worker processes left: how many, when, by whom."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-tally-"))
        self.environment = {"BENCH_TALLY": str(self.directory), "BENCH_ORIGIN": str(time.monotonic())}

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _files(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if path.name.isdigit()]

    def slots(self) -> list[memoryview]:
        """Return one count a slot, for every process that worked."""
        return [memoryview(path.read_bytes()).cast("I")[1:] for path in self._files()]

    def count(self) -> int:
        """Return how many jobs were counted; cheap, since it is asked while they are."""
        total = 0
        for path in self._files():
            with path.open("rb") as file:
                total += int.from_bytes(file.read(4), sys.byteorder)
        return total

    def processes(self) -> int:
        """Return how many processes counted any."""
        return len(self._files())


def rate(slots: Sequence[Sequence[int]]) -> float:
    """
    Return jobs/s while all processes worked, without the first tenth of the jobs (imports, first connections).

    *slots* holds the jobs per TICK of each process. Where they did not overlap, the whole time counts.
    """
    spans = [[k for k, n in enumerate(each) if n] for each in slots]
    total = [sum(each[k] for each in slots) for k in range(max(len(each) for each in slots))]
    begin, end = max(s[0] for s in spans), min(s[-1] for s in spans)
    done, tenth = 0, sum(total) / 10
    for k, n in enumerate(total):
        done += n
        if done >= tenth:
            begin = max(begin, k)
            break
    if end - begin < 5:  # one of them got next to nothing
        begin, end = min(s[0] for s in spans), max(s[-1] for s in spans)
    # the outer slots were filled in part
    inner = total[begin + 1 : end]
    return sum(inner) / (len(inner) * TICK) if inner else sum(total) / ((end - begin + 1) * TICK)


# --- worker processes -------------------------------------------------------------------------------------------------


class Workers:
    """Real processes, each with its children in a group of its own."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Start one more."""
        path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            stderr=sys.stderr,
            cwd=HERE,
            env=os.environ | {"PYTHONPATH": path} | environment,
            start_new_session=True,
        )
        self._processes.append(process)

    def check(self) -> None:
        """Raise when one has ended by itself."""
        for process in self._processes:
            if process.poll() is not None:
                raise RuntimeError(f"a worker ended with exit code {process.returncode}")

    def kill(self, pid: int) -> None:
        """Kill (-9) the worker that process *pid* belongs to, with all its processes."""
        for process in self._processes:
            family = _family(process.pid)
            if pid in family:
                _kill_all(family)
                process.wait()
                self._processes.remove(process)
                return
        raise RuntimeError(f"process {pid} is of no worker")

    def end(self) -> None:
        """Kill all: what they hold is of no further use."""
        for process in self._processes:
            _kill_all(_family(process.pid))
            process.wait()
        self._processes.clear()


def _family(pid: int) -> list[int]:
    """Return *pid* and all that descend from it, parents first."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family += parents.get(member, [])
    return family


def _kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- measuring --------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of *values* that at least *share* of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))]


async def eventually(what: Callable[[], bool], within: float, workers: Workers | None = None) -> bool:
    """Return whether *what* came true in time."""
    until = time.monotonic() + within
    while not what():
        if time.monotonic() > until:
            return False
        if workers is not None:
            workers.check()
        await asyncio.sleep(0.03)
    return True


async def latencies(once: Callable[[], Awaitable[Any]], count: int) -> dict[str, float]:
    """Return p50 and p99 in ms of *once*, each when the one before has long ended."""
    rng = random.Random(1)
    for _ in range(20):
        await once()
    took = []
    for _ in range(count):
        await asyncio.sleep(rng.uniform(0.0005, 0.003))
        begun = time.perf_counter()
        await once()
        took.append((time.perf_counter() - begun) * 1e3)
    return {"p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}


async def gathered(send: Callable[[str], Awaitable[Any]], payloads: Sequence[str], at_once: int) -> list[Any]:
    """Return what *send* gives for each of *payloads*, *at_once* under way: bulk, where there is no such call."""
    left = iter(payloads)
    handles: list[Any] = []

    async def one() -> None:
        for payload in left:
            handles.append(await send(payload))

    await asyncio.gather(*(one() for _ in range(at_once)))
    return handles


async def in_flight(once: Callable[[], Awaitable[Any]], count: int, at_once: int) -> float:
    """Return the seconds that *count* calls of *once* take, *at_once* of them under way."""
    left = iter(range(count))

    async def one() -> None:
        for _ in left:
            await once()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    return time.perf_counter() - begun


def program(name: str) -> str:
    """Return the path of a command that a side's environment brought."""
    return str(Path(sys.executable).parent / name)


class Side:
    """One product: what it is, how it is set, how it is used."""

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    # (what is set, the page that says so)
    settings: ClassVar[tuple[tuple[str, str], ...]] = ()
    uvloop: ClassVar[bool] = False
    in_process: ClassVar[bool] = False

    def worker(self, *, defaults: bool) -> list[str]:
        """Return the command of one worker process; with *defaults*, set as its makers ship it."""
        raise NotImplementedError

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def launch(self) -> None:
        """Begin to work in this very process, where `in_process` says that the library is used so."""

    async def stop(self) -> None:
        """End that."""

    async def ready(self) -> None:
        """Return when workers that were just started can be given work, where that does not go by itself."""

    @contextlib.asynccontextmanager
    async def working(self, count: int, *, defaults: bool = False) -> AsyncIterator[tuple[Workers, Tally]]:
        """*count* workers, started, and their tally."""
        workers, tally = Workers(), Tally()
        here = self.in_process and not defaults
        try:
            if here:
                await self.launch()
            else:
                for _ in range(count):
                    workers.start(self.worker(defaults=defaults), tally.environment)
                await self.ready()
            yield workers, tally
        finally:
            if here:
                await self.stop()
            workers.end()
            tally.close()

    def about(self) -> dict[str, Any]:
        """Return what a table says of it."""
        return {
            "name": self.name,
            "versions": {package: importlib.metadata.version(package) for package in self.packages},
            "settings": [list(setting) for setting in self.settings],
            "loop": "uvloop" if self.uvloop else "asyncio",
            "python": sys.version.split()[0],
        }


class Queue(Side):
    """A queue: jobs `noop(payload)`, which ticks and returns a number, and `hang(mark)`, which hangs the first time."""

    async def send(self, payload: str) -> Any:
        """Send one no-op job; return its handle once it is stored."""
        raise NotImplementedError

    async def send_many(self, payloads: Sequence[str]) -> Sequence[Any]:
        """Send many no-op jobs as fast as the library documents."""
        raise NotImplementedError

    async def result(self, handle: Any) -> Any:
        """Wait for the result, the way that the library documents as quick."""
        raise NotImplementedError

    async def call(self, payload: str) -> Any:
        """Send one and wait for its result."""
        return await self.result(await self.send(payload))

    async def send_hang(self, mark: str) -> None:
        """Send the job that hangs."""
        raise NotImplementedError

    async def measure_send(self, count: int) -> dict[str, float]:
        """Send one after another, each awaited."""
        await self.send(PAYLOAD)
        begun = time.perf_counter()
        for _ in range(count):
            await self.send(PAYLOAD)
        return {"value": count / (time.perf_counter() - begun)}

    async def measure_bulk(self, count: int) -> dict[str, float]:
        """Send them all in one go."""
        await self.send(PAYLOAD)
        begun = time.perf_counter()
        await self.send_many([PAYLOAD] * count)
        return {"value": count / (time.perf_counter() - begun)}

    async def measure_drain(self, count: int, processes: int = 1) -> dict[str, float]:
        """Fill the queue, then start workers, see them empty it, and read some of the later results."""
        handles = await self.send_many([PAYLOAD] * count)
        async with self.working(processes) as (workers, tally):
            if not await eventually(lambda: tally.count() >= count, 60, workers):
                raise RuntimeError(f"only {tally.count()} of {count} jobs were done within a minute")
            slots = tally.slots()
            kept = [await self.result(handle) for handle in handles[count // 2 :: max(1, count // 10)]]
        if kept != [len(PAYLOAD)] * len(kept):
            raise RuntimeError(f"results are not what the jobs returned: {kept[:3]}")
        return {"value": rate(slots), "processes": len(slots)}

    async def measure_idle(self, count: int) -> dict[str, float]:
        """Time from a send to its result, nothing else to do."""

        async with self.working(1):
            return await latencies(lambda: self.call(PAYLOAD), count)

    async def measure_kill(self, watch: float, settle: float = SETTLE) -> dict[str, Any]:
        """Kill -9 the worker that holds a job, with a second one alive, both at the library's defaults."""
        async with self.working(2, defaults=True) as (workers, tally):
            for _ in range(20):  # both are up and take jobs
                await self.send_many([PAYLOAD] * 20)
                if await eventually(lambda: tally.processes() == 2, 1, workers):
                    break
            await asyncio.sleep(settle)
            mark = str(tally.directory / "mark")
            await self.send_hang(mark)
            return await killed(workers, mark, watch)


async def killed(workers: Workers, mark: str, watch: float) -> dict[str, Any]:
    """Kill who wrote *mark*; return the seconds until somebody came again, None if nobody did in *watch* seconds."""
    began = Path(mark)
    if not await eventually(lambda: began.exists() and began.read_text() != "", 60, workers):
        raise RuntimeError("the job that is to be killed was never begun")
    await asyncio.sleep(0.5)
    struck = time.monotonic()
    workers.kill(int(began.read_text()))
    again = Path(f"{mark}.again")
    seen = await eventually(lambda: again.exists() and again.read_text() != "", watch)
    return {"value": float(again.read_text()) - struck if seen else None, "watched": watch}


class Steps(Side):
    """
    An engine: the handlers `steps(count)`, `timed(count)`, which returns the ns of each step, and `hang(mark)`.

    A step does nothing and returns RESULT; `hang` makes 24 of them and hangs in the 25th, the first time.
    """

    async def start(self, handler: str, argument: Any) -> Any:
        """Run *handler* durably; return its result."""
        raise NotImplementedError

    async def send_hang(self, mark: str) -> None:
        """Start `hang` and do not wait for it."""
        raise NotImplementedError

    async def measure_sequential(self, count: int) -> dict[str, float]:
        """One step after another, timed by the handler."""
        async with self.working(1):
            await self.start("timed", 20)
            took = [ns / 1e6 for ns in await self.start("timed", count)]
        return {"value": median(took), "p99": percentile(took, 0.99)}

    async def measure_steps(self, count: int, each: int = 50) -> dict[str, float]:
        """Handlers of many steps, 100 at once."""
        async with self.working(1):
            await in_flight(lambda: self.start("steps", 2), 20, 20)
            took = await in_flight(lambda: self.start("steps", each), count, 100)
        return {"value": count * each / took}

    async def measure_starts(self, count: int) -> dict[str, float]:
        """Handlers of one step, 100 at once."""
        async with self.working(1):
            await in_flight(lambda: self.start("steps", 1), 20, 20)
            return {"value": count / await in_flight(lambda: self.start("steps", 1), count, 100)}

    async def measure_idle(self, count: int) -> dict[str, float]:
        """Time from the start of a handler of one step to its result, nothing else to do."""
        async with self.working(1):
            return await latencies(lambda: self.start("steps", 1), count)

    async def measure_kill(self, watch: float, settle: float = SETTLE) -> dict[str, Any]:
        """Kill -9 the worker in its 25th step, with a second one alive, no restart, at the engine's defaults."""
        async with self.working(2, defaults=True) as (workers, tally):
            await in_flight(lambda: self.start("steps", 1), 40, 20)
            await asyncio.sleep(settle)
            mark = str(tally.directory / "mark")
            await self.send_hang(mark)
            return await killed(workers, mark, watch)


# --- the side's process -----------------------------------------------------------------------------------------------


def serve(side: Side) -> None:
    """Answer the runner: a line of JSON in, what to measure; a line of JSON out, what was seen."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    with asyncio.Runner(loop_factory=_loop_factory(side)) as runner:
        answers.write(json.dumps(side.about()) + "\n")
        for line in sys.stdin:
            asked = json.loads(line)
            try:
                answer = runner.run(_measured(side, asked.pop("measure"), asked))
            except Exception as error:
                import traceback

                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")


async def _measured(side: Side, name: str, options: dict[str, Any]) -> Any:
    await side.open()
    try:
        return await getattr(side, f"measure_{name}")(**options)
    finally:
        await side.close()


def _loop_factory(side: Side) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not side.uvloop:
        return None
    import uvloop

    return uvloop.new_event_loop
