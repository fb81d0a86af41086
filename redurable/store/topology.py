"""
Where the server is and how a connection to it is made; foreign connection errors are translated here.

Owns the keyword arguments of redis-py. Its retries are always set: its defaults would send a write twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import socket
import uuid
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from redurable.config import Address
from redurable.errors import ConfigurationError, StoreError, StoreUnavailable

__all__ = ["Topology", "translated"]

CONNECT_TIMEOUT = 5.0
# no CLIENT SETINFO: it fills the error counters of servers before 7.2; redis-py renamed the switch
_SILENT: dict[str, Any] = (
    {"driver_info": None}
    if importlib.util.find_spec("redis.driver_info") is not None
    else {"lib_name": None, "lib_version": None}
)
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}


def translated(error: BaseException, address: Address) -> BaseException:
    """Return *error* as one of ours, if it is redis-py's or the network's."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error.__cause__, redis.AuthenticationError):  # over unix sockets redis-py wraps it
        error = error.__cause__
    if "without any password configured" in str(error):
        open_to_all = dataclasses.replace(address, username=None, password=None).display
        return StoreUnavailable(
            f"{address.display} has no password, and the URL has one",
            code="AUTH_FAILED",
            hint=f"take the password out of the URL ({open_to_all}), if this is the server that you mean",
        )
    if isinstance(error, redis.AuthenticationError | NoPermissionError):
        return StoreUnavailable(
            f"{address.display} refused the user name or password: {error}",
            code="AUTH_FAILED",
            hint="put them into the URL (redis://user:password@host:6379/0), percent-encoded",
        )
    text = str(error)
    if isinstance(error, redis.ResponseError) and ("NOAUTH" in text or "WRONGPASS" in text):
        return StoreUnavailable(
            f"{address.display} wants a password: {error}",
            code="AUTH_FAILED",
            hint="put it into the URL: redis://user:password@host:6379/0",
        )
    if isinstance(error, redis.RedisError | OSError | asyncio.TimeoutError):
        return StoreUnavailable(
            f"cannot reach Redis at {address.display}: {text or type(error).__name__}",
            hint="is it running there, and is the URL right? `redurable dev` starts one for this project",
        )
    return error


class Topology:
    """The server at *address*, for as many connections of as many loops and threads as are asked for."""

    def __init__(self, address: Address) -> None:
        if address.kind not in ("tcp", "tls", "unix"):
            raise ConfigurationError(
                f"{address.display}: {address.kind} is not served by this version",
                code="BAD_URL",
                hint="use redis://, rediss:// or unix://",
            )
        self.address = address
        self.name = f"redurable-{uuid.uuid4().hex[:8]}"

    def _common(self) -> dict[str, Any]:
        address = self.address
        common: dict[str, Any] = {
            "db": address.db,
            "username": address.username,
            "password": address.password,
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "client_name": self.name,
            **_SILENT,
        }
        if address.kind == "unix":
            common["path"] = address.path
            del common["socket_connect_timeout"]
        else:
            common |= {"host": address.host, "port": address.port}
            common |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
        if address.kind == "tls":
            common |= dict(address.options)
        return common

    def connection(self) -> Any:
        """Return a new asyncio connection of redis-py, not yet connected."""
        kinds = {
            "tcp": redis.asyncio.Connection,
            "tls": redis.asyncio.SSLConnection,
            "unix": redis.asyncio.UnixDomainSocketConnection,
        }
        options = self._common() | {"retry": None}
        # the handshake is bounded by this; once our protocol has the transport it no longer applies
        options["socket_timeout"] = CONNECT_TIMEOUT
        return kinds[self.address.kind](**options)

    def blocking_client(self, timeout: float | None) -> redis.Redis:
        """Return a synchronous client for a thread of its own; it never repeats a command by itself."""
        options = self._common() | {"socket_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
        if self.address.kind == "unix":
            options["unix_socket_path"] = options.pop("path")
        if self.address.kind == "tls":
            options["ssl"] = True
        return redis.Redis(**options, single_connection_client=False, decode_responses=False)
