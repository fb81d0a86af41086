"""
`redurable intents`: look at intents, cancel them, retry them; `archive` has what moves and removes them.

Payloads and the values of steps may be secrets: they are shown only where `--values` asks for them. `get` alone shows
a result, as `send --wait` does.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from redurable.cli import answers, archive, control, entries, told
from redurable.cli.common import AsJson, Namespace, Url, check_known, client_of
from redurable.cli.output import age, fields, iso, moment, note, print_json, print_line, run, table
from redurable.errors import CodecError, StoreError
from redurable.model import IntentInfo, Status
from redurable.news import Event, Place

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Look at intents, cancel them, retry them, move and remove them.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Id = Annotated[str, typer.Argument(metavar="ID", help="The intent, as `send` printed it.")]
Values = Annotated[bool, typer.Option("--values", help="Show recorded values too; they may be secrets.")]


def as_fields(info: IntentInfo) -> dict[str, Any]:
    """Return what JSON says of an intent; times are ISO 8601 in UTC."""
    error = info.error
    return {
        "id": info.id,
        "queue": info.queue,
        "type": info.type,
        "status": info.status.value,
        "reason": info.reason.value if info.reason is not None else None,
        "canceling": info.canceling,
        "paused": info.paused,
        "turn": info.turn,
        "held": info.held,
        "limit": info.limit,
        "long": info.long,
        "priority": info.priority.value,
        "attempt": info.attempt,
        "losses": info.losses,
        "worker": info.worker,
        "version": info.version,
        "entries": info.entries,
        "progress": told.progress_fields(info.progress),
        "step": info.step,
        "changed": list(info.changed),
        "labels": info.labels,
        "idempotency_key": info.idempotency_key or None,
        "session": info.session or None,
        "forked": info.forked,
        "created": iso(info.created),
        "start": iso(info.start),
        "started": iso(info.started),
        "wake": iso(info.wake),
        "deadline": iso(info.deadline),
        "finished": iso(info.finished),
        "error": None if error is None else entries.error_fields(error) | {"traceback": error.traceback},
    }


@app.command("get")
def get(
    intent: Id,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where its error was raised.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Show one intent: status, what it waits for, times, attempts, worker, last step, its result or error.

    [bold]redurable intents get 0192f0c1-2345-7000-8abc-0123456789ab[/bold]

    JSON: id, queue, type, status, reason, canceling, paused, turn, held, limit, long, priority, attempt, losses,
    worker, version, entries, progress (done, total, note), step, changed, labels, idempotency_key, session, forked,
    created, start, started, wake, deadline, finished, error (type, message, code, details, traceback), waits (kind:
    promise, approval, child, limit; name, index, detail, since, until), result; what is not known is null.
    """

    async def work() -> tuple[IntentInfo, Any]:
        async with client_of(url, namespace) as client:
            info = await client.get(intent)
            return info, await _result(client, intent) if info.status is Status.COMPLETED else None

    info, result = run(work())
    if as_json:
        print_json(as_fields(info) | {"waits": [told.wait_fields(wait) for wait in info.waits], "result": result})
        return
    _show(info, result, traceback)


def _show(info: IntentInfo, result: Any, traceback: bool) -> None:
    """Print what is known of an intent for people."""
    error, runs = info.error, info.status is Status.IN_PROGRESS
    fields([
        ("id", info.id),
        ("queue", info.queue + (f" ({info.type})" if info.type else "")),
        ("status", _status(info)),
        ("held", info.held),
        ("limit", f"{info.limit} is full: it goes on when its turn comes" if info.limit else ""),
        ("created", moment(info.created)),
        ("starts", "" if info.started or not info.start else moment(info.start)),
        ("started", moment(info.started)),
        ("waits for", "\n".join(told.wait_text(wait) for wait in info.waits if wait.kind != "limit")),
        ("wakes", moment(info.wake) if not info.limit else ""),
        ("deadline", moment(info.deadline)),
        ("finished", moment(info.finished)),
        ("attempt", info.attempt or ""),
        ("turn", info.turn if info.turn > 1 else ""),
        ("losses", f"{info.losses} (owners lost since the last progress)" if info.losses else ""),
        ("worker", info.worker if runs else ""),
        ("last worker", "" if runs or info.status.final else info.worker),
        ("version", info.version),
        ("progress", told.progress_text(info.progress)),
        ("last step", info.step),
        ("entries", info.entries or ""),
        ("long", f"{info.long} in its journal: let its handler continue_as_new" if info.long else ""),
        ("changed", ", ".join(info.changed) + " (code differs now from what recorded them)" if info.changed else ""),
        ("priority", info.priority.value),
        ("labels", ", ".join(f"{k}={v}" for k, v in info.labels.items())),
        ("session", info.session),
        ("idempotency key", info.idempotency_key),
        ("forked from", info.forked),
        ("error", f"{error.type}: {error.message}" + (f" [{error.code}]" if error.code else "") if error else ""),
        ("traceback", error.traceback.strip() if error and traceback else ""),
        ("result", entries.shortened(result) if info.status is Status.COMPLETED else ""),
    ])  # fmt: skip


async def _result(client: Any, intent: str) -> Any:
    try:
        return await client.wait_for(intent)
    except CodecError as error:
        return f"(sealed) [{error.code}]"


def _status(info: IntentInfo) -> str:
    reason = f" ({info.reason.value})" if info.reason is not None else ""
    if info.status is Status.CREATED and info.session and info.start is None:
        reason = " (behind its session)"
    asked = ", to be paused" if info.paused and info.status is not Status.PAUSED else ""
    return info.status.value + reason + (", canceling" if info.canceling else "") + asked


@app.command("list")
def list_(
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only of this queue.")] = None,
    status: Annotated[
        Status | None, typer.Option("--status", "-s", case_sensitive=False, help="Only in this state.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", "-l", metavar="K=V", help="Only with this label.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="The most to show.")] = 50,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    List intents; finished ones newest first.

    [bold]redurable intents list --status FAILED[/bold]  what is dead

    [bold]redurable intents list -q myapp.handler -s IN_PROGRESS -n 10[/bold]

    [bold]redurable intents list --label team=shop --json[/bold]

    JSON: an array of objects with the fields of `intents get`, but for waits and result.
    """
    from redurable.cli.send import split_label

    pair = split_label(label) if label is not None else None

    async def work() -> list[IntentInfo]:
        async with client_of(url, namespace) as client:
            found = await client.list(queue=queue, status=status, label=pair, limit=limit)
            if not found and queue is not None:
                await check_known(client, queue)
            return found

    found = run(work())
    if as_json:
        print_json([as_fields(info) for info in found])
        return
    rows: list[tuple[Any, ...]] = [
        (
            i.id,
            i.queue,
            _status(i),
            i.attempt,
            i.step,
            told.progress_text(i.progress, short=True),
            age(i.created),
            age(i.finished),
            i.error.type.rpartition(".")[2] if i.error else "",
        )
        for i in found
    ]
    columns = ["id", "queue", "status", "attempt", "last step", "progress", "created", "finished", "error"]
    if not any(info.progress for info in found):
        columns.remove("progress")
        rows = [(*row[:5], *row[6:]) for row in rows]
    table(columns, rows, "no intents", ("last step", "attempt", "finished", "created", "error", "progress", "queue"))
    if len(found) == limit:
        note(f"the first {limit}; there may be more (--limit)")


@app.command("history")
def history(
    intent: Id,
    values: Values = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Show an intent's journal: every step, timer, failure and attempt, in order.

    [bold]redurable intents history ID[/bold]

    [bold]redurable intents history ID --values[/bold]  with what the steps returned

    JSON: an array of objects: seq, at, kind, scope, name, n, size (bytes of a step's result), voided (an operator's
    retry set it aside), detail (by kind: error, tries, due, worker, attempt, ...); with --values also value.
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.history(intent)

    found = run(work())
    voided = entries.voided(found)
    if as_json:
        print_json([entries.as_fields(seq, entry, values=values, voided=seq in voided) for seq, entry in found])
        return
    columns = ("seq", "time", "kind", "scope", "step", "size", "detail", *(["value"] if values else []))
    rows = (entries.row(seq, e, values=values, voided=seq in voided) for seq, e in found)
    table(columns, rows, "no entries yet", ("size", "scope", "detail", "step", "value"))


@app.command("watch")
def watch(
    intent: Id,
    since: Annotated[
        str, typer.Option("--since", metavar="PLACE", help="Go on after this: a place that watch gave, or a seq.")
    ] = "0",
    values: Values = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Follow an intent until it ends: its journal as it grows, what it tells by emit and its streams, its progress.

    The exit code is 0 if it COMPLETED, else 1. A lost connection is made again; to go on after a disconnect of another
    kind, without a gap or a duplicate, give --since the place of the last line.

    [bold]redurable intents watch ID --since 12-40-9c1f03aa[/bold]

    JSON: one object a line: as in `intents history`, or of an event: kind (event, item, end, reset, dropped, progress),
    seq (its number), at, step, offset, value; items have it with --values alone. All have place. The last has id,
    status, error.
    """
    status = run(_watch(client_of(url, namespace), intent, since, values, as_json))
    raise typer.Exit(0 if status is Status.COMPLETED else 1)


async def _watch(client: Any, intent: str, since: str, values: bool, as_json: bool) -> Status:
    async with client:
        await client.get(intent)  # an unknown id is an error at once
        place = since
        try:
            async for place, what in client.observe(intent, since):
                _print(place, what, values, as_json)
        except (StoreError, asyncio.CancelledError):
            note(f"to go on: redurable intents watch {intent} --since {place}")
            raise
        info: IntentInfo = await client.get(intent)
    error = info.error
    if as_json:
        print_json({"id": info.id, "status": info.status.value, "error": error and entries.error_fields(error)})
    else:
        print_line(info.status.value + (f"  {error.type}: {error.message}" if error is not None else ""))
    return info.status


def _print(place: str, what: Any, values: bool, as_json: bool) -> None:
    seq, is_event = Place.of(place).entries, isinstance(what, Event)
    if as_json:
        found = told.as_fields(what, values=values) if is_event else entries.as_fields(seq, what, values=values)
        print_json(found | {"place": place})
    else:
        print_line(told.line(what, values=values) if is_event else entries.line(seq, what, values=values))


answers.register(app)
archive.register(app)
control.register(app)
