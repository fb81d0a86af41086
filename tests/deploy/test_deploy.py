"""
deploy/ against what will read it: real servers, systemd's own judge, the schemas of Compose and Kubernetes, our CLI.

Docker and a cluster are not here; what they would run is parsed by the real command line, and what they would ask of a
worker is asked of a real one.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml

from redurable import config
from redurable.cli import app
from redurable.store.binary import Binary, installed
from redurable.store.server import PrivateServer
from redurable.telemetry import logs

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "redurable-worker@.service"
MARGIN = 10  # s beyond --grace: a second to unwind, and a server that is away


def command_of(words: list[str]) -> dict[str, Any]:
    """Parse *words* as `redurable` would, without running it; return the options as understood."""
    command: Any = typer.main.get_command(app)
    rest = words
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(command.make_context("redurable", list(rest)), list(rest))
    return dict(command.make_context(name, list(rest)).params)


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "worker.yaml").read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    return next(d for d in documents() if d["kind"] == kind)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names are not to be lowered
    parser.read(UNIT)
    return parser


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def last(name: str) -> str:
    return next(value for word, value in reversed(instructions()) if word == name)


# --- redis.conf -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", installed(), ids=lambda binary: binary.name)
def test_the_doctor_has_nothing_to_say_about_redis_conf(binary: Binary, tmp_path: Path) -> None:
    class Configured(PrivateServer):
        def _words(self) -> list[str]:  # the file alone decides what is kept, and how
            place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
            return [self.binary, str(DEPLOY / "redis.conf"), *place, "--unixsocket", self.socket]

    with Configured(tmp_path, port=0, binary=binary.path) as server:
        words = [sys.executable, "-m", "redurable", "doctor", "--url", server.url, "--strict", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        findings = json.loads(done.stdout)["findings"]
        assert [f for f in findings if f["severity"] != "ok"] == []
        assert done.returncode == 0
        seen = {f["check"]: f["seen"] for f in findings}
        assert seen["persistence"].startswith("append-only file, appendfsync everysec: a power cut")
        assert "of 1.0 GiB" in seen["memory"]


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_the_unit_runs_a_command_that_there_is() -> None:
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert words[0].endswith("/redurable")
    example = dict(re.findall(r"^# +([A-Z_]+)=(.+)$", UNIT.read_text(), re.M))
    text = " ".join(words[1:]).replace("$TARGET", example["TARGET"]).replace("$OPTIONS", example["OPTIONS"])
    assert "$" not in text
    parsed = command_of(shlex.split(text))
    assert parsed["target"] == "myapp:handler"
    assert (parsed["grace"], parsed["processes"], parsed["metrics_port"]) == (30.0, 4, 9100)
    assert int(unit()["Service"]["TimeoutStopSec"]) >= parsed["grace"] + MARGIN


def test_the_unit_stops_and_restarts_as_a_worker_needs_it() -> None:
    service = unit()["Service"]
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("exec", "mixed", "always")
    assert service["RestartPreventExitStatus"] == "2"
    assert service["OOMPolicy"] == "continue"
    assert (service["DynamicUser"], service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "yes", "strict")


def test_systemd_has_nothing_to_say_about_the_unit(tmp_path: Path) -> None:
    if (judge := shutil.which("systemd-analyze")) is None:
        assert unit().sections() == ["Unit", "Service", "Install"]
        return
    program = shutil.which("true")
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={program}", UNIT.read_text()))
    instance = tmp_path / "redurable-worker@orders.service"
    instance.symlink_to(copy)
    done = subprocess.run([judge, "verify", "--man=no", str(instance)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "redurable" in line or "orders" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    words = [judge, "security", "--offline=yes", "--threshold=20", "--no-pager", str(instance)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]  # an exposure of 2.0 of 10 at most


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_runs_a_command_that_there_is_under_an_init() -> None:
    entry, command = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert entry == ["tini", "--", "redurable"]
    assert command_of(command)["metrics_port"] == int(last("EXPOSE"))
    assert "apt-get install" in last("RUN")
    assert " tini " in last("RUN")


def test_the_image_is_small_and_runs_as_nobody_in_particular() -> None:
    assert int(last("USER")) >= 10_000
    images = [value.split()[0] for word, value in instructions() if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim", image) for image in images)
    assert len(images) == 2
    assert last("STOPSIGNAL") == "SIGTERM"


def test_what_the_image_copies_is_here_and_let_through() -> None:
    let = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    for word, value in instructions():
        if word == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source.split('/')[0]}" in let
        if word == "RUN" and "pip install" in value:
            extras = re.findall(r"\.\[([\w,]+)\]", value)[0].split(",")

            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert set(extras) <= set(known)


def test_the_health_check_of_the_image_is_python_that_works(health: str) -> None:
    check = last("HEALTHCHECK").split("CMD", 1)[1]
    program, option, code = json.loads(check)
    assert (program, option) == ("python", "-c")
    for port, expected in ((health, 0), ("1", 1)):
        words = [sys.executable, "-c", code.replace("127.0.0.1:9100", f"127.0.0.1:{port}")]
        assert subprocess.run(words, capture_output=True, check=False).returncode == expected


# --- compose ----------------------------------------------------------------------------------------------------------


def test_compose_is_what_its_schema_says(compose: dict[str, Any]) -> None:
    place = resources.files("check_jsonschema").joinpath("builtin_schemas", "vendor", "compose-spec.json")
    jsonschema.validate(compose, json.loads(place.read_text()))
    with pytest.raises(jsonschema.ValidationError):  # it does look
        jsonschema.validate(compose | {"services": {"x": {"imagee": "y"}}}, json.loads(place.read_text()))


def test_compose_runs_commands_that_there_are(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert command_of(services["doctor"]["command"]) is not None
    worker = command_of(services["worker"]["command"])
    assert float(services["worker"]["stop_grace_period"].rstrip("s")) >= worker["grace"] + MARGIN
    assert services["worker"]["deploy"]["replicas"] == 2
    scrape = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"][0]["dns_sd_configs"][0]
    assert (scrape["names"], scrape["port"]) == (["worker"], worker["metrics_port"])


def test_compose_mounts_what_is_here_and_names_what_it_asks_for(compose: dict[str, Any]) -> None:
    named = set(compose["volumes"])
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in named, source
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked == set(re.findall(r"^(\w+)=$", (DEPLOY / "example.env").read_text(), re.M))
    url = compose["services"]["worker"]["environment"]["REDURABLE_URL"]
    assert config.parse_url(re.sub(r"\$\{[^}]*\}", "secret", url)).host == "redis"


def test_prometheus_and_grafana_find_what_is_mounted(compose: dict[str, Any], tmp_path: Path) -> None:
    for name in ("prometheus", "grafana"):
        for volume in compose["services"][name]["volumes"]:
            source, target, *_ = volume.split(":")
            place = tmp_path / target.removeprefix("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if (DEPLOY / source).is_dir():
                shutil.copytree(DEPLOY / source, place)
            elif (DEPLOY / source).is_file():
                shutil.copy(DEPLOY / source, place)
    etc = tmp_path / "etc"
    assert list((etc / "prometheus/rules").glob("*.yml"))
    if (tool := shutil.which("promtool")) is not None:
        words = [tool, "check", "config", str(etc / "prometheus/prometheus.yml")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "1 rule files" in done.stdout
    providers = [
        provider
        for path in (etc / "grafana/provisioning/dashboards").iterdir()
        for provider in yaml.safe_load(path.read_text())["providers"]
    ]
    for provider in providers:
        boards = list((tmp_path / provider["options"]["path"].removeprefix("/")).rglob("*.json"))
        assert boards
        uid = yaml.safe_load((DEPLOY / "datasource.yaml").read_text())["datasources"][0]["uid"]
        known = re.findall(r'"uid": "([^"]+)"', boards[0].read_text())
        assert uid in known or any(name.startswith("$") for name in known)


# --- kubernetes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", documents(), ids=lambda document: document["kind"])
@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_manifests_are_what_their_schemas_say(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):  # it does look
        kubernetes_validate.validate(document | {"metdata": {}}, version, strict=True)


def test_the_deployment_runs_a_command_that_there_is_and_gives_it_time() -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    parsed = command_of(container["args"])
    assert pod["terminationGracePeriodSeconds"] >= parsed["grace"] + MARGIN
    assert container["ports"] == [{"name": "metrics", "containerPort": parsed["metrics_port"]}]
    assert pod["securityContext"]["runAsUser"] == int(last("USER"))
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_manifests_select_the_pods_that_they_make() -> None:
    deployment = of_kind("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert of_kind("PodDisruptionBudget")["spec"]["selector"] == deployment["spec"]["selector"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert of_kind("HorizontalPodAutoscaler")["spec"]["minReplicas"] == deployment["spec"]["replicas"]


@pytest.fixture(scope="module")
def health(server: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The port of a real worker's metrics and health."""
    log = tmp_path_factory.mktemp("deploy") / "log"
    words = [sys.executable, "-m", "redurable", "worker", "tests.cli.app:plain", "--metrics-port", "0"]
    words += ["--log-format", "json", "--url", server.url, "--namespace", "deploy"]
    with log.open("wb") as out:
        process = subprocess.Popen(words, stderr=out, stdin=subprocess.DEVNULL, cwd=ROOT)
    port = ""
    try:
        for _ in range(9000):
            text = log.read_text()
            found = re.search(r'"metrics.serving".*?"port": (\d+)', text)
            if found and "worker.started" in text:
                port = found[1]
                break
            assert process.poll() is None, text
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_the_probes_ask_what_a_worker_answers(health: str) -> None:
    from urllib.request import urlopen

    container = of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert len({probe["path"] for probe in probes.values()}) == 3
    for probe in probes.values():
        assert probe["port"] == "metrics"
        with urlopen(f"http://127.0.0.1:{health}{probe['path']}", timeout=30) as answer:
            assert answer.status == 200


# --- words ------------------------------------------------------------------------------------------------------------


def settings() -> set[str]:
    """The variables that redurable reads."""
    return set(re.findall(r"REDURABLE_[A-Z_]+", f"{config.__doc__} {logs.__doc__} REDURABLE_LOG_LEVEL"))


def test_every_variable_of_ours_that_is_set_is_read() -> None:
    for path in (p for p in DEPLOY.rglob("*") if p.is_file()):
        assert set(re.findall(r"\bREDURABLE_[A-Z_]+", path.read_text())) <= settings(), path


def test_the_readme_names_every_file_and_commands_that_there_are(compose: dict[str, Any]) -> None:
    text = (DEPLOY / "README.md").read_text()
    for path in DEPLOY.iterdir():
        if path.suffix in (".conf", ".service") or path.name in ("compose.yaml", "Dockerfile", "example.env"):
            assert path.name in text
    for line in re.findall(r"^    docker compose -f deploy/compose.yaml run --rm (.+)$", text, re.M):
        service, *words = shlex.split(line)
        assert service in compose["services"]
        assert command_of(words)
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        assert yaml.safe_load(block)["kind"] == "ScaledObject"
