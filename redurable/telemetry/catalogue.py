"""
Every metric of redurable: name, type, labels, meaning. `grafana/README.md` prints this list, and a test compares them.

Those of PROCESS are counted by the processes of a worker and summed by their parent: add them up over workers. Those
of STORE tell of the whole namespace; every worker reads the same from the server, so take their `max`, not their sum.
"""

from __future__ import annotations

from redurable.telemetry.tally import Metric

__all__ = ["METRICS", "PROCESS", "STORE", "Metric"]

# steps and intents take from milliseconds to days
_WORK = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_LIFE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)
_DELAY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LATE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)
_TRIP = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# --- counted by processes -----------------------------------------------------------------------------------------

INTENTS = Metric(
    "redurable_intents_total", "counter", ("queue", "outcome"),
    "Intents that workers ended: COMPLETED, FAILED, CANCELED, TIMED_OUT. (One canceled before it ever ran is ended by "
    "its client.)",
)  # fmt: skip
INTENT_SECONDS = Metric(
    "redurable_intent_seconds", "histogram", ("queue",),
    "From sending to the end, of the intents that an attempt ended.", _LIFE,
)  # fmt: skip
ATTEMPTS = Metric(
    "redurable_attempts_total", "counter", ("queue", "ended"),
    "Attempts that ended, by how: an outcome, or retry (the handler raised and is tried again), parked (the intent "
    "waits without a worker), limited (it waits in the line of a limit), held (it cannot be opened here), released "
    "(handed back by a drain), lost (another owner has it).",
)  # fmt: skip
IN_FLIGHT = Metric("redurable_in_flight", "gauge", ("queue",), "Attempts that run now.")
CAPACITY = Metric("redurable_capacity", "gauge", (), "Attempts that may run at a time.")
STEP_SECONDS = Metric(
    "redurable_step_seconds", "histogram", ("queue", "step"),
    "How long step bodies ran, every try that returned or raised; replayed steps do not run.", _WORK,
)  # fmt: skip
STEP_FAILURES = Metric(
    "redurable_step_failures_total", "counter", ("queue", "step", "retried"),
    "Step bodies that raised; retried=yes when another try follows.",
)  # fmt: skip
HANDLER_FAILURES = Metric(
    "redurable_handler_failures_total", "counter", ("queue", "retried"),
    "Handlers that raised; retried=yes when another attempt follows.",
)  # fmt: skip
RECOVERIES = Metric(
    "redurable_recoveries_total", "counter", ("by", "result"),
    "Intents taken from a lost owner, by the detector (parent, peers, lease); result: resumed, suspect (is run alone "
    "next), failed (its losses are used up).",
)  # fmt: skip
RECOVERY_SECONDS = Metric(
    "redurable_recovery_seconds", "histogram", ("by",),
    "How long a recovered intent was without an owner: since the parent, or the peer, saw the process gone; for "
    "lease, since the last renewal.", _DELAY,
)  # fmt: skip
FENCED = Metric(
    "redurable_fenced_total", "counter", ("reason",),
    "Attempts whose writes the store refused, by its word: FENCED, LOST or WRONG_STATE (another owns the intent), "
    "NOT_FOUND, REGRESSED (the journal lost its tail), STORE_ERROR.",
)  # fmt: skip
MISMATCHES = Metric(
    "redurable_journal_mismatches_total", "counter", ("queue",),
    "Looks at an intent that is held because the handler asks for another step than its journal holds.",
)  # fmt: skip
CHANGED = Metric(
    "redurable_changed_steps_total", "counter", ("queue", "step"),
    "Recorded results replayed under other code than recorded them.",
)  # fmt: skip
UNKNOWN = Metric(
    "redurable_unknown_types_total", "counter", ("queue", "type"),
    "Intents put down for five seconds because this worker has no handler of their type.",
)  # fmt: skip
TIMER_LATE = Metric(
    "redurable_timer_lateness_seconds", "histogram", (),
    "How late starts, wakes and deadlines took effect that this worker fired.", _LATE,
)  # fmt: skip
TICKS = Metric(
    "redurable_schedule_ticks_total", "counter", ("schedule", "result"),
    "Ticks of schedules, by what this worker did about them: fired, skipped (the intent before was open), missed (too "
    "late, by the catch-up rule).",
)  # fmt: skip
TICK_LATE = Metric(
    "redurable_schedule_lateness_seconds", "histogram", (),
    "How late ticks were that this worker fired; what it made up after a downtime too.", _LATE,
)  # fmt: skip
ROUND_TRIP = Metric(
    "redurable_store_seconds", "histogram", (),
    "From a call to the store to its answer, batches counted once; what was held back or sent again takes longer.",
    _TRIP,
)  # fmt: skip
DISCONNECTS = Metric("redurable_store_disconnects_total", "counter", (), "Connections to the store that were lost.")
HELD = Metric(
    "redurable_store_held_total", "counter", ("reason",),
    "Answers that only ask for patience (OOM, LOADING, READONLY, ...): the call was held back and sent again.",
)  # fmt: skip
RENEWALS = Metric("redurable_renewals_total", "counter", ("result",), "Renewals of a process's leases: ok, failed.")
RENEWED = Metric(
    "redurable_last_renewal_timestamp_seconds", "gauge", (), "When a process of this worker last renewed.", join="max"
)
MENDED = Metric(
    "redurable_mended_total", "counter", (), "Open intents whose lost entry or timer the reconciler re-added."
)
REMOVED = Metric("redurable_removed_total", "counter", (), "Finished intents removed after their retention.")
BLOCKED = Metric(
    "redurable_loop_blocked_total", "counter", (), "Times that code held up the event loop for over 0.6 s."
)
LOOPS = Metric("redurable_loop_failures_total", "counter", ("loop",), "Failures of the worker's own loops.")
DIED = Metric(
    "redurable_process_deaths_total", "counter", (), "Worker processes that ended without having been told to."
)
PROCESSES = Metric("redurable_processes", "gauge", (), "Worker processes that run.")
SERVING = Metric("redurable_processes_serving", "gauge", (), "Those of them that are ready for work.")
# what a process says of itself for the health probes; not served
STARTED = Metric("_started", "gauge", (), "", join="max")
DRAINING = Metric("_draining", "gauge", (), "", join="max")
FAILING = Metric("_failing", "gauge", (), "", join="max")

PROCESS = (
    INTENTS, INTENT_SECONDS, ATTEMPTS, IN_FLIGHT, CAPACITY, STEP_SECONDS, STEP_FAILURES, HANDLER_FAILURES, RECOVERIES,
    RECOVERY_SECONDS, FENCED, MISMATCHES, CHANGED, UNKNOWN, TIMER_LATE, TICKS, TICK_LATE, ROUND_TRIP, DISCONNECTS,
    HELD, RENEWALS, RENEWED, MENDED, REMOVED, BLOCKED, LOOPS, DIED, PROCESSES, SERVING, STARTED, DRAINING, FAILING,
)  # fmt: skip

# --- read from the server when it is asked for ------------------------------------------------------------------------

UP = Metric("redurable_store_up", "gauge", (), "1 if the server answered this worker's look, else 0.")
QUEUES = Metric("redurable_queues", "gauge", (), "Queues of the namespace; the first 500 by name are told of.")
DEPTH = Metric("redurable_queue_depth", "gauge", ("queue",), "Intents that wait for a worker to take them.")
OLDEST = Metric("redurable_queue_oldest_seconds", "gauge", ("queue",), "The age of the oldest of them; 0: none.")
RUNNING = Metric("redurable_queue_running", "gauge", ("queue",), "Intents that workers hold.")
SUSPECTS = Metric("redurable_queue_suspects", "gauge", ("queue",), "Intents that are to be run alone.")
DELAYED = Metric("redurable_queue_delayed", "gauge", ("queue",), "Intents whose start is still to come.")
WAITING = Metric(
    "redurable_queue_waiting", "gauge", ("queue", "reason"),
    "Intents that wait without a worker and have a wake or a deadline to come: TIME, RETRY, PROMISE, HUMAN, INTENT, "
    "LIMIT, HELD, UNKNOWN_TYPE. (Who waits for news without a time limit has no timer, and is not among them.)",
)  # fmt: skip
WORKERS = Metric("redurable_queue_workers", "gauge", ("queue",), "Live worker processes that serve it.")
VERSION_READY = Metric(
    "redurable_version_ready", "gauge", ("queue", "version"),
    "Intents that could go on now and that only workers of this deployment version take: pinned, or fresh if it is the "
    "current one.",
)  # fmt: skip
VERSION_WORKERS = Metric(
    "redurable_version_workers", "gauge", ("queue", "version"), "Live worker processes of this version that serve it."
)
LIMIT_USED = Metric(
    "redurable_limit_used", "gauge", ("limit",), "Places of a limit that are taken, of all its keys; of 500 of them."
)
LIMIT_WAITING = Metric(
    "redurable_limit_waiting", "gauge", ("limit",), "Handlers and steps' calls that wait for a limit, of all its keys."
)
LIMIT_OLDEST = Metric(
    "redurable_limit_oldest_seconds", "gauge", ("limit",), "How long ago the oldest intent that waits for it was sent."
)
TIMERS = Metric("redurable_timers", "gauge", (), "Starts, wakes, deadlines and schedules that are to come.")
KEPT = Metric(
    "redurable_finished", "gauge", ("kept",),
    "Finished intents that are kept: completed, or other (FAILED, CANCELED, TIMED_OUT).",
)  # fmt: skip
INFO = Metric("redurable_info", "gauge", ("release", "python"), "Always 1: what this worker runs on.")

STORE = (
    UP, QUEUES, DEPTH, OLDEST, RUNNING, SUSPECTS, DELAYED, WAITING, WORKERS, VERSION_READY, VERSION_WORKERS,
    LIMIT_USED, LIMIT_WAITING, LIMIT_OLDEST, TIMERS, KEPT, INFO,
)  # fmt: skip

METRICS = tuple(metric for metric in (*PROCESS, *STORE) if not metric.name.startswith("_"))
