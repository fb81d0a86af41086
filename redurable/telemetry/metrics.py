"""
The page that a worker's parent shows to Prometheus.

It adds up what its processes count, and what the server was asked. Metrics that user code keeps with
`prometheus_client` in its handlers are on the page too (its multi-process mode is set up for them). Invariant: of every
queue and step that the handlers' modules define the counters are there, at 0, before the first intent runs, so that
`increase()` sees the first of each.
"""

from __future__ import annotations

import itertools
import os
import platform
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redurable import events
from redurable.model import Reason
from redurable.store.depths import Overview, QueueInfo
from redurable.store.limits import LimitInfo
from redurable.store.refusals import PATIENCE
from redurable.telemetry import catalogue as c
from redurable.telemetry.counting import DIRECTORY, OUTCOMES, TAKEN, count_parent
from redurable.telemetry.tally import Labels, Metric, Sum, Tally
from redurable.worker.registry import RELEASE

__all__ = ["MOST_QUEUES", "Page"]

MOST_QUEUES = 500
_USERS = "PROMETHEUS_MULTIPROC_DIR"
_ENDS = (*OUTCOMES, "retry", "parked", "continued", "limited", "held", "released", "lost")
_LOOPS = ("consume", "timers", "peers", "overdue", "unheld", "reconcile", "retention")
_DETECTORS = ("parent", "peers", "lease")
_REFUSALS = ("FENCED", "LOST", "WRONG_STATE", "NOT_FOUND", "REGRESSED", "STORE_ERROR")
_Fields = dict[str, Any]


# --- the page ---------------------------------------------------------------------------------------------------------


class Page:
    """
    The sum of everything that this worker counts; made by the parent before it starts its processes.

    Args:
        steps: The queues that are served, each with the steps that are known before they run.
    """

    def __init__(self, steps: dict[str, list[str]]) -> None:
        self._room = tempfile.TemporaryDirectory(prefix="redurable-metrics-")
        self._path = Path(self._room.name)
        self._users = os.environ.get(_USERS)
        (self._path / "users").mkdir()
        os.environ[DIRECTORY] = self._room.name
        os.environ.setdefault(_USERS, str(self._path / "users"))
        self.sum = Sum(self._path, c.PROCESS)
        self._tally = Tally(self._path, "parent", c.PROCESS)
        _at_zero(self._tally, steps)
        self._ends = [
            count_parent(self._tally),
            events.subscribe(self._bury, ["process.ended"]),
        ]  # fmt: skip
        self._lock = threading.Lock()

    def close(self) -> None:
        """Stop counting; forget everything."""
        for end in self._ends:
            end()
        self._tally.close()
        os.environ.pop(DIRECTORY, None)
        if self._users is None:
            os.environ.pop(_USERS, None)
        self._room.cleanup()

    def processes(self) -> list[dict[Metric, float]]:
        """Return what each living worker process says of itself: the values of its gauges without labels."""
        return [
            {metric: cells[0] for (metric, labels), cells in values.items() if metric.kind == "gauge" and not labels}
            for name, values in self.sum.living().items()
            if name != "parent"
        ]

    def text(self, overview: Overview | None, accept: str = "") -> tuple[str, bytes]:
        """Return content type and bytes of the page, in the form that *accept* asks for."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.multiprocess import MultiProcessCollector

        with self._lock:  # a look at the same files by two scrapers gains nothing
            registry = CollectorRegistry()
            registry.register(_Families([*self._counted(), *_asked(overview)]))
            encode, kind = choose_encoder(accept)
            if any(Path(os.environ[_USERS]).glob("*.db")):
                MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client has not typed it
            return kind, encode(registry)

    def _counted(self) -> list[tuple[Metric, dict[Labels, list[float]]]]:
        values = self.sum.total()
        by_metric: dict[Metric, dict[Labels, list[float]]] = {metric: {} for metric in c.PROCESS if metric in c.METRICS}
        for (metric, labels), cells in values.items():
            if metric in by_metric:
                by_metric[metric][labels] = cells
        return list(by_metric.items())

    def _bury(self, _: str, fields: _Fields) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        self.sum.bury(fields["worker"])
        mark_process_dead(fields["pid"])  # type: ignore[no-untyped-call]  # as above


def _at_zero(tally: Tally, steps: dict[str, list[str]]) -> None:
    """Make known whatever can be counted without more being known."""
    for queue, names in steps.items():
        known: list[tuple[Metric, list[Labels]]] = [
            (c.INTENTS, [(queue, outcome) for outcome in OUTCOMES]),
            (c.ATTEMPTS, [(queue, ended) for ended in _ENDS]),
            (c.HANDLER_FAILURES, [(queue, retried) for retried in ("yes", "no")]),
            (c.STEP_FAILURES, [(queue, name, retried) for name in names for retried in ("yes", "no")]),
            (c.IN_FLIGHT, [(queue,)]),
            (c.MISMATCHES, [(queue,)]),
            (c.CHANGED, [(queue, name) for name in names]),
        ]
        for metric, sets in known:
            for labels in sets:
                tally.add(metric, labels, 0)
        tally.observe(c.INTENT_SECONDS, 0, (queue,), 0)
        for name in names:
            tally.observe(c.STEP_SECONDS, 0, (queue, name), 0)
    for by in _DETECTORS:
        tally.observe(c.RECOVERY_SECONDS, 0, (by,), 0)
        for result in TAKEN.values():
            tally.add(c.RECOVERIES, (by, result), 0)
    for reason in _REFUSALS:
        tally.add(c.FENCED, (reason,), 0)
    for reason in PATIENCE:
        tally.add(c.HELD, (reason.strip(),), 0)
    for loop in _LOOPS:
        tally.add(c.LOOPS, (loop,), 0)
    for result in ("ok", "failed"):
        tally.add(c.RENEWALS, (result,), 0)
    for metric in (c.TIMER_LATE, c.TICK_LATE, c.ROUND_TRIP):
        tally.observe(metric, 0, (), 0)
    for metric in (c.DISCONNECTS, c.MENDED, c.REMOVED, c.BLOCKED, c.DIED, c.PROCESSES, c.SERVING, c.CAPACITY):
        tally.add(metric, (), 0)


def _asked(overview: Overview | None) -> list[tuple[Metric, dict[Labels, list[float]]]]:
    """Return what the server told; without an answer only that there was none."""
    about: tuple[Metric, dict[Labels, list[float]]] = (c.INFO, {(RELEASE, platform.python_version()): [1]})
    if overview is None:
        return [(c.UP, {(): [0]}), about]

    def each(value: Callable[[QueueInfo], float]) -> dict[Labels, list[float]]:
        return {(queue.name,): [value(queue)] for queue in overview.queues}

    by_name = {name: list(some) for name, some in itertools.groupby(overview.limits, lambda limit: limit.name)}

    def by_limit(value: Callable[[list[LimitInfo]], float]) -> dict[Labels, list[float]]:
        return {(name,): [value(some)] for name, some in by_name.items()}

    return [
        (c.UP, {(): [1]}),
        (c.QUEUES, {(): [overview.total]}),
        (c.DEPTH, each(lambda q: q.queued)),
        (c.OLDEST, each(lambda q: q.oldest_seconds or 0)),
        (c.RUNNING, each(lambda q: q.running)),
        (c.SUSPECTS, each(lambda q: q.suspects)),
        (c.DELAYED, each(lambda q: q.delayed)),
        (c.WORKERS, each(lambda q: q.workers)),
        (c.WAITING, {(q.name, r.value): [q.waiting.get(r.value, 0)] for q in overview.queues for r in Reason}),
        (c.VERSION_READY, {(q.name, v.version): [v.ready] for q in overview.queues for v in q.versions}),
        (c.VERSION_WORKERS, {(q.name, v.version): [v.workers] for q in overview.queues for v in q.versions}),
        (c.LIMIT_USED, by_limit(lambda limits: sum(limit.used for limit in limits))),
        (c.LIMIT_WAITING, by_limit(lambda limits: sum(limit.waiting for limit in limits))),
        (c.LIMIT_OLDEST, by_limit(lambda limits: max(limit.oldest_seconds or 0 for limit in limits))),
        (c.TIMERS, {(): [overview.timers]}),
        (c.KEPT, {("completed",): [overview.completed], ("other",): [overview.other]}),
        about,
    ]


class _Families:
    """Collector of prometheus_client for values that are there already."""

    def __init__(self, found: list[tuple[Metric, dict[Labels, list[float]]]]) -> None:
        self._found = found

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for metric, values in self._found:
            if metric.kind == "histogram":
                family: Any = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, cells in values.items():
                    family.add_metric(labels, *_cumulated(metric, cells))
            else:
                plain: Any = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = plain(metric.name, metric.help, labels=metric.labels)
                for labels, cells in values.items():
                    family.add_metric(labels, cells[0])
            yield family


def _cumulated(metric: Metric, cells: list[float]) -> tuple[list[tuple[str, float]], float]:
    """Return a histogram's buckets as Prometheus counts them (each with all below it), and the sum of its values."""
    buckets, so_far = [], 0.0
    for bound, n in zip((*map(str, metric.bounds), "+Inf"), cells[:-1], strict=True):
        so_far += n
        buckets.append((bound, so_far))
    return buckets, cells[-1]
