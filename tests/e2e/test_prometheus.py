"""
A real Prometheus scrapes real workers: it accepts the files in `grafana/`, every expression gives data, and the
panels' counts equal the ledger that the handlers keep themselves.

It needs the programs `prometheus` and `promtool` (Debian: apt-get install prometheus). Without them these tests fail
where CI could have installed them, and are skipped elsewhere, saying so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from redurable.errors import IntentFailed
from redurable.store.server import PrivateServer
from redurable.sync import Client
from redurable.telemetry import catalogue
from tests.telemetry.conftest import ROOT, Served, until

pytestmark = pytest.mark.timeout(400)  # four workers start one after the other, and every second counts
GRAFANA = ROOT / "grafana"
BOARD = json.loads((GRAFANA / "dashboards" / "redurable.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
RANGE = "10m"
THRESHOLD = re.compile(r"\s*(?:[<>]=?|==)\s*[\d.]+$")


def programs() -> None:
    """Have `prometheus` and `promtool`, or say plainly what is not tested."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if not missing:
        return
    said = f"{' and '.join(missing)} not found: the dashboard and the rules are not tested (apt-get install prometheus)"
    if os.environ.get("CI") == "true" and shutil.which("apt-get"):
        pytest.fail(said)
    pytest.skip(said)


class Prometheus:
    """A Prometheus on a free port, with the files of `grafana/`, scraping every second."""

    def __init__(self, home: Path, targets: list[int]) -> None:
        shutil.copytree(GRAFANA / "rules", home / "rules")
        config = (GRAFANA / "prometheus.yml").read_text()
        config = re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 1s", config)
        listed = "".join(f"          - localhost:{port}\n" for port in targets)
        config = re.sub(r"( {10}- localhost:\d+\n)+", listed, config)
        (home / "prometheus.yml").write_text(config)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = home / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def ask(self, path: str, **words: Any) -> Any:
        """Return `data` of an API answer."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {words}: {error.read().decode()}") from error

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Return the samples of an instant query."""
        when = {} if at is None else {"time": at}
        found = self.ask("query", query=expression, **when)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in found]

    def up(self) -> int:
        """Return how many targets were scraped by now; 0 while it starts."""
        try:
            return sum(value == 1 for _, value in self.query("up"))
        except (urllib.error.URLError, ConnectionError):
            assert self.process.poll() is None, self.log.read_text()
            return 0

    def scraped(self, ports: list[int]) -> float:
        """Return once every one of *ports* was scraped after now, the time of the latest of these scrapes."""
        begun = time.time()

        def look() -> float:
            found = self.query("timestamp(redurable_capacity)")
            at = [value for labels, value in found if labels["instance"] in {f"localhost:{port}" for port in ports}]
            return max(at) if len(at) == len(ports) and min(at) > begun else 0.0

        return float(until(look))

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)


@dataclass
class Scene:
    """What is left when the load is over: Prometheus, the ledger, and when the last scrape was."""

    prometheus: Prometheus
    ledger: Counter[str]
    outcomes: Counter[str]
    at: float


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, server: PrivateServer) -> Iterator[Scene]:
    programs()
    room, home = tmp_path_factory.mktemp("telemetry"), tmp_path_factory.mktemp("prometheus")
    words = ("--concurrency", "50", "--lease", "1")
    workers = [Served(room, server.url, "prom", "--processes", n, *words, app="tests.telemetry.bakery") for n in "211"]
    ports = [worker.port for worker in workers]
    prometheus = Prometheus(home, ports)
    try:
        for worker, count in zip(workers, (2, 1, 1), strict=True):
            worker.started(count)
        until(lambda: prometheus.up() == 3, 60)
        prometheus.scraped(ports)
        outcomes = load(server.url, room, workers, prometheus)
        lines = Counter((room / "ledger").read_text().splitlines())
        living = [worker.port for worker in workers if worker.process.poll() is None]
        prometheus.scraped(living)
        at = prometheus.scraped(living)  # a subquery sees what was scraped before the last full second
        until(lambda: prometheus.query("redurable:step_seconds:p95"))
        yield Scene(prometheus, lines, outcomes, at)
    finally:
        prometheus.stop()
        for worker in workers:
            if worker.process.poll() is None:
                worker.stop()


def load(url: str, room: Path, workers: list[Served], prometheus: Prometheus) -> Counter[str]:
    """Let everything happen that a panel shows; return the intents' outcomes as their sender saw them."""
    outcomes: Counter[str] = Counter()
    living = list(workers)

    def ended(client: Client, *intents: str) -> None:
        for intent in intents:
            try:
                client.wait_for(intent, timeout=30)
                outcomes["COMPLETED"] += 1
            except IntentFailed as failure:
                outcomes[str(failure.status)] += 1

    def held(client: Client, gate: str) -> tuple[str, Served, int]:
        """Send an intent that waits at *gate*; return it, the worker that runs it, and the process."""
        intent = client.send("slow", gate)
        until(lambda: f"held slow {gate}" in (room / "ledger").read_text().splitlines())
        name = until(lambda: client.get(intent).worker)
        process = next(info for info in client.workers() if info.id == name)
        served = next(worker for worker in living if str(worker.process.pid) in name.split("."))
        prometheus.scraped([worker.port for worker in living])  # what is killed next has shown what it counted
        return intent, served, process.pid

    with Client(url, namespace="prom") as client:
        client.send("nobody", 1)
        client.send("nobody", 1, delay=3600)
        client.schedules.put("rounds", to="nobody", every=0.5, overlap="skip")
        left_to_nobody(client, url, room)
        client.send("typed", 1, type="strange")
        sent = [*client.send_many("bread", range(60))]
        sent += [client.send("cake", kind) for kind in ("flaky", "flaky", "hopeless", "again", "nap", "nap", "plain")]
        sent += [client.send("odd", kind) for kind in ("changed", "mismatch")]
        sent.append(client.send("bread", 1, delay=30, deadline=0.3))  # TIMED_OUT, and never run
        ended(client, *sent)

        intent, _, pid = held(client, "killed")  # its parent notices
        os.kill(pid, signal.SIGKILL)
        (room / "killed").touch()
        ended(client, intent)

        intent, served, _ = held(client, "gone")  # its peers notice
        living.remove(served)
        children = served.children()
        served.process.send_signal(signal.SIGSTOP)
        for pid in (*children, served.process.pid):
            os.kill(pid, signal.SIGKILL)
        served.process.wait()
        (room / "gone").touch()
        ended(client, intent)

        intent, served, pid = held(client, "frozen")  # its lease alone tells; it finds itself fenced when it is back
        os.kill(pid, signal.SIGSTOP)
        (room / "frozen").touch()
        ended(client, intent)
        os.kill(pid, signal.SIGCONT)
        until(lambda: served.value("redurable_fenced_total") > 0)
    return outcomes


def left_to_nobody(client: Client, url: str, room: Path) -> None:
    """Let an intent begin on a version whose only worker then goes."""
    (room / "ready").touch()
    retired = Served(room, url, "prom", "--version", "v0", app="tests.telemetry.late")
    retired.started()
    intent = client.send("late", 2)
    until(lambda: client.get(intent).reason == "TIME")
    retired.stop()
    until(lambda: client.get(intent).status == "SUBMITTED")


def expression(text: str, instance: str = ".*") -> str:
    """Return a panel's expression with its variables filled in."""
    given = {
        'job=~"$job"': f'job=~".*", instance=~"{instance}"',
        "$queue": ".*", "$__rate_interval": "30s", "$__range": RANGE,
    }  # fmt: skip
    for variable, value in given.items():
        text = text.replace(variable, value)
    assert "$" not in text, text
    return text


def counted(scene: Scene, title: str, legend: str | None = None) -> Counter[str]:
    """
    Return what a panel of counts shows, by its label or by its legends.

    It is asked for each worker at the time of its own last scrape: there `increase` needs no extrapolation.
    """
    found: Counter[str] = Counter()
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    last = scene.prometheus.query(f"max_over_time(timestamp(redurable_capacity)[{RANGE}:1s])")
    assert len(last) == 3
    for labels, at in last:
        for target in panel["targets"]:
            for own, value in scene.prometheus.query(expression(target["expr"], labels["instance"]), at):
                found[next(iter(own.values()), target["legendFormat"])] += value  # type: ignore[assignment]
    return Counter({name: round(value, 6) for name, value in found.items() if value})  # type: ignore[misc]


# --- files ------------------------------------------------------------------------------------------------------------


def test_promtool_accepts_the_files() -> None:
    programs()
    for words in (["check", "config", "prometheus.yml"], ["check", "rules", "rules/redurable.yml"]):
        done = subprocess.run(["promtool", *words], cwd=GRAFANA, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    programs()
    rules = Path(__file__).parent / "rules.test.yml"
    named = set(re.findall(r"alert: (\w+)", (GRAFANA / "rules" / "redurable.yml").read_text()))
    assert named == set(re.findall(r'alertname="(\w+)"', rules.read_text()))
    done = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_names_only_metrics_that_exist() -> None:
    known = {metric.name for metric in catalogue.METRICS}
    known |= {f"{m.name}_{part}" for m in catalogue.METRICS if m.bounds for part in ("bucket", "count", "sum")}
    for path in (GRAFANA / "dashboards" / "redurable.json", GRAFANA / "rules" / "redurable.yml"):
        named = set(re.findall(r"\bredurable_\w+", path.read_text()))
        assert named
        assert not (strange := named - known), f"{path.name}: {strange}"


def test_every_metric_is_shown_or_alerted_on() -> None:
    text = (GRAFANA / "dashboards" / "redurable.json").read_text() + (GRAFANA / "rules" / "redurable.yml").read_text()
    assert [metric.name for metric in catalogue.METRICS if metric.name not in text] == ["redurable_queues"]


def test_the_provisioning_files_fit_the_dashboard() -> None:
    source = (GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text()
    assert "type: prometheus" in source
    assert "uid: prometheus" in source
    (variable,) = [v for v in BOARD["templating"]["list"] if v["type"] == "datasource"]
    assert variable["current"]["value"] == "prometheus"
    assert "type: file" in (GRAFANA / "provisioning" / "dashboards" / "redurable.yml").read_text()
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))


# --- the load ---------------------------------------------------------------------------------------------------------


def test_what_prometheus_has_of_a_load_is_what_happened(scene: Scene) -> None:
    """All that is asked of the load in one test: were it several, each process that tests run in would set it up."""
    every_panel_has_data(scene)
    every_rule_is_evaluated_and_its_expression_has_data(scene)
    outcomes_are_those_that_the_sender_saw(scene)
    steps_are_those_of_the_ledger(scene)
    retries_failures_and_recoveries_are_those_of_the_ledger(scene)


def every_panel_has_data(scene: Scene) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            found = scene.prometheus.query(expression(target["expr"]), scene.at)
            assert found, f"{panel['title']}: {target['expr']}"
            assert any(value == value for _, value in found), f"{panel['title']}: only NaN: {target['expr']}"


def every_rule_is_evaluated_and_its_expression_has_data(scene: Scene) -> None:
    rules = [rule for group in scene.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 20
    for rule in rules:
        assert rule["health"] == "ok", rule
        if "absent(" not in rule["query"]:
            bare = rule["query"] if " unless " in rule["query"] else THRESHOLD.sub("", rule["query"])
            assert scene.prometheus.query(bare), rule["query"]
    told = (
        "RedurableVersionWithoutWorker",
        "RedurableWorkWithoutWorker",
        "RedurableJournalMismatches",
        "RedurableFenced",
        "RedurableUnknownTypes",
    )
    alerts: dict[str, Any] = {}
    queues: set[tuple[str, str]] = set()
    while not alerts.keys() >= set(told):  # the test's own time limit ends it
        found = scene.prometheus.ask("alerts")["alerts"]
        alerts = {alert["labels"]["alertname"]: alert for alert in found}
        queues = {(alert["labels"]["alertname"], alert["labels"].get("queue", "")) for alert in found}
    assert queues > {("RedurableWorkWithoutWorker", "nobody"), ("RedurableVersionWithoutWorker", "late")}
    assert alerts["RedurableJournalMismatches"]["state"] == alerts["RedurableFenced"]["state"] == "firing"
    assert alerts["RedurableUnknownTypes"]["labels"]["queue"] == "typed"
    assert "RedurableNotScraped" not in alerts
    assert "RedurableStoreUnreachable" not in alerts


def outcomes_are_those_that_the_sender_saw(scene: Scene) -> None:
    assert set(scene.outcomes) == {"COMPLETED", "FAILED", "TIMED_OUT"}
    assert counted(scene, "Intents by outcome") == scene.outcomes


def steps_are_those_of_the_ledger(scene: Scene) -> None:
    ran: Counter[str] = Counter()
    for line, count in scene.ledger.items():
        what, _, step = line.split(" ")
        if what == "ran":
            ran[step] += count
    assert ran["bake"] == ran["knead"] == 60
    assert counted(scene, "Step bodies run") == ran


def retries_failures_and_recoveries_are_those_of_the_ledger(scene: Scene) -> None:
    ledger = scene.ledger
    shown = counted(scene, "Retries and recoveries")
    assert shown["step tried again"] == ledger["step-retried cake flaky"] == 2
    wanted = ledger["handler-retried cake cake"] + ledger["handler-retried odd odd"]
    assert shown["handler tried again"] == wanted == 3
    held = [ledger[f"held slow {gate}"] - 1 for gate in ("killed", "gone", "frozen")]
    assert held == [1, 1, 1]
    # who is faster where a parent lives is a matter of milliseconds
    assert shown["recovered: {{by}}"] == 0
    assert shown["parent"] + shown["peers"] == held[0] + held[1]
    assert shown["peers"] >= held[1]
    # the frozen process's blocking read may be given what was taken from it, which then is taken again
    assert shown["lease"] >= held[2]
    trouble = counted(scene, "Trouble")
    assert trouble["step failed"] == ledger["step-failed cake hopeless"] == 1
    assert trouble["handler failed"] == 1
    assert trouble["journal mismatch"] == ledger["mismatched odd odd"] == 1
    assert trouble["changed step code"] == ledger["changed odd mix"] == 1
    assert trouble["fenced"] == 1, "the frozen process, when it was back"
    assert trouble["unknown type, now"] > 0
