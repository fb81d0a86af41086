"""
The example agent, killed with SIGKILL at each of its paid calls: the bill and the answer are the undisturbed run's.

Workers are real processes, killed by pid while the fake model server holds the very call they wait for. The SDK turns
what tools raise into answers for the model; that a drain, a park, a lost lease and a cancel never become one is seen in
what was asked of that server, and in the answer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from redurable import IntentFailed, Status
from redurable.model import AttemptFailed, StepDone
from redurable.store.private import PrivateServer
from redurable.sync import Client
from workers.agent.__main__ import KILLS, QUESTION, read
from workers.agent.bed import ROOT, Bed, Place, until

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

TEXT = "In short: Acme makes things. Globex makes things. Which of them is better depends on what you need."
CALLS = [
    "plan", "search Acme", "search Globex", "fetch Acme", "fetch Globex", "summarise Acme", "summarise Globex",
    "take notes", "write",
]  # fmt: skip
ONCE = dict.fromkeys(CALLS, (1, 1))
_YOUNG = 10.5  # s; workers that come to a server younger than this take nobody for dead for a while


class Nest(Bed):
    """A bed whose workers are hatched, not started: always two, so that one can take over from the other."""

    def __init__(self, server: PrivateServer, namespace: str, room: Path) -> None:
        super().__init__(server.url, namespace, room)
        self.client = Client(server.url, namespace=namespace)
        self.told = room / "told"
        self._serial = itertools.count(1)
        self._options = {
            "target": "tests.e2e.agent_app", "app_dir": str(ROOT), "url": server.url, "namespace": namespace,
            "log_format": "json", "lease": 1.0,
        }  # fmt: skip

    def __enter__(self) -> Nest:
        super().__enter__()
        environment = self.environment | {"AGENT_TOLD": str(self.told)}
        self._pipe = os.pipe()
        with self.log.open("ab") as log:
            self.hatchery = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.hatchery", "tests.e2e.agent_app"], cwd=ROOT, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, pass_fds=[self._pipe[0]],
            )  # fmt: skip
        self.workers.append(self.hatchery)
        assert self.hatchery.stdout is not None
        assert self.hatchery.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        pids = self.pids()
        for end in self._pipe:
            os.close(end)
        self.hatchery.terminate()
        self.hatchery.communicate()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().__exit__(*error)

    def hatch(self, count: int = 1) -> None:
        """Start so many workers; return once they serve."""
        for _ in range(count):
            options = self._options | {"worker_id": f"nest.{next(self._serial)}", "parent_pipe": self._pipe[0]}
            assert self.hatchery.stdin is not None
            self.hatchery.stdin.write(json.dumps(options) + "\n")
            self.hatchery.stdin.flush()
        until(lambda: self.alive() >= count)

    def alive(self) -> int:
        return sum(worker.alive for worker in self.client.workers())

    def logged(self, event: str) -> int:
        """Return how often the workers have told of *event*."""
        return self.log.read_text().count(f'"event": "{event}"')

    def full(self) -> Nest:
        """Return it with two workers that serve."""
        if (missing := 2 - len(self.pids())) > 0:
            self.hatch(missing)
        until(lambda: self.alive() >= 2)
        return self

    def ask(self, queue: str = "analyst") -> str:
        return str(self.client.send(queue, QUESTION))

    def ended(self, intent: str) -> Any:
        return self.client.wait_for(intent, 60.0)


@pytest.fixture(scope="module")
def _nest(server: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nest]:
    with Nest(server, "agent", tmp_path_factory.mktemp("agent")) as nest:
        time.sleep(max(0.0, psutil.Process(server.pid).create_time() + _YOUNG - time.time()))
        yield nest


@pytest.fixture
def nest(_nest: Nest) -> Nest:
    return _nest.full()


# --- undisturbed ------------------------------------------------------------------------------------------------------


def test_an_undisturbed_run_pays_each_call_once_and_parallel_tool_calls_overlap(nest: Nest) -> None:
    with nest.together("search", 2):  # neither is answered before both have come
        intent = nest.ask()
        found = nest.ended(intent)
    assert found["text"] == TEXT
    assert found["tokens"] > 50
    assert nest.bill(intent) == ONCE
    first, second = (nest.call(intent, f"search {company}") for company in ("Acme", "Globex"))
    assert first.ended is not None
    assert second.ended is not None
    assert max(first.begun, second.begun) < min(first.ended, second.ended)
    steps = [e.scope + e.name for _, e in nest.client.history(intent) if isinstance(e, StepDone)]
    assert len(steps) == 3 + 6 + 2  # model calls, what the tools bought, the tools
    assert sum(bool(re.fullmatch(r"research#call_\w+>>buy", step)) for step in steps) == 6


# --- SIGKILL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", KILLS, ids=" ".join)
def test_a_worker_killed_between_the_payment_and_the_answer(nest: Nest, place: Place) -> None:
    intent = nest.ask()
    for killed in nest.hunt([place]):
        assert killed.pid is not None
    assert nest.ended(intent)["text"] == TEXT
    bill = nest.bill(intent)
    assert {name: paid for name, (_, paid) in bill.items()} == dict.fromkeys(CALLS, 1)
    again = {name for name, (asked, _) in bill.items() if asked > 1}
    assert place[0] in again  # it was under way
    # what was recorded is not asked for again; beside the call that was killed, its sibling's may have been under way
    beside = {name for name in CALLS if place[0].endswith(("Acme", "Globex")) and name.endswith(("Acme", "Globex"))}
    assert again <= {place[0], *beside}
    assert len(again) <= 2
    assert sum(asked for asked, _ in bill.values()) <= len(CALLS) + 2


def test_who_reads_the_answer_as_it_is_written_has_it_whatever_dies(nest: Nest) -> None:
    intent = nest.ask()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read, nest.client, intent)
        for _ in nest.hunt([("write", "middle")]):
            nest.full()
        assert nest.ended(intent)["text"] == TEXT
        text, resets = reading.result(30)
    assert text == TEXT
    assert resets <= 1, "none if the first half was not told yet"
    assert read(nest.client, intent) == (text, resets), "who comes later reads the same"


def test_one_run_killed_before_each_of_its_calls_in_turn(nest: Nest) -> None:
    """A call that comes has those before it recorded: the kill falls right after each of them."""
    nest.hatch(2)
    intent, kills = nest.ask(), 0
    for _ in nest.hunt([(call, "asked") for call in CALLS]):
        kills += 1
        nest.full()
    assert kills == len(CALLS)
    assert nest.ended(intent)["text"] == TEXT
    bill = nest.bill(intent)
    assert {name: paid for name, (_, paid) in bill.items()} == dict.fromkeys(CALLS, 1)
    assert [bill[name][0] for name in ("plan", "take notes", "write")] == [2, 2, 2]
    info = nest.client.get(intent)
    assert info.attempt == kills + 1
    assert info.status is Status.COMPLETED


def test_parallel_tool_calls_of_a_recovered_run_are_parallel_again(nest: Nest) -> None:
    intent = nest.ask()
    with nest.together("fetch", 2):
        for _ in nest.hunt([("plan", "paid"), ("search Globex", "paid")]):
            nest.full()
        assert nest.ended(intent)["text"] == TEXT
    first, second = (nest.call(intent, f"fetch {company}") for company in ("Acme", "Globex"))
    assert max(first.begun, second.begun) < min(first.ended or 0, second.ended or 0)
    assert {paid for _, paid in nest.bill(intent).values()} == {1}


# --- what ends an attempt is no answer for the model ------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["analyst", "stubborn"])
@pytest.mark.parametrize("place", [("search Acme", "asked"), ("write", "middle")], ids=" ".join)
def test_a_drain_lets_the_calls_under_way_end_and_nothing_else(nest: Nest, place: Place, queue: str) -> None:
    intent, drains = nest.ask(queue), nest.logged("worker.draining")
    with nest.stopped(place) as wait:
        pid = wait().pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
        until(lambda: nest.logged("worker.draining") > drains)
        time.sleep(0.2)  # the call beside this one may end, and its tool ask for the next, which is not made
    until(lambda: pid not in nest.pids())
    found = nest.ended(intent)
    assert (found["text"] if queue == "analyst" else found) == TEXT
    assert nest.bill(intent) == ONCE, "nothing was asked for twice"
    history = [entry for _, entry in nest.client.history(intent)]
    assert not any(isinstance(entry, AttemptFailed) for entry in history)
    assert nest.client.get(intent).losses == 0


def test_a_worker_that_lost_its_intent_makes_no_more_calls_and_its_answer_does_not_count(nest: Nest) -> None:
    nest.told.unlink(missing_ok=True)
    intent, losses = nest.ask("stubborn"), nest.logged("attempt.fenced")
    with nest.stopped(("search Acme", "paid")) as wait:
        frozen = wait().pid
        assert frozen is not None
        # the other tool is done: a call that was being made when the process froze would be made when it thaws
        until(lambda: nest.bill(intent).get("summarise Globex") == (1, 1))
        os.kill(frozen, signal.SIGSTOP)
    try:
        assert nest.ended(intent) == TEXT  # by the other, which waited for two leases
        before = nest.bill(intent)
    finally:
        os.kill(frozen, signal.SIGCONT)
    until(lambda: nest.logged("attempt.fenced") > losses)
    until(lambda: nest.told.exists() and nest.told.read_text())
    # this is what the SDK made answers of: a call was refused, or its body was cut off when a renewal was
    assert set(nest.told.read_text().split()) <= {"Fenced", "CancelledError"}
    os.kill(frozen, signal.SIGTERM)
    until(lambda: frozen not in nest.pids())
    assert nest.bill(intent) == before
    assert {name: paid for name, (_, paid) in before.items()} == dict.fromkeys(CALLS, 1)
    assert nest.client.wait_for(intent) == TEXT


def test_a_tool_and_a_run_that_sleep_are_parked_without_a_process(nest: Nest) -> None:
    nest.told.unlink(missing_ok=True)
    intent = nest.ask("patient")
    for call in ("fetch Globex", "take notes"):
        until(lambda: nest.bill(intent).get(call) == (1, 1))  # noqa: B023  # called here and now
        until(lambda: nest.client.get(intent).status is Status.WAITING)
    assert nest.ended(intent) == TEXT
    calls = [call for call in CALLS if not call.startswith("search")]
    assert nest.bill(intent) == dict.fromkeys(calls, (1, 1))
    # the SDK did make an answer of what unwound the tools; nobody was given it
    assert set(nest.told.read_text().split()) == {"Suspended"}


@pytest.mark.parametrize("queue", ["analyst", "stubborn"])
@pytest.mark.parametrize("place", [("plan", "asked"), ("write", "middle")], ids=" ".join)
def test_a_cancel_interrupts_a_models_call(nest: Nest, place: Place, queue: str) -> None:
    intent = nest.ask(queue)
    with nest.stopped(place) as wait:
        assert wait().pid is not None
        nest.client.cancel(intent)
        with pytest.raises(IntentFailed) as failed:
            nest.ended(intent)  # while the server still holds the call
    assert failed.value.status == "CANCELED"
    assert set(nest.bill(intent)) == set(CALLS[: CALLS.index(place[0]) + 1])


@pytest.mark.parametrize("queue", ["analyst", "stubborn"])
def test_after_a_cancel_no_tool_and_no_model_is_asked_for_anything(nest: Nest, queue: str) -> None:
    intent = nest.ask(queue)
    with nest.stopped(("fetch Acme", "asked")) as wait:
        assert wait().pid is not None
        nest.client.cancel(intent)
    with pytest.raises(IntentFailed) as failed:
        nest.ended(intent)
    assert failed.value.status == "CANCELED"
    bill = nest.bill(intent)
    # the other tool may have ended by then; if not it fails, and the SDK then cancels the call that is in flight
    assert set(bill) <= set(CALLS[:-2]) - {"summarise Acme"}
    assert {asked for asked, _ in bill.values()} == {1}


# --- without a worker -------------------------------------------------------------------------------------------------


def test_without_a_worker_the_handler_is_an_ordinary_function(nest: Nest) -> None:
    code = f"import asyncio, workers.agent.analyst as a; print(asyncio.run(a.answer({QUESTION!r}))['text'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=nest.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == TEXT + "\n"


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_of_the_readme(tmp_path: Path) -> None:
    readme = (ROOT / "workers" / "agent" / "README.md").read_text()
    assert "\n    uv run python -m workers.agent\n" in readme
    done = subprocess.run(
        [sys.executable, "-m", "workers.agent", "--kills", "1"], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SIGKILL to") == 1
    assert "the same bill: True; the same answer: True" in done.stdout
    assert "who read it as it was written has the same: True" in done.stdout
