"""What operators do to intents, over the heads of their handlers. `Client` is one of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from redurable.clock import Seconds, seconds
from redurable.model import Status
from redurable.store import control, selection
from redurable.store.selection import Choice
from redurable.store.store import Store

__all__ = ["Control", "Each", "Verb"]

Verb = Literal["cancel", "kill", "pause", "resume", "retry", "delete"]


class Each(msgspec.Struct, frozen=True):
    """How many intents were chosen, and how many gave which answer; after a dry run none did."""

    chosen: int
    answers: dict[str, int] = {}


class Control:
    """The part of a client that ends, stops and continues intents by force."""

    async def _store(self) -> Store:
        raise NotImplementedError

    async def kill(self, intent: str, note: str = "") -> str:
        """
        End *intent* now; return CANCELED, or the final status that was first.

        Whatever its state, it is CANCELED with the code KILLED when this returns. Its handler is not asked and undoes
        nothing: what it registered by `compensate` is skipped, what it wrote to its session since its last park is
        discarded, and the session goes to the next. A worker that runs it is refused every further write and unwinds
        the handler; a step's body that is under way goes on until then. `cancel` is the gentle way.

        Raises:
            NotFound: There is no such intent.
        """
        return await control.kill(await self._store(), intent, note)

    async def pause(self, intent: str) -> str:
        """
        Keep *intent* from going on until `resume`; return PAUSED, or REQUESTED while it runs.

        No worker takes a paused one up, and no time passes for it: what comes meanwhile (a timer, a deadline, a
        cancel) is kept and takes effect when it is resumed; only `kill` ends it at once. One that runs is handed back
        as soon as its steps in flight have ended, uncounted. The holder of a session goes on holding it.

        Raises:
            NotFound: There is no such intent.
            WrongState: It has ended.
        """
        return await control.pause(await self._store(), intent)

    async def resume(self, intent: str) -> None:
        """
        Let a paused *intent* go on where it was; nothing happens if it is open and not paused.

        Raises:
            NotFound: There is no such intent.
            WrongState: It has ended.
        """
        await control.resume(await self._store(), intent)

    async def pause_queue(self, queue: str) -> None:
        """
        Let workers take nothing more of *queue*, neither fresh work nor work to continue, until `resume_queue`.

        It is stored, for workers that start later too; those that run have heard of it within a second. What runs
        goes on, and may wait and be retried; timers fall due and what they wake waits in the queue. Twice is as once.

        Raises:
            ConfigurationError: No queue can have this name.
        """
        await control.gate(await self._store(), queue, closed=True)

    async def resume_queue(self, queue: str) -> None:
        """
        Let workers take work of *queue* again; nothing happens if it is not paused.

        Raises:
            ConfigurationError: No queue can have this name.
        """
        await control.gate(await self._store(), queue, closed=False)

    async def each(
        self,
        verb: Verb,
        *,
        queue: str | None = None,
        status: Status | str | None = None,
        label: tuple[str, str] | None = None,
        older_than: Seconds | None = None,
        dry_run: bool = False,
        note: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> Each:
        """
        Do one thing to every intent that is chosen, and return how many there were and what came of it.

        Of what is retried, each whose undo work has run is left as it is and counts as ALREADY_UNDONE.

        All are chosen first, by everything that is given, among those to which *verb* does anything; then each is
        done as by the method of that name, some hundred at a time, so that the server serves others in between. One
        that has ended or gone meanwhile is left as it is. If this is interrupted, do it again: what is done is not
        chosen any more.

        Args:
            verb: "cancel", "kill", "pause", "resume", "retry" or "delete".
            status: Only those in this state; SUBMITTED includes what a worker has just been given.
            older_than: Only those sent more than so many seconds ago; 0 chooses whatever its age.
            dry_run: Choose and count, and do nothing.
            note: Why, for cancel and kill; it is kept with the intent.
            progress: Called now and then with how many are done, of how many.

        Raises:
            ConfigurationError: Nothing that chooses is given, or what *verb* does not apply to; nothing was done.
            StoreUnavailable: Some are done and some are not.
        """
        store = await self._store()
        choice = Choice(
            queue=queue,
            status=None if status is None else Status.of(status),
            label=label,
            older_than=None if older_than is None else int(seconds(older_than, "older_than") * 1000),
        )
        ids = await selection.chosen(store, verb, choice)
        if dry_run:
            return Each(chosen=len(ids))
        tell = None if progress is None else lambda done: progress(done, len(ids))
        return Each(chosen=len(ids), answers=await selection.act(store, verb, ids, note, tell))
