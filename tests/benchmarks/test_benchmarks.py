"""
The comparison's maths, tables and picture, from a recorded run; our own sides at a tiny size.

No peer is installed or run here, and no figure is judged: `python -m tests.benchmarks` does that.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks import plot, servers, tables
from tests.benchmarks.__main__ import FIGURES, PAGE, main, published, written
from tests.benchmarks.peers import OURS, PEERS, SIDES, dependencies
from tests.benchmarks.runner import SideProcess, chosen

HERE = Path(__file__).resolve().parent

sys.path.insert(0, str(SIDES))
import kit  # noqa: E402  # it belongs to the sides' processes, which have no package

sys.path.remove(str(SIDES))


@pytest.fixture
def report() -> dict[str, Any]:
    return json.loads((HERE / "recorded.json").read_text())  # type: ignore[no-any-return]  # what a run writes


def cell(report: dict[str, Any], side: str, title: str) -> tables.Cell:
    column = [measure.title for measure in tables.MEASURES["queues"]].index(title)
    return tables.cells(report, "queues")[side][column]


# --- ratios -----------------------------------------------------------------------------------------------------------


def test_a_cell_is_the_median_and_its_ratio_the_median_of_turns(report: dict[str, Any]) -> None:
    found = cell(report, "slow", "send, one by one")
    assert (found.value, found.ratio) == (150.0, 10.0)  # of 10, 20 and 4
    assert found.text == "150 (10x)"


def test_a_small_gap_is_a_tie(report: dict[str, Any]) -> None:
    found = cell(report, "quick", "send, one by one")
    assert found.ratio == pytest.approx(1.2)
    assert found.text == "1,600 (tie)"


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.39, "tie"), (1.41, "1.4x"), (0.72, "tie"), (0.7, "0.70x"), (9.99, "10.0x"), (1234.0, "1,234x"), (None, "")],
)
def test_a_verdict_is_a_tie_up_to_four_tenths_either_way(ratio: float | None, verdict: str) -> None:
    assert tables.Cell(value=1.0, ratio=ratio).verdict == verdict


def test_less_is_better_for_times_and_being_slower_is_told(report: dict[str, Any]) -> None:
    assert cell(report, "quick", "send to result, p50").text == "0.200 (0.40x)"
    assert cell(report, "quick", "send to result, p99").verdict == "tie"


def test_who_never_took_over_bounds_the_ratio_by_what_was_watched(report: dict[str, Any]) -> None:
    assert cell(report, "quick", "taken over after kill -9").text == "not in 120 s (> 600x)"
    assert cell(report, "slow", "taken over after kill -9").text == "60.0 (300x)"


def test_what_failed_or_was_not_measured_is_told(report: dict[str, Any]) -> None:
    assert cell(report, "slow", "send to result, p50").text == "failed"
    assert cell(report, "slow", "drain, 1 worker").text == "-"
    text = tables.markdown(report)
    assert "- slow, idle, turn 1: TimeoutError: a minute\n" in text
    assert "- gone was not measured: uv pip install failed: no such package" in text


def test_ours_stands_beside_the_best_peer_of_each_measure(report: dict[str, Any]) -> None:
    assert [found.verdict or found.text for found in tables.best(report, "queues")] == [
        "tie", "-", "-", "-", "0.40x", "tie", "300x",
    ]  # fmt: skip


def test_the_table_has_a_row_a_side_and_the_floor_of_the_run(report: dict[str, Any]) -> None:
    lines = tables.markdown(report).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {len(tables.MEASURES["queues"]) + 2}
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "**redurable**", "quick", "slow", "*ours to the best of them*",
    ]  # fmt: skip
    assert any("60,000 calls/s by 100 tasks, 0.040 ms a call" in line for line in lines)


def test_where_ours_is_not_ahead_is_said(report: dict[str, Any]) -> None:
    (line,) = (line for line in tables.markdown(report).splitlines() if "Not ahead" in line)
    assert line == (
        "- **Not ahead of:** send, one by one: quick (tie); "
        "send to result, p50: quick (0.40x of it); send to result, p99: quick (tie)."
    )


def test_a_record_is_written_a_line(report: dict[str, Any]) -> None:
    text = written(report)
    assert json.loads(text) == report
    assert sum('"measure"' in line for line in text.splitlines()) == len(report["records"])


def test_the_picture_has_a_dot_for_every_ratio(report: dict[str, Any]) -> None:
    (found,) = plot.dots(report).values()
    assert {(dot["measure"], dot["side"]) for dot in found if dot["bound"]} == {("taken over after kill -9", "quick")}
    assert len(found) == 6


def test_settings_are_told_with_their_pages(report: dict[str, Any]) -> None:
    assert "- **quick** (Queues on Redis, asyncio): quick 1.0\n  - threads=32: quick.example/docs\n" in tables.told(
        report
    )


# --- the measures' own maths ------------------------------------------------------------------------------------------


def test_a_rate_counts_from_the_tenth_of_the_jobs_to_the_end_of_the_first_who_ends() -> None:
    one = [0] * 5 + [1] * 10 + [10] * 40 + [0] * 10
    two = [0] * 25 + [10] * 40
    # both work from 25 to 54, and by then a tenth of 810 jobs is done
    assert kit.rate([one, two]) == pytest.approx(20 / kit.TICK)


def test_a_rate_of_workers_that_did_not_overlap_is_that_of_the_whole_time() -> None:
    assert kit.rate([[10] * 20 + [0] * 20, [0] * 20 + [10] * 20]) == pytest.approx(10 / kit.TICK)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert kit.percentile(list(range(100, 0, -1)), share) == value


# --- who takes part ---------------------------------------------------------------------------------------------------


def test_ours_is_always_beside_who_is_chosen() -> None:
    assert [(p.name, p.kind) for p in chosen(["ARQ"])] == [(OURS, "queues"), ("arq", "queues")]
    assert {p.kind for p in chosen(["steps"])} == {"steps"}
    assert chosen([]) == PEERS
    with pytest.raises(ValueError, match=r"'speed'.*restate"):
        chosen(["speed"])


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.module)
def test_every_side_names_its_packages_and_the_pages_of_its_settings(peer: Any) -> None:
    script = SIDES / f"{peer.module}.py"
    assert bool(dependencies(script)) == (peer.name != OURS)
    (side,) = (
        node
        for node in ast.parse(script.read_text()).body
        if isinstance(node, ast.ClassDef) and any("packages" in ast.unparse(line) for line in node.body)
    )
    said = {
        target.id: ast.literal_eval(node.value)
        for node in side.body
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name)
        and target.id in ("name", "settings", "packages")
    }  # fmt: skip
    assert said["name"] == peer.name
    assert said["packages"]
    assert all(len(setting) == 2 and all(setting) for setting in said["settings"])
    assert said["settings"]


# --- our own sides ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with servers.redis() as url:
        yield url


def side(module: str, url: str, log: Path) -> SideProcess:
    (peer,) = (peer for peer in PEERS if peer.module == module)
    return SideProcess(peer, Path(sys.executable), {"BENCH_URL": url}, log)


@pytest.mark.timeout(180)
def test_our_queue_is_measured(server: str, tmp_path: Path) -> None:
    with side("on_redurable", server, tmp_path / "log") as ours:
        assert ours.about["name"] == OURS
        assert ours.ask("send", count=20)["value"] > 0
        assert ours.ask("bulk", count=100)["value"] > 0
        drained = ours.ask("drain", count=300)
        assert drained["value"] > 0, drained
        idle = ours.ask("idle", count=10)
        assert 0 < idle["p50"] <= idle["p99"], idle
        assert "AttributeError" in ours.ask("speed")["error"]


@pytest.mark.timeout(180)
def test_our_steps_are_measured_and_a_killed_worker_is_replaced(server: str, tmp_path: Path) -> None:
    with side("on_redurable_steps", server, tmp_path / "log") as ours:
        sequential = ours.ask("sequential", count=20)
        assert 0 < sequential["value"] <= sequential["p99"], sequential
        assert ours.ask("steps", count=4, each=5)["value"] > 0
        killed = ours.ask("kill", watch=40, settle=1)
        assert 0 < killed["value"] < 40, killed


def test_a_side_that_is_given_up_takes_its_workers_with_it(server: str, tmp_path: Path) -> None:
    with side("on_redurable", server, tmp_path / "log") as ours:
        assert "no answer within 2 s" in ours.ask("kill", within=2, watch=60)["error"]
        assert "error" in ours.ask("send", count=1)  # it has ended
    assert [p for p in psutil.process_iter() if _is_of(p, server)] == []


def _is_of(process: psutil.Process, server: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.pid != os.getpid() and process.environ().get("BENCH_URL") == server
    return False


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_recorded_run_is_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(HERE / "recorded.json")]) == 0
    assert "### Queues on Redis" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--only", "speed"], ["--repeat", "0"]])
def test_a_wrong_input_is_refused_before_anything_is_installed(words: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(words)
    assert raised.value.code == 2


def test_the_page_shows_the_published_figures() -> None:
    report = json.loads(FIGURES.read_text())
    made = tables.markdown(report) + "\n" + tables.told(report)
    assert PAGE.read_text() == published(PAGE.read_text(), made), "renew it: --from figures.json --publish"
