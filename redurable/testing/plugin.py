"""
The pytest plugin: a real server, a client and workers for tests, without a plugin for async tests.

    redurable_server    a server and a namespace of the test's own, also for every `Client()` that the test makes
    redurable_client    a `redurable.sync.Client` there
    redurable_worker    call it with handlers: a worker serves them until the test ends

All are plain fixtures, so they serve sync tests and those of any async plugin alike: there, `async with Client()`.
The server is the one at REDURABLE_TEST_URL, else a private one for the whole run that nobody else finds. What a test
leaves in its namespace is removed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from redurable.sync import Client
    from redurable.testing.serving import Serve, Server

__all__ = ["redurable_client", "redurable_server", "redurable_worker"]


@pytest.fixture(scope="session")
def _redurable_url() -> Iterator[str]:
    given = os.environ.get("REDURABLE_TEST_URL", "").strip()
    if given:
        yield given
        return
    from redurable.errors import ConfigurationError
    from redurable.store.private import PrivateServer

    try:
        server = PrivateServer(appendfsync="no").start()
    except ConfigurationError as error:
        pytest.fail(f"{error}\n  for tests: in REDURABLE_TEST_URL; theirs are namespaces of their own", pytrace=False)
    try:
        yield server.url
    finally:
        server.remove()


@pytest.fixture
def redurable_server(_redurable_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """
    A real server with a namespace of the test's own: `url`, `namespace`.

    For the test's duration REDURABLE_URL and REDURABLE_NAMESPACE name them, so `Client()` anywhere in the code under
    test, and worker processes, find it by themselves.
    """
    from redurable.testing.serving import Server

    server = Server(_redurable_url, f"test-{secrets.token_hex(4)}")
    monkeypatch.setenv("REDURABLE_URL", server.url)
    monkeypatch.setenv("REDURABLE_NAMESPACE", server.namespace)
    try:
        yield server
    finally:
        server.wipe()


@pytest.fixture
def redurable_client(redurable_server: Server) -> Iterator[Client]:
    """A blocking client in the test's namespace; in async tests make one of the other kind: `async with Client()`."""
    from redurable.sync import Client

    with Client(redurable_server.url, namespace=redurable_server.namespace) as client:
        yield client


@pytest.fixture
def redurable_worker(redurable_server: Server) -> Iterator[Serve]:
    """
    Call it to start a worker in the test's namespace; it takes work when the call returns, and stops after the test.

    `redurable_worker(handler, another, concurrency=..., grace=...)` serves functions of this process, closures and
    patches included, from a thread. `redurable_worker("module:function", processes=...)` starts `redurable worker` as
    processes of their own: what it returns can be killed. Both have `stop()`.
    """
    from redurable.testing.serving import Serve

    serve = Serve(redurable_server)
    try:
        yield serve
    finally:
        serve.close()
