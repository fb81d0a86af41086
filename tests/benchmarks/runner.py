"""
The run: every measure, repeat by repeat, side after side, so that all of them see the machine in the same moods.

Each side is a process that lives for the whole run and is asked by a line of JSON. A phase has servers of one
durability; what a peer cannot do, or who cannot be installed, is recorded with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Self

from redurable.bench.floor import Floor
from redurable.bench.report import percentile
from redurable.config import parse_url
from redurable.store.multiplexer import Multiplexer
from redurable.store.topology import Topology
from tests.benchmarks import servers
from tests.benchmarks.peers import OURS, PEERS, SIDES, Kind, Peer, environment, restate_program
from tests.benchmarks.servers import Missing

__all__ = ["Plan", "chosen", "run"]

QUICK_WATCH, WATCH = 10.0, 120.0


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What is run.

    Attributes:
        repeat: How often each measure is taken. scale: Of the usual amount of work, 1.0 is all.
        watch: s that a killed job is watched for. cache: Where the peers are installed.
        tcp: Servers are dialed by TCP though they have unix sockets.
    """

    peers: tuple[Peer, ...]
    repeat: int
    scale: float
    watch: float
    cache: Path
    note: Callable[[str], None]
    tcp: bool = False


def chosen(names: Iterable[str]) -> tuple[Peer, ...]:
    """
    Return the peers of *names* (a side, or `queues` or `steps`), ours always beside them; all of them for no name.

    Raises:
        ValueError: Nobody has that name; the text says who there is.
    """
    asked = {part.strip().lower() for name in names for part in name.split(",") if part.strip()}
    known = {peer.name.lower() for peer in PEERS} | {peer.kind for peer in PEERS}
    if unknown := sorted(asked - known):
        raise ValueError(f"there is no {unknown[0]!r}; choose of: {', '.join(sorted(known))}")
    met = [p for p in PEERS if not asked or p.name.lower() in asked or p.kind in asked]
    kinds = {p.kind for p in met if p.name != OURS} or {p.kind for p in met}
    return tuple(p for p in PEERS if p in met or (p.name == OURS and p.kind in kinds))


class SideProcess:
    """The process of one side."""

    def __init__(self, peer: Peer, python: Path, environ: dict[str, str], log: Path) -> None:
        self.peer = peer
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [python, "serve.py", peer.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                cwd=SIDES,
                env={k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | environ,
                text=True,
            )
        self.about = self._answer(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            _pipe(self._process.stdin).close()
        self._end(5)

    def _end(self, patience: float) -> None:
        """Wait for the process to end; then interrupt it, so that it ends its workers too, or kill it."""
        for seconds in (patience, 0.5, 10):  # the second interrupt reaches what blocks the loop
            try:
                self._process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGINT)
        self._process.kill()
        self._process.wait()

    def ask(self, measure: str, within: float = 240, **options: Any) -> dict[str, Any]:
        """Return what *measure* gave, or the error."""
        begun = time.monotonic()
        try:
            stdin = _pipe(self._process.stdin)
            stdin.write(json.dumps({"measure": measure, **options}) + "\n")
            stdin.flush()
            answer = self._answer(within)
        except (OSError, TimeoutError) as error:
            answer = {"error": f"{error or type(error).__name__}"}
        return answer | {"took": round(time.monotonic() - begun, 1)}

    def _answer(self, within: float) -> dict[str, Any]:
        stdout = _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(within):
                self._end(0)
                raise TimeoutError(f"no answer within {within:g} s")
        line = stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"the side's process ended: {said}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class Run:
    """One run, and what it records."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.records: list[dict[str, Any]] = []
        self.floors: list[dict[str, Any]] = []
        self.server: str | None = None
        self.restate: Path | None = None
        self.sides: dict[str, dict[str, Any]] = {"queues": {}, "steps": {}}
        self._pythons: dict[str, Path] = {}
        self._logs = Path(tempfile.mkdtemp(prefix="bench-logs-"))

    def all(self) -> None:
        """Everything, in order."""
        self.install()
        kinds = {peer.kind for peer in self.plan.peers}
        if "queues" in kinds:
            self.queues()
        if "steps" in kinds:
            self.steps()
        self.kills()

    def install(self) -> None:
        """Make every environment; who cannot be installed is told, and out."""
        for peer in self.plan.peers:
            self.plan.note(f"installing {peer.name} ({peer.kind})")
            try:
                self._pythons[peer.module] = environment(peer, self.plan.cache)
                if peer.needs == "restate":
                    self.restate = restate_program(self.plan.cache)
            except Missing as missing:
                self.sides[peer.kind][peer.name] = {"name": peer.name, "missing": str(missing)}

    @contextlib.contextmanager
    def phase(
        self, kind: Kind, fsync: str, only: Callable[[Peer], bool] = lambda _: True
    ) -> Iterator[list[SideProcess]]:
        """The servers and the side processes of *kind*, each server shared by those who need it."""
        with contextlib.ExitStack() as stack:
            there: dict[str, dict[str, str] | Missing] = {}
            sides = []
            for peer in self.plan.peers:
                if peer.kind != kind or peer.module not in self._pythons or (only is not None and not only(peer)):
                    continue
                try:
                    if peer.needs not in there:
                        there[peer.needs] = self._server(stack, peer.needs, fsync)
                    environ = there[peer.needs]
                    if isinstance(environ, Missing):
                        raise environ
                    sides.append(stack.enter_context(self._side(peer, environ, fsync)))
                    self.sides[kind].setdefault(peer.name, sides[-1].about)
                except Missing as missing:
                    there.setdefault(peer.needs, missing)
                    self.sides[kind][peer.name] = {"name": peer.name, "missing": str(missing)}
                except OSError as error:
                    self.sides[kind][peer.name] = {"name": peer.name, "missing": str(error)}
            if "BENCH_URL" in (redis := there.get("redis") or {}) and not isinstance(redis, Missing):
                self._url = redis["BENCH_URL"]
            yield sides

    def _side(self, peer: Peer, environ: dict[str, str], fsync: str) -> SideProcess:
        return SideProcess(
            peer, self._pythons[peer.module], environ | {"BENCH_FSYNC": fsync}, self._logs / f"{peer.module}.log"
        )

    def _server(self, stack: contextlib.ExitStack, needs: str, fsync: str) -> dict[str, str]:
        if needs == "redis":
            return {"BENCH_URL": stack.enter_context(servers.redis(fsync, tcp=self.plan.tcp))}
        if needs == "postgres":
            return {"BENCH_POSTGRES": stack.enter_context(servers.postgres(fsync, tcp=self.plan.tcp))}
        if needs == "restate":
            assert self.restate is not None
            return stack.enter_context(servers.restate(self.restate, fsync, tcp=self.plan.tcp))
        return {}

    def take(self, side: SideProcess, name: str, measure: str, turn: int, **options: Any) -> None:
        """Ask *side* once, on an empty Redis, and record it under *name*."""
        if side.peer.needs == "redis":
            asyncio.run(_flush(self._url))
        answer = side.ask(measure, **options)
        self.plan.note(f"{turn + 1}  {name:<12} {side.peer.name:<12} {_short(answer)}")
        self.records.append(
            {"kind": side.peer.kind, "measure": name, "side": side.peer.name, "turn": turn, "asked": options} | answer
        )

    def floor(self, turn: int, fsync: str) -> None:
        """Measure the raw floor of the Redis of this phase."""
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            seen = runner.run(_floor(self._url, self.plan.scale))
        self.server = seen.pop("server")
        self.floors.append({"turn": turn, "fsync": fsync} | seen)

    def queues(self) -> None:
        """What queues do: take in, hand out, answer, hand out again."""
        scale = self.plan.scale
        with self.phase("queues", "everysec") as sides:
            for turn in range(self.plan.repeat if sides else 0):
                self.floor(turn, "everysec")
                for name, measure, options in (
                    ("send", "send", lambda p: {"count": int(10_000 * scale)}),
                    ("bulk", "bulk", lambda p: {"count": int(max(5_000, 2 * p.pace) * scale)}),
                    ("drain", "drain", lambda p: {"count": int(1.5 * p.pace * scale)}),
                    ("drain 2", "drain", lambda p: {"count": int(2 * p.pace * scale), "processes": 2}),
                    ("idle", "idle", lambda p: {"count": max(10, int(p.calls * scale))}),
                ):
                    for side in _turned(sides, turn):
                        self.take(side, name, measure, turn, **options(side.peer))

    def steps(self) -> None:
        """What engines do, with the log on disk within a second, and before every answer."""
        scale = self.plan.scale
        with self.phase("steps", "everysec") as sides:
            for turn in range(self.plan.repeat if sides else 0):
                self.floor(turn, "everysec")
                for name, options in (
                    ("sequential", lambda p: {"count": max(20, int(2_000 * min(1, p.pace / 50) * scale))}),
                    ("steps", lambda p: {"count": self._intents(p)}),
                    ("starts", lambda p: {"count": max(100, int(min(8_000, 25 * p.pace) * scale))}),
                    ("idle", lambda p: {"count": max(10, int(p.calls * scale))}),
                ):
                    for side in _turned(sides, turn):
                        self.take(side, name, name, turn, **options(side.peer))
        with self.phase("steps", "always") as sides:
            for turn in range(self.plan.repeat if sides else 0):
                self.floor(turn, "always")
                for side in _turned(sides, turn):
                    self.take(side, "steps, always", "steps", turn, count=self._intents(side.peer))

    def _intents(self, peer: Peer) -> int:
        """200 intents of 50 steps; more for who is done with them in no time, fewer for who takes half a minute."""
        return int(max(200 if peer.pace > 20 else 100, peer.pace) * self.plan.scale) or 1

    def kills(self) -> None:
        """
        Who takes over when a worker is killed, at everybody's defaults.

        Those who need less than seconds are timed one after another, each repeat; the others have a server each and
        are watched all at once, since most of what happens is nothing.
        """
        watch = self.plan.watch
        kinds: tuple[Kind, ...] = ("queues", "steps")
        for kind in kinds:
            with self.phase(kind, "everysec", only=_at_once) as sides:
                if sides and "redis" in {side.peer.needs for side in sides}:
                    time.sleep(10)  # nobody is taken for dead in a server's first ten seconds
                for turn in range(self.plan.repeat if sides else 0):
                    for side in sides:
                        self.take(side, "kill", "kill", turn, watch=watch)
        slow = [p for p in self.plan.peers if not _at_once(p) and p.module in self._pythons]
        with ThreadPoolExecutor(max(1, len(slow))) as pool:
            list(pool.map(self._watched, slow))

    def _watched(self, peer: Peer) -> None:
        with contextlib.ExitStack() as stack:
            try:
                environ = self._server(stack, peer.needs, "everysec")
                side = stack.enter_context(self._side(peer, environ, "everysec"))
                answer = side.ask("kill", within=self.plan.watch + 180, watch=self.plan.watch)
            except (Missing, OSError) as error:
                answer = {"error": f"{error or type(error).__name__}"}
        self.plan.note(f"1  {'kill':<12} {peer.name:<12} {_short(answer)}")
        self.records.append({"kind": peer.kind, "measure": "kill", "side": peer.name, "turn": 0, "asked": {}} | answer)


def run(plan: Plan) -> dict[str, Any]:
    """Run *plan*; return what `tables` and `plot` are made of; after an interrupt, of what there is."""
    begun, load = time.time(), os.getloadavg()[0]
    it = Run(plan)
    with contextlib.suppress(KeyboardInterrupt):
        it.all()
    return {
        "machine": _machine(it.restate) | {"server": it.server, "load": round(load, 1)},
        "date": time.strftime("%Y-%m-%d", time.gmtime(begun)),
        "seconds": round(time.time() - begun),
        "repeat": plan.repeat,
        "scale": plan.scale,
        "watch": plan.watch,
        "tcp": plan.tcp,
        "sides": it.sides,
        "floors": it.floors,
        "records": it.records,
    }


def _at_once(peer: Peer) -> bool:
    return peer.name in (OURS, "Restate")


def _turned(sides: list[SideProcess], turn: int) -> list[SideProcess]:
    """Everyone is first at some turn."""
    k = turn % len(sides)
    return sides[k:] + sides[:k]


def _short(answer: dict[str, Any]) -> str:
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in answer.items()}
    return " ".join(f"{k}={v}" for k, v in shown.items())


async def _flush(url: str) -> None:
    mux: Multiplexer = Multiplexer(Topology(parse_url(url)), patience=10.0)
    await mux.start()
    await mux.command("FLUSHALL")
    await mux.close()


async def _floor(url: str, scale: float) -> dict[str, Any]:
    mux: Multiplexer = Multiplexer(Topology(parse_url(url)), patience=10.0)
    await mux.start()
    floor = Floor(mux, "floor")
    rate = await floor.rate(max(2_000, int(20_000 * scale)))
    alone = percentile(await floor.latencies(max(200, int(2_000 * scale))), 0.5)
    told = dict(
        line.split(":", 1) for line in (await mux.command("INFO", "server")).decode().splitlines() if ":" in line
    )
    await mux.close()
    kind, number = ("Valkey", "valkey_version") if "valkey_version" in told else ("Redis", "redis_version")
    return {"rate": rate, "ms": alone, "server": f"{kind} {told[number]}"}


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _machine(restate: Path | None) -> dict[str, Any]:
    def said(*words: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
        return None

    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "redurable": version("redurable"),
        "postgres": said(str(postgres[-1]), "--version") if postgres else None,
        "restate": said(str(restate), "--version") if restate else None,
    }
