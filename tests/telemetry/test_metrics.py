"""Numbers of real workers: they agree with the ledger, add up over processes, and outlive the one that counted."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from redurable.sync import Client
from redurable.telemetry import catalogue
from redurable.telemetry.tally import MOST, OTHER, Metric, Sum, Tally
from tests.telemetry.conftest import ROOT, Served, until

COUNTER = Metric("a_total", "counter", ("k",), "")
GAUGE = Metric("b", "gauge", (), "")
LATEST = Metric("c", "gauge", (), "", join="max")
TIMES = Metric("d", "histogram", ("k",), "", (0.1, 1.0, 10.0))
ALL = (COUNTER, GAUGE, LATEST, TIMES)


# --- cells ------------------------------------------------------------------------------------------------------------


def test_processes_add_up_and_an_ended_one_leaves_its_counts_and_takes_its_gauges(tmp_path: Path) -> None:
    one, two, total = Tally(tmp_path, "one", ALL), Tally(tmp_path, "two", ALL), Sum(tmp_path, ALL)
    for tally, n in ((one, 1), (two, 10)):
        tally.add(COUNTER, ("x",), n)
        tally.add(GAUGE, (), n)
        tally.set(LATEST, n)
        tally.observe(TIMES, 0.5, ("x",), n)
    two.add(COUNTER, ("y",), 0)
    assert total.total() == {
        (COUNTER, ("x",)): [11], (COUNTER, ("y",)): [0], (GAUGE, ()): [11], (LATEST, ()): [10],
        (TIMES, ("x",)): [0, 11, 0, 0, 5.5],
    }  # fmt: skip
    total.bury("two")
    assert total.total() == {
        (COUNTER, ("x",)): [11], (COUNTER, ("y",)): [0], (GAUGE, ()): [1], (LATEST, ()): [1],
        (TIMES, ("x",)): [0, 11, 0, 0, 5.5],
    }  # fmt: skip
    total.bury("two")
    total.bury("never was")
    assert total.total()[COUNTER, ("x",)] == [11]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.cells", "one.names"]
    one.close()
    two.close()


def test_many_values_at_once_are_counted_as_one_by_one(tmp_path: Path) -> None:
    values = [0.05, 0.1, 0.10001, 1.0, 5.0, 10.0, 11.0, 99.0, 0.0]
    tally, total = Tally(tmp_path, "one", ALL), Sum(tmp_path, ALL)
    tally.extend(TIMES, list(values), ("many",))
    for value in values:
        tally.observe(TIMES, value, ("each",))
    found = total.total()
    assert found[TIMES, ("many",)] == pytest.approx(found[TIMES, ("each",)])
    assert found[TIMES, ("many",)][:-1] == [3, 2, 2, 2]
    tally.close()


def test_labels_without_end_are_counted_as_one(tmp_path: Path) -> None:
    tally, total = Tally(tmp_path, "one", ALL), Sum(tmp_path, ALL)
    for n in range(MOST + 50):
        tally.add(COUNTER, (str(n),))
        tally.observe(TIMES, 1, (str(n),))
    found = total.total()
    assert found[COUNTER, (OTHER,)] == [50]
    assert sum(cells[0] for (metric, _), cells in found.items() if metric is COUNTER) == MOST + 50
    tally.close()


# --- workers ----------------------------------------------------------------------------------------------------------


def test_every_counter_is_there_at_zero_before_anything_ran(serve: Callable[..., Served]) -> None:
    worker = serve()
    zeros = {
        "redurable_intents_total": {"queue": "bread", "outcome": "COMPLETED"},
        "redurable_step_seconds_count": {"queue": "bread", "step": "knead"},
        "redurable_step_failures_total": {"queue": "cake", "step": "flaky", "retried": "yes"},
        "redurable_recoveries_total": {"by": "lease", "result": "resumed"},
        "redurable_fenced_total": {"reason": "FENCED"},
        "redurable_timer_lateness_seconds_count": {},
    }
    found = worker.samples()
    for name, labels in zeros.items():
        assert [v for have, v in found[name] if labels.items() <= have.items()] == [0], name


def test_what_a_killed_process_counted_is_kept_and_what_it_held_is_not(
    serve: Callable[..., Served], tmp_path: Path, redis_url: str, namespace: str
) -> None:
    worker = serve("--processes", "2", "--concurrency", "7")
    worker.started(2)
    with Client(redis_url, namespace=namespace) as client:
        for intent in client.send_many("bread", range(40)):
            client.wait_for(intent, timeout=40)
        held = client.send("slow", "gate")
        until(lambda: "held slow gate" in (tmp_path / "ledger").read_text().splitlines())
        until(lambda: worker.value("redurable_in_flight", queue="slow") == 1)
        # each process tells its parent in its own time, and one that is killed only what it has told
        until(lambda: worker.value("redurable_intents_total", queue="bread", outcome="COMPLETED") == 40)
        for step in ("bake", "knead"):
            until(lambda: worker.value("redurable_step_seconds_count", queue="bread", step=step) == 40)  # noqa: B023
        until(lambda: worker.value("shop_loaves_total", kind="rye") == 40)
        assert worker.value("redurable_capacity") == 14
        before = {pid: set(worker.children()) for pid in worker.children()}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: worker.value("redurable_process_deaths_total") == 2)
        worker.started(4)
        until(lambda: worker.value("redurable_processes_serving") == 2)
        assert worker.value("redurable_intents_total", queue="bread", outcome="COMPLETED") == 40
        for step in ("bake", "knead"):
            assert worker.value("redurable_step_seconds_count", queue="bread", step=step) == 40
        assert worker.value("redurable_capacity") == 14
        until(lambda: worker.value("redurable_in_flight", queue="slow") == 1)  # and not 2
        recovered = worker.value("redurable_recoveries_total", by="parent")  # twice if the second was given it at once
        assert recovered >= 1
        assert worker.value("redurable_recovery_seconds_count", by="parent") == recovered
        (tmp_path / "gate").touch()
        client.wait_for(held, timeout=40)
    until(lambda: worker.value("redurable_intents_total", queue="slow", outcome="COMPLETED") == 1)
    assert worker.value("redurable_in_flight") == 0
    assert worker.value("shop_loaves_total", kind="rye") == 40, "user code's own metrics, of killed processes too"


def test_every_worker_tells_the_same_of_the_queues(
    serve: Callable[..., Served], redis_url: str, namespace: str
) -> None:
    workers = [serve("--queue", "bread", app="tests.telemetry.bakery:bread") for _ in range(2)]
    for worker in workers:
        worker.started()
    with Client(redis_url, namespace=namespace) as client:
        for _ in range(3):
            client.send("nobody", 1)
        client.send("nobody", 1, delay=3600)
    for worker in workers:
        until(lambda: worker.value("redurable_queue_depth", queue="nobody") == 3)  # noqa: B023  asked at once
        until(lambda: worker.value("redurable_queue_delayed", queue="nobody") == 1)  # noqa: B023
        until(lambda: worker.value("redurable_queue_workers", queue="bread") == 2)  # noqa: B023
        assert worker.value("redurable_queue_workers", queue="nobody") == 0
        assert worker.value("redurable_timers") == 1
        assert 0 <= worker.value("redurable_queue_oldest_seconds", queue="nobody") < 60


def test_a_version_with_work_and_no_worker_is_told(
    serve: Callable[..., Served], redis_url: str, namespace: str
) -> None:
    target = "tests.telemetry.bakery:bread"
    old = serve("--queue", "loaves", "--version", "v1", app=target)
    old.started()
    with Client(redis_url, namespace=namespace) as client:
        client.wait_for(client.send("loaves", 1), timeout=40)
        new = serve("--queue", "loaves", "--version", "v2", app=target)
        new.started()
        client.deployments.promote("loaves", "v1")
        old.process.terminate()
        old.process.wait(20)
        client.send_many("loaves", [1, 2, 3])
        until(lambda: new.value("redurable_version_workers", queue="loaves", version="v1") == 0)
        until(lambda: new.value("redurable_version_ready", queue="loaves", version="v1") == 3)
        assert new.value("redurable_version_ready", queue="loaves", version="v2") == 0
        (queue,) = [q for q in client.queues() if q.name == "loaves"]
        assert [(v.version, v.ready, v.workers) for v in queue.versions] == [("v1", 3, 0), ("v2", 0, 1)]
        client.deployments.promote("loaves", None)
        until(lambda: new.value("redurable_queue_depth", queue="loaves") == 0)


def test_limits_tell_who_has_a_place_and_who_waits(
    serve: Callable[..., Served], redis_url: str, namespace: str, tmp_path: Path
) -> None:
    worker = serve("--processes", "1")
    worker.started(1)
    with Client(redis_url, namespace=namespace) as client:
        intents = [client.send("slow", gate) for gate in ("one", "one", "one", "two")]
        until(lambda: worker.value("redurable_limit_waiting", limit="gates") == 1)
        until(lambda: worker.value("redurable_limit_used", limit="gates") == 3)
        assert 0 < worker.value("redurable_limit_oldest_seconds", limit="gates") < 60
        for gate in ("one", "two"):
            (tmp_path / gate).touch()
        for intent in intents:
            client.wait_for(intent, timeout=40)
    until(lambda: not worker.value("redurable_limit_waiting") + worker.value("redurable_limit_used", limit="gates"))


def test_ticks_of_schedules_are_counted_once_however_many_look(
    serve: Callable[..., Served], redis_url: str, namespace: str
) -> None:
    worker = serve("--processes", "2")
    worker.started(2)
    with Client(redis_url, namespace=namespace) as client:
        client.schedules.put("beat", to="nobody", every=0.1, overlap="skip")
        until(lambda: client.schedules.get("beat").skipped >= 5)
        client.schedules.pause("beat")
        info = client.schedules.get("beat")

    def ticks(result: str) -> float:
        return worker.value("redurable_schedule_ticks_total", schedule="beat", result=result)

    until(lambda: ticks("skipped") == info.skipped)
    assert ticks("fired") == info.fired == 1
    assert worker.value("redurable_schedule_lateness_seconds_count") == info.fired + info.skipped


def test_the_page_is_served_in_both_forms(serve: Callable[..., Served]) -> None:
    worker = serve()
    assert worker.get("/metrics", "application/openmetrics-text; version=1.0.0")[1].endswith("# EOF\n")
    assert not worker.get("/metrics")[1].endswith("# EOF\n")


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_documented_list_is_the_registered_one() -> None:
    text = (ROOT / "grafana" / "README.md").read_text()
    listed = re.findall(r"^\| `(redurable_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", text, flags=re.M)
    registered = [
        (m.name, m.kind, ", ".join(f"`{label}`" for label in m.labels), m.help) for m in catalogue.METRICS
    ]  # fmt: skip
    assert listed == registered


def test_the_page_shows_what_is_registered_and_nothing_else(serve: Callable[..., Served]) -> None:
    worker = serve()
    worker.started()
    until(lambda: worker.value("redurable_store_up") == 1)
    told = set(re.findall(r"^# TYPE (redurable_\w+) \w+$", worker.get("/metrics")[1], flags=re.M))
    assert told == {metric.name for metric in catalogue.METRICS}
