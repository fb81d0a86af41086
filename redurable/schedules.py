"""What a client does with schedules: put them, look at them, pause, resume, trigger and delete them."""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any, Unpack

import msgspec

from redurable.answers import check_outside
from redurable.codecs.base import Vault
from redurable.config import max_payload
from redurable.errors import CodecError, NotFound
from redurable.model import Status
from redurable.runtime.scheduling import ScheduleOptions, plan_of
from redurable.store import inspection, schedules
from redurable.store.keys import check_queue
from redurable.store.schedules import Plan, Stored, alter, fresh
from redurable.store.store import Store

__all__ = ["ScheduleInfo", "Schedules", "declare"]


class ScheduleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of a schedule at one moment. Times are ms since 1970 by the server's clock, durations seconds.

    `next` is when it fires next (None: never, or it is paused), `upcoming` the ticks from then on; `last` is the intent
    of its last firing, with its `status` (None when it is not kept any more), for `tick`, at `at`. `fired`, `skipped`
    (by its overlap rule) and `missed` (by its catch-up rule) are counts. `declared` names the handler that declares it.
    `unreadable` says why nothing but the name is known: a later version wrote it, say.
    """

    name: str
    cron: str | None = None
    every: float | None = None
    tz: str = ""
    jitter: float = 0.0
    queue: str = ""
    type: str = ""
    overlap: str = ""
    catch_up: str = ""
    window: float = 0.0
    paused: bool = False
    made: int = 0
    next: int | None = None
    upcoming: tuple[int, ...] = ()
    last: str | None = None
    status: Status | None = None
    tick: int | None = None
    at: int | None = None
    fired: int = 0
    skipped: int = 0
    missed: int = 0
    declared: str = ""
    unreadable: str | None = None


class Schedules:
    """The schedules of a client's namespace; it is `client.schedules`."""

    def __init__(self, store: Callable[[], Awaitable[Store]], vault: Vault | None) -> None:
        self._store = store
        self._vault = vault

    async def put(self, name: str, *, to: Any, payload: Any = None, **options: Unpack[ScheduleOptions]) -> ScheduleInfo:
        """
        Send *payload* to *to* at each tick from now on, by the schedule *name*; return it.

        Once this returns it is stored: each tick is fired once, by whatever worker of the namespace is there, and is
        an intent with the labels `schedule` and `tick`. Put again under the same name it takes the place of the old
        one: counts and a pause stay, and so does the next tick if the times are the same.

        Args:
            name: 1 to 128 printable characters without blanks and : / { } * ? [ ].
            to: A queue's name, or the handler itself; then the payload is checked against its annotations.
            options: See `ScheduleOptions`.

        Raises:
            ConfigurationError: BAD_CRON, BAD_TIMEZONE, BAD_ARGUMENT; nothing was changed.
            PayloadTooLarge, SerialisationError, CodecError: The same.
        """
        check_outside("puts schedules")
        check_queue(name, "a schedule's name")
        plan = await plan_of(to, payload, limit=max_payload(), vault=self._vault, **options)
        store = await self._store()
        await alter(store, name, lambda stored, now: _put(name, plan, stored, now))
        return await self.get(name)

    async def list(self) -> builtins.list[ScheduleInfo]:
        """Return all schedules, sorted by name; of one that cannot be read only that, and why (`unreadable`)."""
        store = await self._store()
        found: builtins.list[ScheduleInfo] = []
        for name in await schedules.names(store):
            try:
                stored = await schedules.read(store, name)
            except CodecError as error:
                found.append(ScheduleInfo(name=name, unreadable=f"{error.message} [{error.code}]: {error.hint}"))
                continue
            if stored is not None:
                found.append(await _info(store, stored))
        return found

    async def get(self, name: str, upcoming: int = 5) -> ScheduleInfo:
        """Return the schedule *name*, with *upcoming* ticks; NotFound (SCHEDULE_NOT_FOUND) if there is none."""
        store = await self._store()
        stored = await schedules.read(store, name)
        if stored is None:
            raise schedules.unknown(name)
        return await _info(store, stored, upcoming)

    async def pause(self, name: str) -> None:
        """
        Let *name* fire nothing until `resume`; nothing happens if it is paused. Its open intents go on.

        Raises:
            NotFound: SCHEDULE_NOT_FOUND.
        """
        check_outside("pauses schedules")
        await alter(await self._store(), name, lambda stored, now: _paused(name, stored))

    async def resume(self, name: str) -> None:
        """
        Let *name* fire again, from its next tick on: what fell due while it was paused is not made up.

        Nothing happens if it is not paused.

        Raises:
            NotFound: SCHEDULE_NOT_FOUND.
        """
        check_outside("resumes schedules")
        await alter(await self._store(), name, lambda stored, now: _resumed(name, stored, now))

    async def trigger(self, name: str) -> str:
        """
        Fire *name* now, also if it is paused, and return the intent's id; its ticks stay as they are.

        Raises:
            NotFound: SCHEDULE_NOT_FOUND.
            WrongState: SCHEDULE_BUSY; it is put with overlap="skip" and its last intent is open. Nothing was sent.
        """
        check_outside("triggers schedules")
        return await schedules.trigger(await self._store(), name)

    async def delete(self, name: str) -> None:
        """
        Forget *name*; its intents stay. One that a handler declares comes again when a worker starts that serves it.

        Raises:
            NotFound: SCHEDULE_NOT_FOUND.
        """
        check_outside("deletes schedules")
        await schedules.remove(await self._store(), name)


def _known(name: str, stored: Stored | None) -> Stored:
    if stored is None:
        raise schedules.unknown(name)
    return stored


def _put(name: str, plan: Plan, stored: Stored | None, now: int) -> dict[str, Any]:
    fields: dict[str, Any] = {"plan": plan}
    if stored is None:
        fields |= {"status": "ACTIVE", "made": now}
    if stored is None or stored.plan.rhythm != plan.rhythm:
        fields |= fresh(plan, name, now)
    return fields


def _paused(name: str, stored: Stored | None) -> dict[str, Any] | None:
    return None if _known(name, stored).paused else {"status": "PAUSED"}


def _resumed(name: str, stored: Stored | None, now: int) -> dict[str, Any] | None:
    stored = _known(name, stored)
    return {"status": "ACTIVE", **fresh(stored.plan, name, now)} if stored.paused else None


async def declare(store: Store, name: str, plan: Plan) -> None:
    """Put the *plan* that a handler declares, if it is not there yet as it stands."""

    def change(stored: Stored | None, now: int) -> dict[str, Any] | None:
        same = stored is not None and _bare(stored.plan) == _bare(plan)
        return None if same else _put(name, plan, stored, now)

    await alter(store, name, change)


def _bare(plan: Plan) -> Plan:
    """Return *plan* without its payload: sealed twice it looks different, its digest tells."""
    return msgspec.structs.replace(plan, payload=msgspec.Raw(b"\xc0"))


async def _info(store: Store, stored: Stored, upcoming: int = 0) -> ScheduleInfo:
    plan, rhythm = stored.plan, stored.plan.rhythm
    status: Status | None = None
    if stored.last:
        try:
            status = (await inspection.info(store, stored.last)).status
        except NotFound:
            status = None  # removed after its retention
    ahead: tuple[int, ...] = ()
    if stored.next is not None and upcoming and not stored.paused:
        ahead = tuple(islice((stored.next, *islice(rhythm.after(stored.next), upcoming)), upcoming))
    return ScheduleInfo(
        name=stored.name,
        cron=rhythm.cron or None,
        every=rhythm.every / 1000 or None,
        tz=rhythm.tz,
        jitter=rhythm.jitter / 1000,
        queue=plan.queue,
        type=plan.type,
        overlap=plan.overlap,
        catch_up=plan.catch_up,
        window=plan.window / 1000,
        paused=stored.paused,
        made=stored.made,
        next=None if stored.paused else stored.wake,
        upcoming=ahead,
        last=stored.last or None,
        status=status,
        tick=stored.tick,
        at=stored.at,
        fired=stored.fired,
        skipped=stored.skipped,
        missed=stored.missed,
        declared=plan.declared,
    )
