"""
The demo from the undisturbed run to the verdict; what happens is told to a `View` as it happens.

Invariant: everything in the report is measured from outside: the ledger of the steps' bodies, the rows of the two
databases, the clock. Only the number of attempts is redurable's own word.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from redurable.demo import app
from redurable.demo.crew import Crew
from redurable.demo.ledger import Ledger, Line, runs
from redurable.errors import IntentFailed, RedurableError
from redurable.store.private import PrivateServer
from redurable.sync import Client

__all__ = ["Options", "Report", "View", "play"]

_SETTLED = 5.2  # s: for five a worker that came to a server younger than ten takes nobody for dead


@dataclass(frozen=True, slots=True)
class Options:
    """What to do: kill in step *kill_at*, at a moment that *seed* chooses; each step takes *pace* seconds."""

    kill_at: int = 47
    seed: int | None = None
    processes: int = 1
    url: str | None = None
    pace: float = 0.15
    keep: Path | None = None
    timeout: float = 120.0


@dataclass(slots=True)
class Report:
    """
    What happened. `ok` says that each step ran as often as it should and that the databases are identical.

    Attributes:
        runs: Step number to how often its body began.
        recovery_ms: From the kill to the beginning of the killed step's second run.
        kill: `pid` of the process, `worker` its name, `after_ms` the time since the step began.
        took_over: `pid` and `worker` of the second run.
        database, reference: `sha256` of all rows in order, and their number, disturbed and undisturbed.
    """

    ok: bool = False
    kill_at: int = 0
    seed: int = 0
    processes: int = 1
    steps: int = 0
    intent: str = ""
    status: str = ""
    attempts: int = 0
    recovery_ms: float | None = None
    kill: dict[str, Any] = field(default_factory=dict)
    took_over: dict[str, Any] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)
    reference_runs: dict[int, int] = field(default_factory=dict)
    result: Any = None
    reference_result: Any = None
    database: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    directory: str | None = None

    def expected(self, step: int) -> int:
        """Return how often the body of *step* should have begun."""
        return 2 if step == self.kill_at else 1

    @property
    def identical(self) -> bool:
        """Whether both runs left the same rows and the same result."""
        return self.database == self.reference and self.result == self.reference_result

    def judge(self) -> None:
        """Set `ok`."""
        as_expected = all(self.runs.get(n, 0) == self.expected(n) for n in range(1, self.steps + 1))
        self.ok = self.status == "COMPLETED" and as_expected and len(self.runs) == self.steps and self.identical


class View(Protocol):
    """Whoever shows the demo. Calls come from one thread."""

    def say(self, text: str) -> None:
        """Something has begun or ended."""

    def begin(self, report: Report, phases: dict[int, str]) -> None:
        """The intent was sent; *phases* names each step."""

    def step(self, line: Line, who: str) -> None:
        """A body has begun or ended on *who*."""

    def killed(self, step: int, who: str, pid: int, after_ms: float) -> None:
        """The worker *who* was killed in *step*."""

    def recovered(self, step: int, who: str, ms: float) -> None:
        """*who* carries on at *step*, *ms* after the kill."""


def play(options: Options, view: View) -> Report:
    """
    Run the pipeline undisturbed, then on workers of which one is killed; return what happened.

    Raises:
        ConfigurationError: Something it needs is not installed.
        RedurableError: DEMO_FAILED: a worker would not start, or the time was up.
    """
    began = time.monotonic()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    report = Report(kill_at=options.kill_at, seed=seed, processes=options.processes)
    code, etl = app.directory(), app.load()
    report.steps = etl.STEPS
    with contextlib.ExitStack() as stack:
        directory = _directory(options.keep, stack)
        report.directory = str(directory) if options.keep else None
        url = options.url
        if url is None:
            server = stack.enter_context(PrivateServer())
            url = server.url
            view.say(f"a server of its own: {server.binary}")
        namespace = f"demo-{secrets.token_hex(3)}"
        client = stack.enter_context(Client(url, namespace=namespace))
        client.queues()  # a server that cannot be used is told of before any worker is
        if options.url is not None:
            stack.callback(_tidy, url, namespace)
        phases = _undisturbed(etl, directory, report, view)
        words = [app.TARGET, "--app-dir", str(code), "--url", url, "--namespace", namespace, "--log-format", "json"]
        crew = stack.enter_context(Crew(words, directory, options.processes))
        crew.ready(lambda: sum(worker.alive for worker in client.workers()))
        what = "two workers" if options.processes == 1 else f"one worker of {options.processes} processes"
        view.say(f"{what}, started as `redurable worker {app.TARGET}`: {_pids(crew)}")
        if options.processes == 1 and options.url is None:
            _let_it_settle(_SETTLED - options.pace * (options.kill_at - 1), view)
        _disturbed(client, crew, directory, options, report, view, phases)
        report.database = _contents(etl, directory / "disturbed.sqlite")
    report.seconds = round(time.monotonic() - began, 2)
    report.judge()
    return report


def _directory(keep: Path | None, stack: contextlib.ExitStack) -> Path:
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redurable-demo-")))
    keep.mkdir(parents=True, exist_ok=True)
    for name in ("undisturbed", "disturbed"):
        for old in keep.glob(f"{name}.*"):  # of an earlier run; its workers' logs go on
            old.unlink()
    return keep.resolve()


def _undisturbed(etl: Any, directory: Path, report: Report, view: View) -> dict[int, str]:
    """Run the pipeline as plain Python; return the name of each step."""
    began = time.monotonic()
    ledger = Ledger(directory / "undisturbed.ledger")
    report.reference_result = etl.handler(str(directory / "undisturbed.sqlite"), str(ledger.path))
    lines = list(ledger.news())
    report.reference_runs = runs(lines)
    report.reference = _contents(etl, directory / "undisturbed.sqlite")
    rows, seconds = report.reference["rows"], time.monotonic() - began
    view.say(f"the undisturbed run, plain Python without a worker: {rows:,} rows in {seconds:.1f} s")
    return {line.step: line.name for line in lines}


def _contents(etl: Any, database: Path) -> dict[str, Any]:
    digest, rows = app.fingerprint(etl, database)
    return {"sha256": digest, "rows": rows}


def _pids(crew: Crew) -> str:
    return " and ".join(f"pid {worker.pid}" for worker in crew.workers)


def _let_it_settle(wait: float, view: View) -> None:
    """Wait so long that the kill does not fall into the workers' first seconds at a young server."""
    if wait > 0:
        view.say(f"waiting {wait:.1f} s: in their first 5 s at a server just started, workers take nobody for dead")
        time.sleep(wait)


def _disturbed(
    client: Client, crew: Crew, directory: Path, options: Options, report: Report, view: View, phases: dict[int, str]
) -> None:
    """Send the intent, kill, and watch until it has ended."""
    ledger = Ledger(directory / "disturbed.ledger")
    payload = {"database": str(directory / "disturbed.sqlite"), "ledger": str(ledger.path), "pace": options.pace}
    report.intent = client.send(app.QUEUE, payload)
    view.begin(report, phases)
    outcome = _later(lambda: client.wait_for(report.intent, options.timeout))
    # the step to be killed in does not end before the kill, however late that comes on a slow machine
    hold = Path(f"{ledger.path}.hold-{options.kill_at}")
    hold.touch()
    try:
        for line in _watch(ledger, crew, options, report, view, outcome, hold):
            view.step(line, crew.name(line))
    finally:
        hold.unlink(missing_ok=True)
    report.runs = runs(ledger.lines)
    try:
        report.result = outcome.result()
    except TimeoutError:
        view.say(f"it has not ended within {options.timeout:g} s")
    except IntentFailed as failed:
        view.say(str(failed))
    info = client.get(report.intent)
    report.status, report.attempts = info.status.value, info.attempt


def _later(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run *function* in a thread that Ctrl+C does not wait for, as it would for a pool's."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)  # raised by who asks for the result

    threading.Thread(target=run, name="redurable-demo", daemon=True).start()
    return future


def _watch(
    ledger: Ledger,
    crew: Crew,
    options: Options,
    report: Report,
    view: View,
    outcome: concurrent.futures.Future[Any],
    hold: Path,
) -> Iterator[Line]:
    """Yield the ledger's lines as they come; kill once, then remove *hold*, and note who carries on."""
    # between the beginning of the step and its end, which would come `pace` later at the earliest
    delay = int(random.Random(report.seed).uniform(0.05, 0.75) * options.pace * 1e9)
    victim: Line | None = None
    killed = 0
    while True:
        over = outcome.done()
        for line in ledger.news():
            yield line
            if line.step != options.kill_at or line.event != "start":
                continue
            if victim is None:
                victim = line
            elif report.recovery_ms is None:
                report.recovery_ms = round((line.at - killed) / 1e6, 1)
                report.took_over = {"pid": line.pid, "worker": crew.name(line)}
                view.recovered(line.step, crew.name(line), report.recovery_ms)
        if over:
            return
        if victim is not None and not killed and time.monotonic_ns() >= victim.at + delay:
            killed = crew.kill(victim)
            hold.unlink()
            after = round((killed - victim.at) / 1e6, 1)
            report.kill = {"pid": victim.pid, "worker": crew.name(victim), "after_ms": after}
            view.killed(victim.step, crew.name(victim), victim.pid, after)
        time.sleep(0.002)


def _tidy(url: str, namespace: str) -> None:
    """Remove what the demo left on a server that is not its own."""
    import asyncio

    from redurable.store.address import address_of
    from redurable.store.store import Store

    async def remove() -> None:
        store = Store(address_of(url), namespace)
        await store.start()
        try:
            cursor = b"0"
            while True:
                cursor, keys = await store.mux.command("SCAN", cursor, "MATCH", f"{namespace}:*", "COUNT", 1000)
                for key in keys:
                    await store.mux.command("UNLINK", key)
                if cursor == b"0":
                    return
        finally:
            await store.close()

    with contextlib.suppress(RedurableError):
        asyncio.run(remove())
