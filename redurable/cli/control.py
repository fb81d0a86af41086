"""
`redurable intents cancel | kill | pause | resume | retry | delete`: for some intents by id, for many by options.

Each works with either; what they print is alike. With options nothing is done under `--dry-run`, which counts.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from redurable.cli.common import AsJson, Namespace, Url, check_known, client_of, seconds_of
from redurable.cli.output import note, print_json, print_line, run
from redurable.errors import ConfigurationError
from redurable.model import Status

if TYPE_CHECKING:
    from redurable.control import Verb

__all__ = ["register"]

Some = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="The intents; or choose them by options.")]
Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Those of this queue.")]
State = Annotated[Status | None, typer.Option("--status", "-s", case_sensitive=False, help="Those in this state.")]
Label = Annotated[str | None, typer.Option("--label", "-l", metavar="K=V", help="Those with this label.")]
Age = Annotated[
    str | None, typer.Option("--older-than", metavar="AGE", help="Those sent longer ago: 90, 90s, 15m, 2h, 7d.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count those that options choose, and do nothing.")]
Why = Annotated[str, typer.Option("--note", help="Why; it is kept with the intent.")]
_TELL_EVERY = 2.0
_ENDED = {status.value for status in Status if status.final}


def register(app: typer.Typer) -> None:
    """Add the commands to those of `redurable intents`."""
    for command in (cancel, kill, pause, resume, retry, delete):
        app.command(command.__name__)(command)


def cancel(
    intents: Some = None, queue: Queue = None, status: State = None, label: Label = None, older_than: Age = None,
    dry_run: DryRun = False, reason: Why = "", url: Url = None, namespace: Namespace = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Ask intents to end.

    One that never ran is CANCELED at once. One that runs finishes its step, may undo its work, and is CANCELED then
    (REQUESTED). One that has ended stays as it is, and its status is printed.

    [bold]redurable intents cancel ID[/bold]

    [bold]redurable intents cancel --queue mail --older-than 2h --dry-run[/bold]  how many would that be?

    JSON: one object a line: id, answer. With options one object: chosen, answers (how many gave each), dry_run.
    """
    _control("cancel", intents, (queue, status, label, older_than), dry_run, (url, namespace), as_json, reason)


def kill(
    intents: Some = None, queue: Queue = None, status: State = None, label: Label = None, older_than: Age = None,
    dry_run: DryRun = False, reason: Why = "", url: Url = None, namespace: Namespace = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    End intents at once, without their handlers: nothing is undone.

    Every one that is open is CANCELED, with the code KILLED; whoever runs it is refused what he still writes. Use
    [bold]cancel[/bold] unless a handler does not end. One that has ended stays as it is, and its status is printed.

    JSON: one object a line: id, answer. With options one object: chosen, answers (how many gave each), dry_run.
    """
    _control("kill", intents, (queue, status, label, older_than), dry_run, (url, namespace), as_json, reason)


def pause(
    intents: Some = None, queue: Queue = None, status: State = None, label: Label = None, older_than: Age = None,
    dry_run: DryRun = False, url: Url = None, namespace: Namespace = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Keep intents from going on until they are resumed.

    No worker takes up a paused one, and what comes meanwhile (a timer, a deadline, a cancel) waits with it. One that
    runs finishes its steps in flight first (REQUESTED). For a whole queue: [bold]redurable queues pause[/bold].

    JSON: one object a line: id, answer. With options one object: chosen, answers (how many gave each), dry_run.
    """
    _control("pause", intents, (queue, status, label, older_than), dry_run, (url, namespace), as_json)


def resume(
    intents: Some = None, queue: Queue = None, status: State = None, label: Label = None, older_than: Age = None,
    dry_run: DryRun = False, url: Url = None, namespace: Namespace = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Let paused intents go on where they were.

    Timers that fell due meanwhile take effect now. One that is not paused stays as it is.

    JSON: one object a line: id, answer. With options one object: chosen, answers (how many gave each), dry_run.
    """
    _control("resume", intents, (queue, status, label, older_than), dry_run, (url, namespace), as_json)


def retry(
    intents: Some = None, queue: Queue = None, status: State = None, label: Label = None, older_than: Age = None,
    dry_run: DryRun = False, url: Url = None, namespace: Namespace = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Continue FAILED, CANCELED or TIMED_OUT intents, once the fault is mended.

    What failed runs again; finished steps keep their results. One whose undo work ([bold]compensate[/bold]) has run is
    refused, ALREADY_UNDONE: [bold]redurable intents fork[/bold] it from the first step that was undone.

    One that is held, WAITING (HELD), is looked at now; by options held ones are chosen with --status WAITING alone.

    [bold]redurable intents retry --queue orders --status FAILED[/bold]

    JSON: one object a line: id, answer. With options one object: chosen, answers (how many gave each), dry_run.
    """
    _control("retry", intents, (queue, status, label, older_than), dry_run, (url, namespace), as_json)


def delete(
    intents: Some = None, queue: Queue = None, status: State = None, label: Label = None, older_than: Age = None,
    dry_run: DryRun = False, url: Url = None, namespace: Namespace = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Remove finished intents now, whatever their retention; export them first if they may be missed.

    An open intent is refused: cancel it first. An idempotency key of a deleted intent may be used again.

    JSON: one object a line: id, answer. With options one object: chosen, answers (how many gave each), dry_run.
    """
    _control("delete", intents, (queue, status, label, older_than), dry_run, (url, namespace), as_json)


def _control(
    verb: Verb,
    intents: list[str] | None,
    options: tuple[str | None, Status | None, str | None, str | None],
    dry_run: bool,
    place: tuple[str | None, str | None],
    as_json: bool,
    reason: str = "",
) -> None:
    by_options = any(option is not None for option in options)
    if intents and (by_options or dry_run):
        raise ConfigurationError("ids and options cannot both choose", hint="give ids, or --queue, --status, ...")
    if not intents and not by_options:
        raise ConfigurationError(
            "no intent is named", hint="give ids, or choose by --queue, --status, --label, --older-than"
        )
    run(_each_id(verb, intents, place, as_json, reason) if intents else _many(verb, options, dry_run, place, as_json,
                                                                             reason))  # fmt: skip


async def _each_id(
    verb: Verb, intents: list[str], place: tuple[str | None, str | None], as_json: bool, reason: str
) -> None:
    words = (reason,) if verb in ("cancel", "kill") else ()
    async with client_of(*place) as client:
        for intent in intents:
            # the client answers CANCELED whether it was just now or before
            was = (await client.get(intent)).status if words else None
            answer = await getattr(client, verb)(intent, *words)
            answer = answer or {"resume": "RESUMED", "retry": "SUBMITTED", "delete": "DELETED"}[verb]
            if as_json:
                print_json({"id": intent, "answer": answer})
            else:
                ended = answer in _ENDED and (answer != "CANCELED" or was is Status.CANCELED)
                print_line(f"{intent}  already {answer}: nothing to {verb}" if ended else f"{intent}  {answer}")


async def _many(
    verb: Verb,
    options: tuple[str | None, Status | None, str | None, str | None],
    dry_run: bool,
    place: tuple[str | None, str | None],
    as_json: bool,
    reason: str,
) -> None:
    from redurable.cli.send import split_label

    queue, status, label, older_than = options
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY and not as_json and done < total:
            told = time.monotonic()
            note(f"{done} of {total}")

    async with client_of(*place) as client:
        if queue is not None:
            await check_known(client, queue)
        result = await client.each(
            verb, queue=queue, status=status, label=split_label(label) if label is not None else None,
            older_than=seconds_of(older_than), dry_run=dry_run, note=reason,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"chosen": result.chosen, "answers": result.answers, "dry_run": dry_run})
    elif dry_run:
        print_line(f"{result.chosen} chosen, nothing done")
    else:
        parts = ", ".join(f"{count} {answer}" for answer, count in sorted(result.answers.items()))
        print_line(f"{result.chosen} chosen" + (f": {parts}" if parts else ""))
    sys.stdout.flush()
