"""`redurable intents fork | export | import`: whole intents, copied, taken out and put in."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, check_known, client_of
from redurable.cli.output import note, print_json, print_line, run
from redurable.errors import ConfigurationError, RedurableError
from redurable.model import Status

__all__ = ["register"]

Some = Annotated[list[str] | None, typer.Argument(metavar="[ID...]", help="The intents; or choose them by options.")]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `redurable intents`."""
    app.command("fork")(fork)
    app.command("export")(export)
    app.command("import")(import_)


def fork(
    intent: Annotated[str, typer.Argument(metavar="ID", help="The intent to begin as; it is left as it is.")],
    from_step: Annotated[
        str, typer.Option("--from-step", metavar="NAME", help="The call that is made anew: charge, charge#2.")
    ],
    payload: Annotated[
        str | None, typer.Option("--payload", metavar="JSON | -", help="Another payload; by default the same.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="Forked again with it, it prints the first fork's id.")
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Send a new intent that begins with another's journal up to a step, and print its id.

    It is given what was recorded until then, and goes on by itself: that step runs anew, and all that comes after it.
    The other may be open or have ended. A name alone means the first step of that name; [bold]redurable intents history
    ID[/bold] shows them. Timers, calls and promises may be named too.

    [bold]redurable intents fork ID --from-step charge[/bold]

    [bold]redurable intents fork ID --from-step charge#2 --payload '{"card": "4242"}'[/bold]

    JSON: id, forked (the other's id), from_step.
    """
    from redurable.cli.send import json_of

    given = {} if payload is None else {"payload": json_of(payload, "--payload", "--payload '{\"n\": 1}'")}

    async def work() -> str:
        async with client_of(url, namespace) as client:
            return await client.fork(intent, from_step, idempotency_key=idempotency_key, **given)

    new = run(work())
    if as_json:
        print_json({"id": new, "forked": intent, "from_step": from_step})
    else:
        print_line(new)


def export(
    intents: Some = None,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Those of this queue.")] = None,
    status: Annotated[
        Status | None, typer.Option("--status", "-s", case_sensitive=False, help="Those in this state.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", "-l", metavar="K=V", help="Those with this label.")] = None,
    url: Url = None,
    namespace: Namespace = None,
) -> None:
    """
    Write intents to stdout, with payload, journal and outcome: one JSON object a line. They go on undisturbed.

    [bold]redurable intents export ID > intent.jsonl[/bold]

    [bold]redurable intents export --queue orders --status FAILED > dead.jsonl[/bold]

    The file holds payloads and results, which may be secrets; sealed ones (--codec) stay sealed.
    """
    from redurable.cli.send import split_label

    if not intents and queue is None and status is None and label is None:
        raise ConfigurationError("no intent is named", hint="give ids, or choose by --queue, --status or --label")
    if intents and (queue is not None or status is not None or label is not None):
        raise ConfigurationError("ids and options cannot both choose", hint="give ids, or --queue, --status, --label")
    pair = split_label(label) if label is not None else None

    async def work() -> int:
        async with client_of(url, namespace) as client:
            for intent in intents or ():
                print_json(await client.export(intent))
            if intents:
                return len(intents)
            count = 0
            async with contextlib.aclosing(client.export_all(queue=queue, status=status, label=pair)) as records:
                async for record in records:
                    print_json(record)
                    count += 1
            if not count and queue is not None:
                await check_known(client, queue)
            return count

    note(f"{run(work())} exported")


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE | -", help="What `export` wrote, or - for stdin.")],
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Store exported intents under their ids.

    Open ones go on from their journals at once; finished ones are kept for their retention, and for a day at least.
    One that is there already, exactly as in the file, is left as it is; another with its id is an error
    (INTENT_EXISTS). What was stored before an error stays, and the file may be given again.

    JSON: one object a line: id, answer (IMPORTED or PRESENT).
    """

    async def work() -> tuple[int, int]:
        told = [0, 0]
        async with client_of(url, namespace) as client:
            for number, line in _lines(file):
                with _at(file, number):
                    record = _object(line)
                    new = await client.import_(record)
                told[new] += 1
                _tell(record["id"], "IMPORTED" if new else "PRESENT", as_json)
        return told[True], told[False]

    new, present = run(work())
    note(f"{new} imported" + (f", {present} were there already" if present else ""))


def _tell(intent: str, answer: str, as_json: bool) -> None:
    if as_json:
        print_json({"id": intent, "answer": answer})
    else:
        print_line(f"{intent}  {answer}")


def _lines(file: str) -> Iterator[tuple[int, str]]:
    try:
        with sys.stdin if file == "-" else Path(file).open(encoding="utf-8") as source:
            for number, line in enumerate(source, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is no text", code="BAD_IMPORT") from None


def _object(line: str) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError):  # its message may quote the text
        raise ConfigurationError("this is no JSON object", code="BAD_IMPORT") from None


@contextlib.contextmanager
def _at(file: str, number: int) -> Iterator[None]:
    """Name the line in whatever is wrong with it."""
    try:
        yield
    except RedurableError as error:
        error.message = f"{file}, line {number}: {error.message}"
        raise
