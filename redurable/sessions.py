"""What a client does with sessions: look at them, move their heads, read and write their states."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from redurable.codec import encode, typed
from redurable.codecs.base import Vault
from redurable.config import max_payload
from redurable.errors import NotFound, WrongState
from redurable.model import Reason
from redurable.store import sessions
from redurable.store.session import check_name
from redurable.store.sessions import SessionInfo
from redurable.store.store import Store

__all__ = ["SessionInfo", "SessionState", "Sessions"]

T = TypeVar("T")


class Sessions:
    """The sessions of a client's namespace; it is `client.sessions`."""

    def __init__(self, store: Callable[[], Awaitable[Store]]) -> None:
        self._store = store

    async def list(self, *, queue: str | None = None, limit: int = 100) -> builtins.list[SessionInfo]:
        """Return up to *limit* sessions that have intents or a state, those with the longest lines first."""
        return await sessions.sessions(await self._store(), queue=queue, limit=limit)

    async def get(self, queue: str, key: str, *, line: int = 100) -> SessionInfo:
        """Return one session, with the ids of up to *line* intents that wait; NotFound (SESSION_NOT_FOUND) if none."""
        return await sessions.info(await self._store(), queue, key, line=line)

    async def skip(self, queue: str, key: str, note: str = "") -> str:
        """
        End the head FAILED, so that the next in line begins; return its id. `retry` continues it.

        Raises:
            NotFound: Nobody holds the session.
            WrongState: The head is being run; it is unchanged. Cancel it instead.
        """
        return await sessions.skip(await self._store(), queue, key, note)

    async def cancel(self, queue: str, key: str, note: str = "") -> tuple[str, str]:
        """Ask the head to end; return its id, and what `Client.cancel` answers. NotFound if there is none."""
        store = await self._store()
        head = await sessions.head(store, sessions.find(store, queue, key))
        return head, await store.cancel(head, note)

    async def retry(self, queue: str, key: str) -> str:
        """
        Retry the head now: one that waits for its next try or is held, else the intent of the session that failed last.

        Return its id. One that failed goes next, when the holder has ended.

        Raises:
            WrongState, NotFound: Neither is there; or, ALREADY_UNDONE, that intent's undo work has run, see
                `Client.retry`.
        """
        store = await self._store()
        missing: NotFound | None = None
        try:
            info = await sessions.info(store, queue, key)
            if info.holder is not None and info.reason in (Reason.RETRY, Reason.HELD):
                await store.wake(info.holder)
                return info.holder
        except NotFound as error:
            missing = error  # nobody is in line, and one may have failed all the same
        failed = await sessions.last_failed(store, queue, key)
        if failed is None:
            if missing is not None:
                raise missing
            raise WrongState(
                f"session {key!r} of queue {queue!r} has no head that waits for a retry, and none that failed lately",
                hint="older ones: redurable intents list --status FAILED, then redurable intents retry ID",
            )
        await store.redrive(failed)
        return failed


class SessionState:
    """
    The state of one session, for operators; it is `client.state(queue, key)`.

    What is read is what handlers have made known. Writing is refused (WrongState, SESSION_BUSY) while the session has
    intents, unless it is forced: what they write themselves comes after it.
    """

    def __init__(self, store: Callable[[], Awaitable[Store]], vault: Vault | None, queue: str, key: str) -> None:
        self._store = store
        self._vault = vault
        self.queue = queue
        self.key = key

    @overload
    async def get(self, name: str, *, of: type[T], default: T) -> T: ...
    @overload
    async def get(self, name: str, *, of: type[T]) -> T | None: ...
    @overload
    async def get(self, name: str, *, default: Any = None) -> Any: ...
    async def get(self, name: str, *, of: Any = Any, default: Any = None) -> Any:
        """Return the value of *name*, restored as *of*, or *default* if there is none."""
        data = await sessions.find(await self._store(), self.queue, self.key).read(check_name(name))
        if data is None:
            return default
        if self._vault is not None:
            data = await self._vault.open(data)
        return typed(of).decode(data, f"the value of {name!r} in the state")

    async def keys(self) -> list[str]:
        """Return the names that have a value, sorted."""
        return await sessions.find(await self._store(), self.queue, self.key).names()

    async def set(self, name: str, value: Any, *, force: bool = False) -> None:
        """Write *value* under *name*."""
        data = encode(value, f"the value of {name!r} in the state", max_payload())
        if self._vault is not None:
            data = await self._vault.seal(data)
        await sessions.amend(await self._store(), self.queue, self.key, check_name(name), data, force=force)

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Remove *name*; nothing happens if there is none."""
        await sessions.amend(await self._store(), self.queue, self.key, check_name(name), b"", force=force)
