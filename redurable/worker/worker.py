"""
One worker process: what it serves, what it holds, and the loops that keep it going.

    consume   takes intents and starts attempts            timers     starts what is due
    renew     (a thread) keeps leases, proves liveness      retention  removes what is old
    peers     finds processes that died                     reconcile  mends what a lost write took
    overdue   finds leases that ran out                     unheld     hands back what was lost on its way to us

Invariants: every loop is supervised (one that fails is reported and started again); the worker claims no more than it
starts at once; after `stop` nothing is claimed, and `run` returns with every intent settled, parked or handed back.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeVar

import msgspec

from redurable import events
from redurable.clock import boottime, monotonic, now_ms
from redurable.config import Address, journal_limits, max_payload
from redurable.errors import RedurableError
from redurable.runtime.attempt import Attempt
from redurable.runtime.bodies import close_pools, thread_pool
from redurable.runtime.handlers import HandlerSpec
from redurable.runtime.loops import install
from redurable.runtime.resources import Resources
from redurable.runtime.scope import mark_worker
from redurable.runtime.seats import call_up
from redurable.store.inspection import decode_envelope
from redurable.store.keeper import Keeper, renew
from redurable.store.lease import Lease, sit
from redurable.store.multiplexer import Identity
from redurable.store.store import Store
from redurable.store.subscriber import Subscriber
from redurable.tasks import background
from redurable.worker.bell import Bell
from redurable.worker.consume import consume
from redurable.worker.gates import QUEUES, Gates, deploy
from redurable.worker.overdue import overdue
from redurable.worker.pace import BUSY, Pace, beat, tell_busy
from redurable.worker.peers import peers, recover_worker
from redurable.worker.reconcile import reconcile
from redurable.worker.registry import by_queue, check_queues, declared
from redurable.worker.renew import Renewer
from redurable.worker.retention import retention
from redurable.worker.settings import Settings, new_worker_id
from redurable.worker.timers import timers
from redurable.worker.unheld import unheld
from redurable.worker.unknown import put_down, refuse

__all__ = ["Settings", "Worker", "new_worker_id"]

K = TypeVar("K", Keeper, list[Keeper])
GRACE_AFTER_CHANGE = 5.0  # s in which nobody is taken for dead after the server, or our connection, changed


class Worker:
    """
    Serves *handlers* until stopped.

    Args:
        handlers: What to serve; those of one queue are told apart by their type.
        address, namespace: The store.
        modules: Where `@lifespan`s are looked for.
    """

    def __init__(
        self,
        handlers: list[HandlerSpec],
        address: Address,
        namespace: str = "rd",
        *,
        settings: Settings | None = None,
        modules: tuple[Any, ...] = (),
    ) -> None:
        self.settings = settings or Settings()
        self.id = self.settings.worker_id
        self.handlers = by_queue(handlers)
        self.limit = max_payload()
        self.journal = journal_limits()
        self.attempts: dict[str, Attempt] = {}
        self.running = 0  # attempts, and what will be one in the next turn of the loop
        self.booked = 0  # places that a claim under way may fill
        self.abandoned = 0
        self.stopping = asyncio.Event()
        self.freed = asyncio.Event()
        self.bulletins: dict[str, Bell] = {}  # by the channel of a partition's timers
        self.suspects, self.alarmed = Bell(), Bell()
        self.heartbeat = monotonic()
        self.heard = boottime()  # what the loop reads now came after this
        self.quiet_until = 0.0
        self.disturbed_at = monotonic()
        self.pace = Pace(1)
        self.gates = Gates(self.settings.version)
        self.started_at = now_ms()
        self.loop_thread = threading.get_ident()
        self.resources = Resources()
        self.store = Store(address, namespace, on_connect=self._on_connect)
        self.keepers: list[Keeper] = []
        self._modules = modules
        self._identity: Identity | None = None
        self._subscriber: Subscriber | None = None
        self._solo = False
        self._claims = 0

    # --- what loops use -----------------------------------------------------------------------------------------

    @property
    def queues(self) -> list[str]:
        """The queues served."""
        return list(self.handlers)

    def free(self) -> int:
        """Return how many intents may be claimed now."""
        return 0 if self._solo else max(0, self.settings.concurrency - self.running - self.booked)

    def idle(self) -> bool:
        """Whether nothing is held here."""
        return self.running == 0

    def may_judge(self) -> bool:
        """Whether silence of others means their death: not right after the server or our connection changed."""
        return monotonic() >= self.quiet_until and self.store.mux.connected

    def disturbed(self) -> None:
        """One of our connections was made anew: a reply may have been lost with the old one."""
        self.disturbed_at = monotonic()
        self.pace.stir()

    def alarm(self) -> None:
        """Something that others rely on may be lost: the reconciler walks at once."""
        self.alarmed.ring()
        self.pace.stir()

    async def deny(self, attempt: Attempt) -> None:
        """
        The renewal thread was told that *attempt* is not ours; ask again on our own connection, then unwind it.

        There the answer comes after those to whatever it had just sent: a park or a settle that was under way.
        """
        word = await renew(attempt.lease, self.id)
        over = attempt.conductor.over or attempt.conductor.signal is not None
        if word == b"LOST" and not over and self.attempts.get(attempt.lease.id) is attempt:
            attempt.lost("LOST")

    def number(self) -> int:
        """Return the next claim number."""
        self._claims += 1
        return self._claims

    def begin(self, lease: Lease, *, solo: bool = False) -> None:
        """Start an attempt under *lease*."""
        pace = self.pace.parts[lease.partition]
        pace.stirs += 1
        if pace.calm:
            tell_busy(self, lease.partition)
        self._solo = self._solo or solo
        self.running += 1
        # one of the two tasks' worth of work that an intent costs is saved by not going through `background`
        asyncio.Task(self._attend(lease), loop=self._loop, context=Context())

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """
        Work until `stop`, then drain.

        Raises:
            StoreUnavailable, ConfigurationError: It could not start; nothing was claimed.
        """
        self._loop = asyncio.get_running_loop()
        install(self._loop)
        # attempts are many small objects that live for milliseconds: the defaults would look at all of them each time
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        thread_pool(self.settings.concurrency + 8)
        await self.store.start()
        mark_worker()
        keys = self.store.keys
        version, term = self.settings.version, self.settings.term
        self.keepers = [Keeper(self.store, p, self.id, version, term) for p in range(len(keys))]
        self.pace = Pace(len(keys))
        self.bulletins = {k.timers: Bell() for k in keys}
        self._subscriber = Subscriber(self.store.topology, self._on_message, self._on_subscribed)
        renewer: Renewer | None = None
        try:
            await self._subscriber.start()
            await asyncio.gather(
                *(self._subscriber.subscribe(c) for c in (keys[0].liveness(self.id), keys[0].hints(self.id))),
                *(self._subscriber.subscribe(channel) for channel in self.bulletins),
            )
            await check_queues(self)
            self._declared = await declared(self)
            for module in self._modules:
                await self.resources.enter(module)
            for keeper in self.keepers:
                await keeper.open([s for q in self.queues for s in keeper.streams_of(q)[0]])
            renewer = Renewer(self, asyncio.get_running_loop())
            await asyncio.to_thread(renewer.start)
            await self._look_at_gates()
            await self._work()
        finally:
            await self._leave(renewer)

    def stop(self) -> None:
        """Drain: claim nothing more, let steps in flight end, hand the rest back."""
        if not self.stopping.is_set():
            events.emit("worker.draining", worker=self.id, running=len(self.attempts))
            self.stopping.set()
            self.freed.set()
            self._ring()

    async def _work(self) -> None:
        tasks = [
            background(self._supervised(loop, keeper), loop.__name__)
            for loop in (consume, timers, overdue, unheld, retention) for keeper in self.keepers
        ]  # fmt: skip
        tasks += [background(self._supervised(loop, self.keepers), loop.__name__) for loop in (peers, reconcile)]
        tasks.append(background(beat(self), "heartbeat"))
        events.emit("worker.started", worker=self.id, queues=self.queues, concurrency=self.settings.concurrency)
        await self.stopping.wait()
        try:
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _supervised(self, loop: Callable[[Worker, K], Awaitable[None]], keeps: K) -> None:
        while not self.stopping.is_set():
            try:
                await loop(self, keeps)
                return
            except Exception as error:  # a loop must not end while the worker lives
                events.emit("loop.failed", worker=self.id, loop=loop.__name__, error=error)
                await asyncio.sleep(0.1 + random.random() * 0.4)

    def _ring(self) -> None:
        for bell in self.bulletins.values():
            bell.ring()

    async def _drain(self) -> None:
        for attempt in list(self.attempts.values()):
            attempt.conductor.drain()
        await self._until_idle(self.settings.grace)
        for attempt in list(self.attempts.values()):
            attempt.unwind()
        await self._last_call()

    async def _until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.idle():
                    self.freed.clear()
                    await self.freed.wait()

    async def _last_call(self) -> None:
        """What does not unwind within a second (a thread that is stuck) is abandoned: handed back, and fenced."""
        await self._until_idle(1.0)
        for attempt in list(self.attempts.values()):
            self.abandoned += 1
            events.emit("handler.abandoned", worker=self.id, intent=attempt.lease.id, attempt=attempt.lease.attempt,
                        handler=attempt.spec.name)  # fmt: skip
            await attempt.lease.release()
            if attempt.task is not None:
                attempt.task.cancel()

    async def _leave(self, renewer: Renewer | None) -> None:
        if renewer is not None:
            renewer.stop()
        try:
            async with asyncio.timeout(5.0):
                # also what was delivered to us and never claimed
                await recover_worker(self.keepers, self.id, liveness=False, counted=False)
        except (TimeoutError, RedurableError):
            pass  # the server is away: others find this process gone by its liveness channel
        await self.resources.close()
        if self._subscriber is not None:
            await self._subscriber.close()
        await self.store.close()
        close_pools()
        events.emit("worker.stopped", worker=self.id)

    # --- attempts ---------------------------------------------------------------------------------------------------

    async def _attend(self, lease: Lease) -> None:
        try:
            await self._run_attempt(lease)
        except Exception as error:  # an attempt ends by itself; this is a bug, and the lease runs out
            events.emit("task.failed", task=f"attempt at {lease.id}", error=error)
        finally:
            self.running -= 1
            self._solo = self._solo and self.running > 0
            self.freed.set()

    async def _run_attempt(self, lease: Lease) -> None:
        body, lease.body = lease.body if lease.body is not None else await lease.read_body(), None
        if self.stopping.is_set():
            await lease.release()
            return
        try:
            envelope = decode_envelope(body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            await refuse(lease, error)
            return
        types = self.handlers.get(lease.queue, {})
        spec = types.get(envelope.type)
        if spec is None and not envelope.type and len(types) == 1:
            spec = next(iter(types.values()))
        if envelope.session:
            sit(lease, envelope.session, envelope.shared)
        if spec is None:
            await put_down(lease, envelope)
            return
        attempt = Attempt(
            lease, spec, envelope, self.resources, limit=self.limit, journal=self.journal, vault=self.settings.vault
        )
        self.attempts[lease.id] = attempt
        try:
            await attempt.run()
        finally:
            if self.attempts.get(lease.id) is attempt:
                del self.attempts[lease.id]
        if attempt.ended == "lost":
            # we live: if we were taken for dead, this takes the loss back
            with contextlib.suppress(RedurableError):
                await renew(lease, self.id)

    # --- the store's news ---------------------------------------------------------------------------------------------

    def _on_connect(self, identity: Identity) -> None:
        changed = self._identity is not None and self._identity != identity
        if self._identity is not None or self.store.mux.uptime < GRACE_AFTER_CHANGE * 2:
            self.quiet_until = monotonic() + GRACE_AFTER_CHANGE
        if changed:
            for attempt in list(self.attempts.values()):
                background(self._compare(attempt), "compare journals")
        if self._identity is not None:
            self.alarm()
        self.disturbed()
        self._identity = identity

    async def _compare(self, attempt: Attempt) -> None:
        """Another server answers: does it still have the journal that *attempt* has seen?"""
        seen = len(attempt.recorder.cursor)
        if seen and not await attempt.lease.read(seen - 1, 1):
            attempt.lost("REGRESSED")
        else:
            attempt.hint()

    async def _look_at_gates(self) -> None:
        await deploy(self.keepers, self.queues)
        await self.gates.look(self.store, self.queues, self.id)
        await self._declared.put()

    def _on_message(self, channel: str, data: bytes) -> None:
        if channel == self.store.keys[0].hints(self.id):
            attempt = self.attempts.get(data.lstrip(b"!|+").decode())
            if attempt is None:
                pass
            elif data[:1] == b"!":
                background(self.deny(attempt), "look whether it was killed")
            elif data[:1] == b"|":
                attempt.conductor.drain()
            elif data[:1] == b"+":
                call_up(attempt)
            else:
                attempt.hint()
        elif channel not in self.bulletins:
            pass
        elif data == BUSY:
            self.pace.parts[list(self.bulletins).index(channel)].stir()
        elif data == QUEUES:
            background(self._look_at_gates(), "look at the gates")
        elif data == b"solo":
            self.suspects.ring()
            self.bulletins[channel].ring()
        else:
            self.bulletins[channel].ring()

    def _on_subscribed(self, reconnected: bool) -> None:
        self._ring()
        if reconnected:
            self.disturbed()
            background(self._look_at_gates(), "look at the gates")
            self.suspects.ring()
            self.quiet_until = max(self.quiet_until, monotonic() + GRACE_AFTER_CHANGE)
            for attempt in list(self.attempts.values()):
                attempt.hint()
