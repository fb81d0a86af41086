"""
What a process prepares for its handlers: lifespans that it enters, and objects that `Depends` asks for.

Invariant: each is made once a process, however many intents begin together, in a task of its own: what it starts there
is no branch of a handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any

from redurable.runtime.handlers import HandlerSpec

__all__ = ["Resources"]


class Resources:
    """What one process has made for its handlers: lifespans entered, dependencies by their maker."""

    def __init__(self, made: Mapping[Callable[..., Any], Any] | None = None) -> None:
        self._stack = contextlib.AsyncExitStack()
        self._made: dict[Callable[..., Any], Any] = dict(made or {})
        self._making: dict[Callable[..., Any], asyncio.Task[None]] = {}

    async def enter(self, module: Any) -> None:
        """Enter the module's lifespan, if it has one."""
        for value in list(vars(module).values()):
            if getattr(value, "__redurable_lifespan__", False):
                manager = contextlib.asynccontextmanager(value) if inspect.isasyncgenfunction(value) else value
                await self._stack.enter_async_context(manager())

    async def provide(self, spec: HandlerSpec) -> dict[str, Any]:
        """Return the objects that the handler's parameters ask for, made now if they are not yet."""
        given: dict[str, Any] = {}
        for name, depends in spec.depends.items():
            if depends.make not in self._made:
                await self._once(depends.make)
            given[name] = self._made[depends.make]
        return given

    async def _once(self, make: Callable[..., Any]) -> None:
        """Make it, or wait for who does."""
        task = self._making.get(make)
        if task is None:
            task = self._making[make] = asyncio.get_running_loop().create_task(self._make(make), context=Context())
            task.add_done_callback(lambda _: self._making.pop(make), context=Context())
        await asyncio.shield(task)

    async def _make(self, make: Callable[..., Any]) -> None:
        self._made[make] = await self._entered(make)

    async def _entered(self, make: Callable[..., Any]) -> Any:
        if inspect.isasyncgenfunction(make):
            return await self._stack.enter_async_context(contextlib.asynccontextmanager(make)())
        if inspect.isgeneratorfunction(make):
            return self._stack.enter_context(contextlib.contextmanager(make)())
        made = make()
        if inspect.isawaitable(made):
            made = await made
        if hasattr(made, "__aenter__"):
            return await self._stack.enter_async_context(made)
        return made

    async def close(self) -> None:
        """Leave everything, in reverse."""
        await self._stack.aclose()
