"""
Programs for the engine to run and replay: a language of nested tuples, its interpreter, and what must hold of a run.

A node is (kind, *arguments). Every step's value names the place that asked for it and a number that no other run
repeats, so a value that reaches another place, or comes from another run, is seen. Bodies and the store's answers
take a few turns of the loop, other ones on every run.

What is not durable has no order that could be replayed. So two modes: `calm` programs are never cancelled from outside
and may wait for foreign things, always with a step behind before anybody else is told; `cut` ones may be cancelled
anywhere, and clean up by steps, but wait for nothing foreign: what they had come to would be a matter of chance.
"""

from __future__ import annotations

import asyncio
import random
import time
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from hypothesis import strategies as st

from redurable import Promise, Retry, StepFailed, promise, race, sleep, step
from redurable.runtime.scope import scope_var

__all__ = ["Node", "Play", "programs"]

Node = tuple[Any, ...]
FEW = Retry(attempts=3, first=0.001)
ONCE = Retry(attempts=1)


class Boom(Exception):
    """Raised by programs."""


class Shaky(Exception):
    """Raised by bodies."""


# --- the steps: what they are called with is not recorded, so they are given the play itself


@step
async def plain(play: Play, at: str) -> str:
    return await play.body(at)


@step
async def other(play: Play, at: str) -> str:
    return await play.body(at)


@step(retry=FEW)
async def shaky(play: Play, at: str) -> str:
    value = await play.body(at)
    if play.chance.random() < 0.5:
        raise Shaky(at)
    return value


@step(retry=ONCE)
async def broken(play: Play, at: str) -> str:
    raise Shaky(await play.body(at))


@step(id=lambda _, at: at)
async def named(play: Play, at: str) -> str:
    return await play.body(at)


@step(retry=ONCE, timeout=0.002)
async def limited(play: Play, at: str) -> str:
    await play.body(at)
    await asyncio.Event().wait()
    return at


@step(timeout=30)
async def unlimited(play: Play, at: str) -> str:
    return await play.body(at)


@step
def threaded(play: Play, at: str) -> str:
    play.note_body()
    time.sleep(0.0002)
    return play.value(at)


@step
async def hang(play: Play, at: str) -> str:
    await play.body(at)
    await asyncio.Event().wait()
    return at


@step(retry=FEW)
async def nest(play: Play, at: str, node: Node) -> Any:
    await play.body(at)
    value = [f"{at}={play.chance.getrandbits(30)}", await play.run(node, at + "|")]
    if play.chance.random() < 0.2:
        raise Shaky(at)
    return value


async def in_thread(play: Play, at: str) -> str:
    return await threaded.aio(play, at)


STEPS: dict[str, Callable[..., Awaitable[str]]] = {
    "plain": plain, "other": other, "shaky": shaky, "broken": broken, "named": named, "limited": limited,
    "unlimited": unlimited, "threaded": in_thread,
}  # fmt: skip


async def noise(turns: int) -> None:
    """What a library starts when it is first used."""
    for _ in range(turns):
        await asyncio.sleep(0.0003)


def told(value: Any) -> Any:
    """Return a result, or how it ended, as data."""
    if isinstance(value, BaseExceptionGroup):
        return sorted(map(str, map(told, value.exceptions)))
    return type(value).__name__ if isinstance(value, BaseException) else value


class Play:
    """One program, run as a handler; *log* is told of bodies, *see* of what the handler sees."""

    def __init__(self, program: Node, seed: int) -> None:
        self.program = program
        self.chance = random.Random(seed)
        self.log: Callable[[Any], None] = print
        self.see: Callable[[Any], None] = print

    async def handle(self) -> Any:
        """The handler."""
        try:
            return await self.run(self.program, "")
        except Boom as error:
            return told(error)
        except BaseExceptionGroup as group:
            return told(group)

    # --- bodies

    def note_body(self) -> None:
        """Say whose body runs."""
        scope = scope_var.get()
        assert scope is not None
        self.log(scope.place())

    def value(self, at: str) -> str:
        """Return a value of *at* that no other run has."""
        return f"{at}={self.chance.getrandbits(30)}"

    async def body(self, at: str) -> str:
        """What every body does: take some time."""
        self.note_body()
        how = self.chance.random()
        if how < 0.1:
            await asyncio.sleep(self.chance.random() / 1000)
        elif how < 0.8:
            for _ in range(self.chance.randint(0, 12)):
                await asyncio.sleep(0)
        return self.value(at)

    # --- the interpreter

    async def run(self, node: Node, at: str) -> Any:
        """Run *node* at the place *at*."""
        kind, *arguments = node
        return await getattr(self, f"_{kind}")(at, *arguments)

    async def _step(self, at: str, name: str) -> Any:
        at = f"{at}:{name}"
        value: Any
        try:
            value = await STEPS[name](self, at)
            assert value.startswith(at + "="), (at, value)
        except StepFailed as error:
            value = [at, error.step, error.type.rsplit(".", 1)[-1]]
        return self._seen(at, value)

    def _seen(self, at: str, value: Any) -> Any:
        scope = scope_var.get()
        assert scope is not None
        if not scope.inside:
            self.see((at, value))
        return value

    async def _seq(self, at: str, *nodes: Node) -> Any:
        return [await self.run(node, f"{at}.{i}") for i, node in enumerate(nodes)]

    async def _nest(self, at: str, node: Node) -> Any:
        try:
            value = await nest(self, at, node)
        except StepFailed as error:
            value = [at, error.type.rsplit(".", 1)[-1]]
        return self._seen(at, value)

    async def _draw(self, at: str) -> int:
        return int((await plain(self, at)).split("=")[1])

    async def _branch(self, at: str, one: Node, two: Node) -> Any:
        return await self.run(one if await self._draw(at) % 2 else two, at + "?")

    async def _loop(self, at: str, node: Node) -> Any:
        return [await self.run(node, f"{at}.{i}") for i in range(await self._draw(at) % 3)]

    async def _boom(self, at: str, node: Node) -> Any:
        await self.run(node, at)
        raise Boom(at)

    async def _caught(self, at: str, node: Node) -> Any:
        try:
            return await self.run(node, at)
        except Boom as error:
            return [told(error), await self.run(("step", "plain"), at + "!")]

    async def _cleanup(self, at: str, node: Node, after: Node) -> Any:
        try:
            return await self.run(node, at)
        finally:
            await self.run(after, at + "!")

    async def _swallow(self, at: str, node: Node, after: Node) -> Any:
        try:
            return await self.run(node, at)
        except asyncio.CancelledError:
            return await self.run(after, at + "!")

    async def _sleep(self, at: str, delay: float) -> Any:
        await sleep(delay)
        return self._seen(at, delay)

    def _promise(self, at: str) -> Promise[str]:
        return promise("answer", str, index=zlib.crc32(at.encode()))

    async def _ask(self, at: str, limit: float | None = None) -> Any:
        """Wait for somebody outside, who answers when he likes; see `Stage`."""
        scope = scope_var.get()
        assert scope is not None
        if scope.inside:
            return await self.run(("step", "plain"), at)
        try:
            return self._seen(at, await self._promise(at).wait(limit))
        except TimeoutError:
            return self._seen(at, "late")

    async def _contest(self, at: str, *nodes: Node) -> Any:
        won = await race(**{f"c{i}": self.run(node, f"{at}.{i}") for i, node in enumerate(nodes)})
        return [won.name, won.value]

    # --- branches

    def _tasks(self, at: str, nodes: tuple[Node, ...]) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.run(node, f"{at}.{i}")) for i, node in enumerate(nodes)]

    async def _all(self, tasks: list[asyncio.Task[Any]]) -> list[Any]:
        """Gather; should one fail, or we be cancelled, end the others before we go on."""
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            await self._end(tasks)
            raise

    async def _end(self, tasks: list[asyncio.Task[Any]]) -> list[Any]:
        for task in tasks:
            task.cancel()
        return [told(value) for value in await asyncio.gather(*tasks, return_exceptions=True)]

    async def _gather(self, at: str, *nodes: Node) -> Any:
        return await self._all(self._tasks(at, nodes))

    async def _group(self, at: str, *nodes: Node) -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.run(node, f"{at}.{i}")) for i, node in enumerate(nodes)]
        except BaseExceptionGroup as errors:
            return told(errors)
        return [told(task.result()) for task in tasks]

    async def _anyio(self, at: str, first: bool, *nodes: Node) -> Any:
        values: list[Any] = []

        async def branch(i: int, node: Node) -> None:
            values.append([i, await self.run(node, f"{at}.{i}")])
            if first:
                group.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as group:
                for i, node in enumerate(nodes):
                    group.start_soon(branch, i, node)
        except BaseExceptionGroup as errors:
            values.append(told(errors))
        return values

    async def _race(self, at: str, *nodes: Node) -> Any:
        tasks = self._tasks(at, nodes)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self._end(tasks)
            raise
        return [[task in done for task in tasks], await self._end(tasks)]

    async def _sema(self, at: str, size: int, *nodes: Node) -> Any:
        places, order = asyncio.Semaphore(size), []

        async def branch(i: int, node: Node) -> Any:
            async with places:
                value = await self.run(node, f"{at}.{i}")
            order.append(i)
            return value

        tasks = [asyncio.create_task(branch(i, node)) for i, node in enumerate(nodes)]
        return [await self._all(tasks), order]

    async def _queue(self, at: str, size: int, *nodes: Node) -> Any:
        queue: asyncio.Queue[tuple[int, Node] | None] = asyncio.Queue(size)
        got: list[Any] = []

        async def produce() -> None:
            for i, node in enumerate(nodes):
                if i % 2:
                    await self.run(("step", "other"), f"{at}+{i}")
                await queue.put((i, node))
            for _ in range(2):
                await queue.put(None)

        async def consume(who: int) -> None:
            while (item := await queue.get()) is not None:
                got.append([who, item[0]])
                await self.run(item[1], f"{at}.{item[0]}")

        tasks = [asyncio.create_task(c) for c in (consume(0), consume(1), produce())]
        await self._all(tasks)
        return got

    async def _event(self, at: str, first: Node, *nodes: Node) -> Any:
        event = asyncio.Event()

        async def wait(i: int, node: Node) -> Any:
            await event.wait()
            return await self.run(node, f"{at}.{i}")

        async def work() -> Any:
            value = await self.run(first, at + "*")
            event.set()
            return value

        return await self._all([asyncio.create_task(c) for c in (*map(wait, range(9), nodes), work())])

    async def _completed(self, at: str, bare: bool, *nodes: Node) -> Any:
        if bare:  # cancelled, it would leave its tasks behind
            works = [self.run(node, f"{at}.{i}") for i, node in enumerate(nodes)]
            return [await work for work in asyncio.as_completed(works)]
        tasks = self._tasks(at, nodes)
        try:
            return [await work for work in asyncio.as_completed(tasks)]
        except BaseException:
            await self._end(tasks)
            raise

    async def _shield(self, at: str, node: Node) -> Any:
        """Cancelled, it lets what it shields end."""
        inner = asyncio.create_task(self.run(node, at))
        try:
            return await asyncio.shield(inner)
        except asyncio.CancelledError:
            await asyncio.wait([inner])
            raise

    async def _deep(self, at: str, levels: int, node: Node) -> Any:
        """Combinators in combinators: each passes the result on a turn later."""
        inner = asyncio.create_task(self.run(node, at))
        future: Any = inner
        for level in range(levels):
            future = asyncio.gather(future) if level % 2 else asyncio.shield(future)
        try:
            await future
        except BaseException:
            await self._end([inner])
            raise
        return inner.result()

    # --- time of the process

    async def _timeout(self, at: str, node: Node) -> Any:
        async with asyncio.timeout(30):
            return await self.run(node, at)

    async def _wait_for(self, at: str, node: Node) -> Any:
        return await asyncio.wait_for(self.run(node, at), 30)

    async def _foreign(self, at: str, node: Node) -> Any:
        await asyncio.sleep(self.chance.random() / 500)
        return await self.run(("seq", ("step", "plain"), node), at)

    async def _late(self, at: str) -> Any:
        try:
            async with asyncio.timeout(0.002):
                await hang(self, at)
        except TimeoutError:
            return await self.run(("step", "plain"), at + "!")

    async def _late_child(self, at: str) -> Any:
        async def child() -> str:
            try:
                async with asyncio.timeout(0.002):
                    await hang(self, at)
            except TimeoutError:
                return "late"
            return ""

        return [await asyncio.create_task(child()), await self.run(("step", "plain"), at + "!")]

    async def _lazy(self, at: str, node: Node) -> Any:
        """On some runs only, something else goes on beside."""
        task = asyncio.create_task(noise(self.chance.randint(1, 9))) if self.chance.random() < 0.5 else None
        try:
            return await self.run(node, at)
        finally:
            if task is not None:
                task.cancel()


# --- the generator

_STEP = st.tuples(st.just("step"), st.sampled_from(["plain", "plain", "other", "shaky", "broken", "named"]))
_SLOW = st.tuples(st.just("step"), st.sampled_from(["threaded", "limited", "unlimited"]))
_SLEEP = st.tuples(st.just("sleep"), st.just(0.001))
_ASK = st.one_of(st.just(("ask",)), st.just(("ask", 0.002)), st.just(("ask", 0.03)))
_NAP = st.tuples(st.just("sleep"), st.just(0.03))  # longer than what stays in the process, see `Stage`


def _some(node: st.SearchStrategy[Node], most: int = 3) -> st.SearchStrategy[list[Node]]:
    return st.lists(node, min_size=1, max_size=most)


def _kind(name: str, *arguments: st.SearchStrategy[Any], some: st.SearchStrategy[Node] | None = None) -> Any:
    heads = st.tuples(st.just(name), *arguments)
    return heads if some is None else st.builds(lambda head, tail: (*head, *tail), heads, _some(some))


@st.composite
def programs(draw: st.DrawFn, depth: int = 3, mode: str = "calm") -> Node:
    """Draw a program; see the module for its modes."""
    calm = mode == "calm"
    if depth == 0:
        leaves = [_STEP, _STEP, _STEP, _SLOW, _SLEEP, _ASK]
        if calm:
            leaves += [_kind("late"), _kind("late_child")]
        return draw(st.one_of(leaves))
    same, less = programs(depth - 1, mode), programs(depth - 1, "cut")
    size = st.integers(1, 2)
    kinds = [
        _STEP, _kind("seq", some=same), _kind("branch", same, same), _kind("loop", same), _kind("caught", less),
        _kind("gather", some=same), _kind("group", some=less), _kind("anyio", st.booleans(), some=less),
        _kind("race", some=less), _kind("contest", some=less), _kind("sema", size, some=same),
        _kind("queue", size, some=same), _kind("event", same, some=same), _kind("completed", st.just(calm), some=same),
        _kind("shield", same), _kind("deep", st.integers(1, 7), same), _kind("timeout", same),
        _kind("wait_for", same), _kind("lazy", same),
        _kind("nest", programs(min(depth - 1, 1), "cut")),
    ]  # fmt: skip
    if calm:
        kinds += [_NAP, _kind("foreign", same)]
    else:
        kinds += [_kind("boom", same), _kind("cleanup", same, _STEP), _kind("swallow", same, _STEP)]
    return draw(st.one_of(kinds))
