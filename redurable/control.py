"""What operators do to intents, over the heads of their handlers. `Client` is one of these."""

from __future__ import annotations

from redurable.store import control
from redurable.store.store import Store

__all__ = ["Control"]


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
