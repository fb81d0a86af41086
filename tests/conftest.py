"""
What every test may ask for: a real server, a namespace of its own, the server's URL.

One server is started for the whole run, and tests keep out of each other's way by namespaces, not by emptying it.
Tests of the store run on every server program of this machine with `--servers=all`; else on the first found.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from redurable.store.binary import Binary, installed
from redurable.store.server import PrivateServer

_STORE_TESTS = Path(__file__).parent / "store"
_serial = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("first", "all"),
        default=os.environ.get("REDURABLE_TEST_SERVERS", "first"),
        help="run tests/store on the first server program found, or on all of them (Redis and Valkey)",
    )


def pytest_configure() -> None:
    # a shell that starts us in the background has us ignore Ctrl+C, and so every process that a test gives one
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--servers") == "all"
    if every and "server" in metafunc.fixturenames and metafunc.definition.path.is_relative_to(_STORE_TESTS):
        metafunc.parametrize("server", installed(), indirect=True, ids=lambda binary: binary.name, scope="session")


@pytest.fixture(autouse=True)
def _no_server_of_the_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings, and so their server, out of the tests."""
    for name in [n for n in os.environ if n.startswith("REDURABLE_") or n == "REDIS_URL"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """A running server on a unix socket, shared by the session: leave it as it is (kill a `PrivateServer` of yours)."""
    binary: Binary | None = getattr(request, "param", None)
    with PrivateServer(appendfsync="no", binary=binary.path if binary else None) as running:
        yield running


@pytest.fixture
def namespace() -> str:
    """A short namespace that no other test of the run uses."""
    return f"t{next(_serial)}"


@pytest.fixture
def redis_url(server: PrivateServer) -> str:
    """The URL of `server`; use it with `namespace`."""
    return server.url
