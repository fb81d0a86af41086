"""`redurable intents resolve` and `reject`: give promises their values from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import print_json, print_line, run

__all__ = ["register"]

Id = Annotated[str, typer.Argument(metavar="ID", help="The intent, as `send` printed it.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The promise, as its handler names it.")]
Index = Annotated[int, typer.Option("--index", min=0, help="Which of several promises of that name.")]
By = Annotated[str, typer.Option("--by", help="Who says so; it is kept in the history.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `redurable intents`."""
    app.command("resolve")(resolve)
    app.command("reject")(reject)


def resolve(
    intent: Id,
    name: Name,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="JSON; - reads it from stdin.")] = "null",
    index: Index = 0,
    by: By = "",
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Give a promise its value: the handler that waits for it goes on.

    [bold]redurable intents resolve ID approved true[/bold]

    The first value stands: the same again changes nothing, another is refused [ALREADY_RESOLVED].

    JSON: id, name, index, answer.
    """
    from redurable.cli.send import json_of

    found = json_of(value, "the value", f"redurable intents resolve ID {name} true")
    run(_answer(client_of(url, namespace), "resolve", (intent, name, found), index, by, as_json))


def reject(
    intent: Id,
    name: Name,
    error: Annotated[str, typer.Argument(metavar="WHY", help="What the handler is told.")],
    index: Index = 0,
    by: By = "",
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Reject a promise: the handler that awaits it gets a PromiseRejected that says why.

    [bold]redurable intents reject ID approved 'the budget is spent'[/bold]

    JSON: id, name, index, answer.
    """
    run(_answer(client_of(url, namespace), "reject", (intent, name, error), index, by, as_json))


async def _answer(client: Any, verb: str, what: tuple[Any, ...], index: int, by: str, as_json: bool) -> None:
    async with client:
        await getattr(client, verb)(*what, index=index, by=by)
    answer = "RESOLVED" if verb == "resolve" else "REJECTED"
    if as_json:
        print_json({"id": what[0], "name": what[1], "index": index, "answer": answer})
    else:
        print_line(f"{what[0]}  {what[1]}#{index}  {answer}")
