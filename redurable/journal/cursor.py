"""
The cursor over a journal: entries in order, the calls that wait for them, and the mismatch between the two.

A call's identity is (scope, name, n). Invariants:
- entries take effect in order of seq, each once; `applied` entries have, the rest have not;
- per scope the recorded identities come back in their recorded order (a scope is sequential); identities that the
  caller named itself (`id=`) are free of that order, and so is everything inside a step (its body need not repeat);
- what comes from outside under a key (`Arrived`) ends every call that waits for the key when its entry is reached, and
  any that asks for it later;
- a call whose scope gave it up (an `abandoned` mark) is never delivered and never started again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from redurable.errors import JournalMismatchError, UsageError
from redurable.ids import call_text
from redurable.model import (
    Arrived,
    AttemptFailed,
    Called,
    CancelRequested,
    Claimed,
    Compensating,
    Continued,
    Entry,
    Forked,
    Patched,
    Reason,
    Reopened,
    Status,
    StepDone,
    StepFailedEntry,
    StepTried,
    TimerFired,
    TimerSet,
)

__all__ = [
    "ABANDONED",
    "ASKED",
    "DONE",
    "IDENTIFIED",
    "INSIDE",
    "RUNNING",
    "UNSET",
    "Call",
    "Cursor",
    "Identity",
    "inside_of",
]

Identity = tuple[str, str, int | str]
INSIDE = ">>"  # ends the part of a scope's path that names a step; no qualified name contains it, "<locals>" does ">"
ASKED, RUNNING, DONE, ABANDONED = range(4)
UNSET: Any = object()
IDENTIFIED = (StepDone, StepFailedEntry, StepTried, TimerSet, TimerFired, Called)
_UNTIMED = (Claimed, Patched)
_ENDS = (StepDone, StepFailedEntry, TimerFired)


class Call:
    """A durable call that a scope has asked for and that waits for its entry, or for leave to start."""

    __slots__ = (
        "code", "due", "entry", "finish", "future", "held", "identity", "key", "reason", "since", "state", "tries",
        "value",
    )  # fmt: skip

    def __init__(
        self, identity: Identity, key: str | None = None, reason: Reason = Reason.TIME, *, state: int = ASKED
    ) -> None:
        self.identity = identity
        self.key = key  # what comes under it from outside ends the call
        self.reason = reason  # what an intent that is put down with it waits for
        self.since = 0  # of a child: when it was started
        self.held = False  # it waits for its key alone: there is nothing to start
        self.state = state
        self.tries = 0
        self.due: int | None = None
        self.entry: Any = None
        self.value: Any = UNSET  # what the body gave in this attempt, as a replay would give it
        self.code = b""
        self.future: Any = None
        self.finish = False


class Cursor:
    """The journal of one attempt."""

    def __init__(self) -> None:
        self.applied = 0
        self.last_at = 0
        self.abandoned: set[Identity] = set()
        self.arrived: dict[str, Arrived] = {}
        self.brought: set[str] = set()  # keys of everything that came, its place reached or not
        self.called: dict[Identity, Called] = {}  # children that were started
        self.reopened = 0  # operator's retries
        self.earlier: set[str] = set()  # children that were started before one of them and heard of, if ever, after it
        self.outlived: set[str] = set()  # of those, the ones that ended without a result
        self.used: set[str] = set()  # keys whose value the handler has been given, or gave up
        self.cancel: CancelRequested | None = None
        self.turn = 1
        self.before = 0  # entries of earlier turns
        self.left: list[str] = []  # children of the turn before that had not ended
        self.began = 0  # what time it was at the beginning, if that is not when its first attempt was
        self.forks: list[tuple[int, str]] = []  # up to so many entries applied, chance is drawn from this
        self.failures = 0  # attempts that failed since the last operator's retry, which voids those before
        self.patches: dict[str, bool] = {}  # what `patched` answers for a change
        self._requested = False
        self._entries: list[Entry | None] = []
        self._past = 0
        self._order: dict[str, deque[Identity]] = {}
        self._ahead: dict[Identity, int] = {}
        self.passed: dict[Identity, Any] = {}  # entries that were passed by, see `left.pass_by`; not asked for since
        self._inside: dict[Identity, list[Any]] = {}
        self._calls: dict[Identity, Call] = {}
        self._waiting: dict[Identity, Call] = {}
        self._keyed: dict[str, list[Call]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def exhausted(self) -> bool:
        """Whether every known entry has taken effect."""
        return self.applied == len(self._entries)

    @property
    def replaying(self) -> bool:
        """Whether calls that an earlier attempt recorded are still to come."""
        return self.applied < self._past

    @property
    def calls(self) -> Iterable[Call]:
        """The calls that were asked for and are not done."""
        return self._waiting.values()

    def load(self, entries: Iterable[Entry]) -> None:
        """Take the recorded journal, before anything is asked. Voided entries stay in their places, without effect."""
        known = list(entries)
        voided = {seq for entry in known if isinstance(entry, Reopened) for seq in entry.voided}
        for seq, entry in enumerate(known, 1):
            self.extend(None if seq in voided else entry)
            if seq not in voided and isinstance(entry, IDENTIFIED):
                self._past = seq

    def extend(self, entry: Entry | None) -> None:
        """Take one more entry at the end."""
        self._entries.append(entry)
        if isinstance(entry, CancelRequested):
            self.cancel = entry
        elif isinstance(entry, AttemptFailed):
            self.failures += 1
        elif isinstance(entry, Continued):
            self.turn, self.before, self.began, self.left = entry.turn, entry.before, entry.at, entry.left
        elif isinstance(entry, Forked):
            self.forks.append((len(self._entries), entry.seed))
            self.began = self.began or entry.began
        elif isinstance(entry, Patched):
            self.patches[entry.change] = True
        if not isinstance(entry, IDENTIFIED):
            if isinstance(entry, Reopened):
                self.reopened += 1
                self.earlier |= {child.child for child in self.called.values()} - self.brought
            elif isinstance(entry, Arrived):
                self.brought.add(entry.key)
                if entry.key in self.earlier and entry.status is not Status.COMPLETED:
                    self.outlived.add(entry.key)
            return
        identity = (entry.scope, entry.name, entry.n)
        for given_up in getattr(entry, "abandoned", ()):
            self._abandon(tuple(given_up))
        if INSIDE in entry.scope:
            self._inside.setdefault(identity, []).append(entry)
            return
        if isinstance(entry, StepTried):
            self._try_again(identity)
        if isinstance(entry, Called):
            self.called[identity] = entry
        if identity not in self._ahead and identity not in self._calls and identity not in self.abandoned:
            self._order.setdefault(entry.scope, deque()).append(identity)
        self._ahead[identity] = len(self._entries)

    def append_own(self, entry: Entry) -> None:
        """Take an entry that this attempt just recorded for a call it has asked: it is in order by construction."""
        self._entries.append(entry)
        if INSIDE in getattr(entry, "scope", ""):
            own: Any = entry
            self._inside.setdefault((own.scope, own.name, own.n), []).append(own)
        elif isinstance(entry, StepTried):
            self._try_again((entry.scope, entry.name, entry.n))

    def _try_again(self, identity: Identity) -> None:
        """A step's next try reuses what was done inside it, but failures there would only fail it again."""
        if self._inside:
            inside = inside_of(identity)
            for key, entries in self._inside.items():
                if key[0].startswith(inside):
                    entries[:] = [e for e in entries if not isinstance(e, StepFailedEntry | StepTried)]

    def _abandon(self, identity: Any) -> None:
        self.abandoned.add(identity)
        order = self._order.get(identity[0])
        if order and identity in order:
            order.remove(identity)

    def ask(self, identity: Identity, key: str | None = None, reason: Reason = Reason.TIME) -> Call:
        """
        Register a call; with a *key*, one that waits for what comes under it.

        Raises:
            JournalMismatchError: Its scope has another call recorded next.
            UsageError: STEP_ID_REUSED.
        """
        call = Call(identity, key, reason)
        scope, _, n = identity
        if INSIDE in scope or identity in self.passed:
            self._recall(call)
            self.passed.pop(identity, None)
            if INSIDE in scope:
                return call
        if identity not in self.abandoned and not isinstance(n, str):
            order = self._order.get(scope)
            # a wait for what comes from outside may have left no entry of its own
            if order and (key is None or identity in order):
                while order and isinstance(order[0][2], str):
                    order.popleft()  # named by the caller: found by name, whatever the order
                if order and order[0] != identity:
                    raise self._mismatch(order[0], identity)
                if order:
                    order.popleft()
        if identity in self._calls:
            raise UsageError(f"{_named(identity)} was called twice with the same id", code="STEP_ID_REUSED")
        self._calls[identity] = call
        if call.state == DONE:
            return call
        if key is not None and identity not in self.abandoned:
            if key in self.arrived:
                call.entry, call.state = self.arrived[key], DONE
                return call
            self._keyed.setdefault(key, []).append(call)
        self._waiting[identity] = call
        return call

    def _recall(self, call: Call) -> None:
        """Inside a step the journal is looked up, not followed."""
        for entry in self._inside.get(call.identity, ()):
            if isinstance(entry, StepTried):
                call.tries, call.due = entry.tries, entry.due
            elif isinstance(entry, TimerSet):
                call.due = entry.due
            else:
                call.entry, call.state = entry, DONE

    def give_up(self, call: Call) -> None:
        """The call was cancelled and its scope goes on; its entry, should one come, has no effect."""
        call.state = ABANDONED
        self._waiting.pop(call.identity, None)

    def advance(self, resting: bool = True) -> tuple[str, Any]:
        """
        Apply the next entry and tell what it means; what came from outside is held before the handler rests.

        Returns:
            ("ready", call): the call's entry is reached, deliver it. ("arrived", calls): the same of any number.
            ("noted", entry): nothing to wake.
            ("requested", entry), ("cancel", entry), ("ending", entry): for the whole handler; of two cancels the second
            is where it is met. ("held", entry): its call was not asked yet; nothing was applied. ("end", None): the
            journal is applied to its end.
        """
        if self.applied == len(self._entries):
            return "end", None
        entry = self._entries[self.applied]
        if isinstance(entry, Arrived) and not resting:
            return "held", entry
        if isinstance(entry, IDENTIFIED) and INSIDE not in entry.scope:
            identity = (entry.scope, entry.name, entry.n)
            call = self._calls.get(identity)
            if call is None and identity not in self.abandoned:
                return "held", entry
            self._take(entry)
            if call is None or call.state == ABANDONED or identity in self.abandoned:
                return "noted", entry
            if call.state == DONE and call.key is not None:
                return "noted", entry  # what it waited for came before its timer
            if isinstance(entry, _ENDS):
                call.entry, call.state = entry, DONE
                self._waiting.pop(identity, None)
                return "ready", call
            if isinstance(entry, Called):
                call.held = True
                return "noted", entry
            if isinstance(entry, StepTried):
                call.tries = entry.tries
            call.due = entry.due
            return "noted", entry
        self._take(entry)
        if isinstance(entry, Arrived):
            return "arrived", self._arrive(entry)
        if isinstance(entry, CancelRequested):
            kind = "cancel" if self._requested else "requested"
            self._requested = True
            return kind, entry
        if isinstance(entry, Compensating):
            return "ending", entry
        return "noted", entry

    def _arrive(self, entry: Arrived) -> list[Call]:
        self.arrived[entry.key] = entry
        calls = [c for c in self._keyed.pop(entry.key, ()) if c.state in (ASKED, RUNNING)]
        for call in calls:
            call.entry, call.state = entry, DONE
            self._waiting.pop(call.identity, None)
        return calls

    def set_aside(self, entry: Arrived) -> None:
        """What arrived is no good: who asks from now on waits for the next."""
        if self.arrived.get(entry.key) is entry:
            del self.arrived[entry.key]

    def _take(self, entry: Any) -> None:
        self.applied += 1
        # a claim happens at another time on every run of the handler's past, and nobody waits for a `Patched` to land
        if entry is not None and not isinstance(entry, _UNTIMED):
            self.last_at = max(self.last_at, entry.at)

    def ending_ahead(self) -> Compensating | None:
        """The handler is over: go to where its undo work begins, if an earlier attempt had come so far."""
        for seq in range(self.applied, len(self._entries)):
            entry = self._entries[seq]
            if isinstance(entry, Compensating):
                self.applied = seq
                self._take(entry)
                return entry
        return None

    def skipped(self, open_paths: set[str]) -> JournalMismatchError | None:
        """
        The handler returned: what is left of its journal has no effect, or it runs other code than wrote it.

        *open_paths* are those of branches that it did not wait for.
        """
        while not self.exhausted:
            kind, what = self.advance()
            if kind == "held":
                if what.scope in open_paths and INSIDE not in what.scope:
                    return None
                return self.mismatch(what)
        return self.mismatch(next(iter(self.passed.values()))) if self.passed else None

    def startable(self) -> list[Call]:
        """Return the calls that may start now: asked, without an entry, the journal applied to its end."""
        if not self.exhausted:
            return []
        return [c for c in self._waiting.values() if c.state == ASKED and c.identity not in self.abandoned]

    def unended(self, timed: bool) -> bool:
        """Whether a call waits that was given up in the past; a *timed* one may have been, if it has no entry."""
        calls = [c.identity for c in self._waiting.values()]
        return any(i in self.abandoned or (timed and not self.has_entry(i)) for i in calls)

    def has_entry(self, identity: Identity) -> bool:
        """Whether an entry that ends or continues the call lies ahead."""
        return self._ahead.get(identity, 0) > self.applied

    def mismatch(self, entry: Any) -> JournalMismatchError:
        """Return the error for a recorded entry that the handler, all at rest, does not ask for."""
        asked = ", ".join(_named(c.identity) for c in self._waiting.values()) or "nothing"
        recorded = _named((entry.scope, entry.name, entry.n))
        return JournalMismatchError(
            f"entry {self.applied + 1} of the journal is {recorded}, but the handler asks for {asked}",
            seq=self.applied + 1,
            recorded=recorded,
            asked=asked,
        )

    def _mismatch(self, recorded: Identity, asked: Identity) -> JournalMismatchError:
        seq = self._ahead.get(recorded, self.applied + 1)
        return JournalMismatchError(
            f"entry {seq} of the journal is {_named(recorded)}, but the handler now asks for {_named(asked)} there",
            seq=seq,
            recorded=_named(recorded),
            asked=_named(asked),
        )


def inside_of(identity: Identity) -> str:
    """Return the path that what is called inside the step *identity* is journaled under."""
    scope, name, n = identity
    return f"{scope}/{name}#{n}{INSIDE}" if scope else f"{name}#{n}{INSIDE}"


def _named(identity: Identity) -> str:
    scope, name, n = identity
    return call_text(name, n) + (f" of branch {scope}" if scope else "")
