"""What a client does with deployment versions: look at them, and say which one fresh intents go to."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Collection

from redurable.errors import NotFound
from redurable.store import deployments
from redurable.store.deployments import Deployment
from redurable.store.store import Store

__all__ = ["Deployment", "Deployments"]


class Deployments:
    """The deployment versions of a client's namespace; it is `client.deployments`."""

    def __init__(self, store: Callable[[], Awaitable[Store]]) -> None:
        self._store = store

    async def list(self, *, queue: str | None = None) -> builtins.list[Deployment]:
        """Return each version of each queue (or of *queue*) with its workers and open intents, the newest first."""
        return await deployments.deployments(await self._store(), queue)

    async def intents(self, queues: Collection[str], version: str | None = None) -> builtins.list[str]:
        """Return the ids of the open intents of *queues*; with *version*, of those pinned to it."""
        return await deployments.open_intents(await self._store(), queues, version)

    async def promote(self, queue: str, version: str | None) -> None:
        """
        Make *version* the current one of *queue*; None: whichever registered last is.

        Fresh intents go to it from now on, until another is promoted; what has begun stays where it began.

        Raises:
            NotFound: VERSION_NOT_FOUND; no worker has ever registered it for *queue*. Nothing was changed.
            ConfigurationError: No version can have this name.
        """
        await deployments.promote(await self._store(), queue, version)

    async def promote_all(self, version: str | None) -> builtins.list[str]:
        """
        Do that in every queue that knows *version* (with None: that has versions); return these queues.

        Raises:
            NotFound: VERSION_NOT_FOUND; no queue knows it.
        """
        store = await self._store()
        known = await deployments.versions(store)
        queues = sorted(name for name, some in known.items() if version is None or version in some.since)
        if not queues:
            raise NotFound(
                f"no queue has {'deployment versions' if version is None else f'a version {version!r}'}",
                code="VERSION_NOT_FOUND", hint="start a worker of it first: redurable worker ... --version NAME",
            )  # fmt: skip
        for queue in queues:
            await deployments.promote(store, queue, version)
        return queues
