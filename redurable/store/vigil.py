"""
What a worker's renewal thread says to the server, over connections of its own that need no event loop.

Proof of life is a subscription to a channel that nobody publishes to: the kernel closes it when the process dies.
Invariant: the new subscription is there before an old one goes; in between nobody may find the worker gone.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.exceptions import NoScriptError

from redurable.errors import StoreUnavailable
from redurable.store.keeper import renewal
from redurable.store.lease import Lease
from redurable.store.scripts import Script, load
from redurable.store.store import Store

__all__ = ["Vigil"]

_register, _renew = load("register"), load("renew")
_CHUNK = 25
_ANSWER = 5.0  # s


class Vigil:
    """
    The connections of one thread for the worker *worker* on *store*. They are opened at their first use.

    Every method raises StoreUnavailable when the server does not answer; then `close` it, and the next call begins
    anew.
    """

    def __init__(self, store: Store, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._client: redis.Redis | None = None
        self._liveness: Any = None

    def prove(self) -> None:
        """Return with the worker's liveness channel subscribed; a lost connection is noticed and replaced here."""
        before = self._liveness
        if before is not None:
            try:
                while before.get_message(timeout=0) is not None:
                    pass  # confirmations; nobody publishes here
                return
            except (redis.RedisError, OSError):
                pass
        try:
            fresh: Any = self._connected().pubsub()  # type: ignore[no-untyped-call]  # redis-py has no type for it
            fresh.subscribe(self._store.keys[0].liveness(self._worker))
            if fresh.get_message(timeout=_ANSWER) is None:
                raise StoreUnavailable("no answer to a subscription")
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"the liveness channel is not subscribed: {error}") from error
        self._liveness = fresh
        if before is not None:
            before.close()

    def register(self, description: bytes) -> None:
        """Say what the worker is, and that it lives; a server that does not see it live is an error."""
        try:
            keys = self._store.keys[0]  # all processes are known there, whatever partitions they serve
            self._call(_register, ("EVALSHA", _register.sha, 1, keys.workers, "", self._worker, description))
            channel = keys.liveness(self._worker)
            client: Any = self._connected()  # redis-py has no type for it
            seen = client.execute_command("PUBSUB", "NUMSUB", channel)
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"the worker is not registered: {error}") from error
        if seen[1] < 1:
            raise StoreUnavailable("the server does not see that the worker lives")

    def renew(self, leases: list[Lease]) -> list[bytes]:
        """Keep *leases* (of one partition); answers OK, NEWS, PAUSED or LOST for each."""
        words: list[bytes] = []
        try:
            for start in range(0, len(leases), _CHUNK):
                words += self._call(_renew, renewal(leases[start : start + _CHUNK], self._worker))
        except (redis.RedisError, OSError) as error:
            raise StoreUnavailable(f"leases are not renewed: {error}") from error
        return words

    def close(self) -> None:
        """Drop the connections."""
        client, self._client, self._liveness = self._client, None, None
        if client is not None:
            client.close()

    def _connected(self) -> redis.Redis:
        if self._client is None:
            self._client = self._store.topology.blocking_client(timeout=_ANSWER)
        return self._client

    def _call(self, script: Script, command: tuple[Any, ...]) -> Any:
        client: Any = self._connected()
        try:
            return client.execute_command(*command)
        except NoScriptError:  # its scripts were flushed
            client.script_load(script.source)
            return client.execute_command(*command)
