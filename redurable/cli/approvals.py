"""`redurable approvals`: what waits for people, and their answers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import age, iso, print_json, print_line, run, table
from redurable.ids import promise_text

__all__ = ["app"]

app = typer.Typer(
    help="List what waits for people, and answer it.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    List what waits for people, and answer it.

    [bold]redurable approvals[/bold]  lists; see also [bold]redurable approvals answer[/bold]
    """
    if context.invoked_subcommand is None:
        list_(url=url, namespace=namespace, as_json=as_json)


@app.command("list")
def list_(
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only of this queue.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="The most to show.")] = 100,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    List what waits for people, the oldest first.

    JSON: an array of objects: intent, queue, name, index, title, description, outcomes, assignees, since, escalates,
    form (a JSON Schema).
    """

    async def work() -> list[Any]:
        async with client_of(url, namespace) as client:
            return [a for a in await client.approvals(limit) if queue in (None, a.queue)]

    found = run(work())
    if as_json:
        print_json([
            {f: getattr(a, f) for f in a.__struct_fields__} | {"since": iso(a.since), "escalates": iso(a.escalates)}
            for a in found
        ])  # fmt: skip
        return
    rows = [
        (a.intent, a.queue, promise_text(f"{a.name}#{a.index}"), a.title, " | ".join(a.outcomes),
         ", ".join(a.assignees), age(a.since))
        for a in found
    ]  # fmt: skip
    table(("intent", "queue", "name", "title", "outcomes", "assignees", "since"), rows, "nothing waits for people",
          ("queue", "assignees", "since", "title", "outcomes"))  # fmt: skip


@app.command("answer")
def answer(
    intent: Annotated[str, typer.Argument(metavar="ID", help="The intent, as the list shows it.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The approval.")],
    outcome: Annotated[str, typer.Argument(metavar="OUTCOME", help="One of those allowed.")],
    value: Annotated[str, typer.Option("--value", help="What is filled in besides, as JSON; - reads stdin.")] = "null",
    index: Annotated[int, typer.Option("--index", min=0, help="Which of several approvals of that name.")] = 0,
    by: Annotated[str, typer.Option("--by", help="Who decides; by default the user of this system.")] = "",
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Answer an approval; its handler goes on.

    [bold]redurable approvals answer ID publish approve --by ann[/bold]

    An outcome that is not allowed is refused [BAD_OUTCOME]; so is a second answer that differs [ALREADY_RESOLVED].

    JSON: id, name, index, answer.
    """
    from redurable.cli.send import json_of

    filled = json_of(value, "the value", "--value '{\"n\": 1}'")

    async def work() -> None:
        async with client_of(url, namespace) as client:
            await client.answer(intent, name, outcome, value=filled, index=index, by=by or _user())

    run(work())
    if as_json:
        print_json({"id": intent, "name": name, "index": index, "answer": outcome})
    else:
        print_line(f"{intent}  {promise_text(f'{name}#{index}')}  {outcome}")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
