"""
`redurable bench` measures, judges and reports. Structure only: what a figure is depends on the machine's mood.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time

import psutil
import pytest

from redurable.bench.report import BELOW, OK, at_least, at_most, percentile, row
from redurable.bench.run import Sizes
from redurable.bench.suite import SCENARIOS, Report, chosen, measure
from redurable.errors import ConfigurationError
from redurable.store.private import PrivateServer

TINY = Sizes(
    floor=400, long_intents=10, steps=5, intents=200, sequential=50, calls=20, bulk=500, sends=50, kept=200,
    parked=200, rest=0.5, kills=1,
    freezes=0,
)  # fmt: skip


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "redurable", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def tiny(url: str | None, *names: str, repeat: int = 1) -> Report:
    return measure(url, list(names), repeat=repeat, quick=True, sizes=TINY, note=lambda _: None)


# --- judging ----------------------------------------------------------------------------------------------------------


def test_a_row_is_the_median_and_its_ratio_the_median_of_ratios() -> None:
    found = row("x", "/s", [10.0, 30.0, 20.0], [100.0, 100.0, 100.0], at_least(0.2, "ratio"))
    assert (found.value, found.ratio, found.floor, found.runs) == (20.0, 0.2, 100.0, (10.0, 30.0, 20.0))
    assert (found.verdict, found.reached, found.target) == (OK, 1.0, ">= 0.2 of floor")


@pytest.mark.parametrize(
    ("value", "target", "verdict", "reached"),
    [
        (100.0, at_least(100.0), OK, 1.0),
        (70.0, at_least(100.0), BELOW, 0.7),
        (8.0, at_most(8.0), OK, 1.0),
        (10.0, at_most(8.0), BELOW, 0.8),
        (0.0, at_most(8.0), OK, 1.0),
    ],
)
def test_a_target_bounds_the_value(value: float, target: object, verdict: str, reached: float) -> None:
    found = row("x", "us", [value], target=target)  # type: ignore[arg-type]  # parametrized
    assert (found.verdict, found.reached) == (verdict, pytest.approx(reached))


def test_a_row_without_a_target_informs_only() -> None:
    found = row("x", "B", [1.0])
    assert (found.target, found.reached, found.verdict, found.ratio) == (None, None, None, None)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), share) == value


def test_scenarios_are_chosen_in_the_order_of_the_suite() -> None:
    assert chosen(["steps, floor", "noop"]) == ["floor", "steps", "noop"]
    assert chosen([]) == list(SCENARIOS)


def test_an_unknown_scenario_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match="'speed'") as raised:
        chosen(["speed"])
    assert "sequential" in raised.value.hint


# --- measuring --------------------------------------------------------------------------------------------------------


def test_work_is_measured_beside_its_floor_on_a_server_of_yours_and_nothing_is_left_there() -> None:
    with PrivateServer(appendfsync="no") as server:
        twice = tiny(server.url, "steps", repeat=2)
        report = tiny(server.url, "floor", "one-step", "sequential", "send", "latency", "memory")
        left = subprocess.run(
            [sys.executable, "-c", _KEYS, server.url], capture_output=True, text=True, timeout=100, check=True
        )
    assert left.stdout.split() == []
    assert list(report.rows) == ["floor", "one-step", "sequential", "send", "latency", "memory"]
    assert set(report.took) == set(report.rows)
    for rows in (*twice.rows.values(), *report.rows.values()):
        for found in rows:
            assert found.value > 0, found
            assert (found.target is None) == (found.verdict is None), found
            assert len(found.cells()) == 7
    steps = twice.rows["steps"][0]
    assert steps.ratio is not None
    assert len(steps.runs) == 2
    commands = next(r for r in report.rows["one-step"] if "commands" in r.detail).detail["commands"]
    assert commands["publish"] == pytest.approx(1.0, abs=0.1)  # one message a result
    kinds = report.rows["memory"][0].detail["keys"]
    assert set(kinds) == {"head", "envelope", "journal", "outcome", "view"}
    assert report.machine["server"].split()[0] in ("redis", "valkey")


_KEYS = """
import asyncio, sys
from redurable.bench.bed import Bed
async def main():
    bed = Bed(sys.argv[1], private=False)
    await bed.open()
    print(*[k.decode() for k in await bed.mux.command("KEYS", "*")])
    await bed.close()
asyncio.run(main())
"""


def test_parked_intents_are_counted_weighed_and_woken_and_metrics_are_paid_for() -> None:
    report = tiny(None, "parked", "metrics")
    found = {figure.name: figure for figure in report.rows["parked"]}
    assert len(found) == 7
    assert 0 < found["Redis bytes a parked intent, beside its payload"].value < 5000
    assert found["server calls of an idle worker a minute, 200 parked"].target == "<= 100 "
    for figure in report.rows["metrics"]:
        assert figure.value > 0
        assert figure.ratio is not None
        assert len(figure.runs) == 6


def test_recovery_is_timed_from_the_kill() -> None:
    report = tiny(None, "recovery")
    by_parent, by_peers = report.rows["recovery"]
    assert 0 < by_parent.value < 10_000
    assert 0 < by_peers.value < 30_000


# --- the command ------------------------------------------------------------------------------------------------------


def test_json_is_one_document() -> None:
    done = bench("--quick", "--repeat", "1", "--only", "floor", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert [r["name"].split(":")[0] for r in report["rows"]["floor"]] == ["floor"] * 3
    assert report["machine"]["appendfsync"] == "everysec"
    assert report["repeat"] == 1


def test_people_get_a_table_and_the_versions() -> None:
    done = bench("--quick", "--repeat", "1", "--only", "floor")
    assert done.returncode == 0, done.stderr
    assert "FIGURE" in done.stdout
    assert "uvloop" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--full",), "--quick and --full exclude each other [BAD_ARGUMENT]"),
        (("--only", "speed"), "there is no scenario 'speed' [BAD_ARGUMENT]"),
        (("--url", "http://x", "--only", "floor"), "[BAD_URL]"),
        (("--url", "redis://127.0.0.1:1", "--only", "floor"), "[STORE_UNAVAILABLE]"),
    ],
)
def test_a_wrong_input_is_one_line_and_a_hint(words: tuple[str, ...], said: str) -> None:
    done = bench("--quick", *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr.splitlines()[-2], done.stderr
    assert "Traceback" not in done.stderr


def _children(pid: int) -> set[int]:
    """Return the processes that descend from *pid*, whatever their session."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def test_a_killed_bench_leaves_no_server_and_no_worker() -> None:
    command = [sys.executable, "-m", "redurable", "bench", "--only", "sequential", "--repeat", "50"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end, found = time.monotonic() + 60, set[int]()
        while not any("worker-process" in _words(pid) for pid in found):
            assert process.poll() is None
            assert time.monotonic() < end, found
            time.sleep(0.05)  # what it starts is seen in /proc alone
            found = _children(process.pid)
        assert any("--unixsocket" in _words(pid) or "server" in _words(pid) for pid in found)
    finally:
        process.kill()
        process.wait()
    end = time.monotonic() + 60
    while left := [pid for pid in found if _words(pid)]:
        assert time.monotonic() < end, [_words(pid) for pid in left]
        time.sleep(0.1)  # orphans: nobody is told when they end


def _words(pid: int) -> str:
    """Return the command line of *pid*, empty if it is gone, or but a zombie that nobody has waited for."""
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())
    return ""
