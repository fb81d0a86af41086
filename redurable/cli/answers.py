"""`redurable intents resolve` and `reject`: give promises their values, by id and name or by token."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli import told
from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import note, print_json, print_line, run
from redurable.errors import ConfigurationError
from redurable.ids import promise_text

__all__ = ["register"]

# by id and name three words, by token two: what the second and third mean is told by the first
First = Annotated[str, typer.Argument(metavar="ID | TOKEN", help="The intent; or the promise's token, and no NAME.")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="The promise, as its handler names it.")]
Index = Annotated[int, typer.Option("--index", min=0, help="Which of several promises of that name.")]
By = Annotated[str, typer.Option("--by", help="Who says so; it is kept in the history.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `redurable intents`."""
    app.command("resolve")(resolve)
    app.command("reject")(reject)


def resolve(
    intent: First,
    name: Name = None,
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", help="JSON; - reads it from stdin.")] = None,
    index: Index = 0,
    by: By = "",
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Give a promise its value: the handler that waits for it goes on.

    [bold]redurable intents resolve ID approved true[/bold]

    [bold]redurable intents resolve rdp_AAGhd... true[/bold]  by the promise's token

    The value is null unless one is given. The first value stands: the same again changes nothing, another is refused
    [ALREADY_RESOLVED].

    A value for a promise that the handler has not asked for is kept until it does; since its name may be misspelled,
    stderr says so, and what it waits for. The exit code is 0, the answer UNASKED in the place of RESOLVED.

    JSON: id, name, index, answer; by token: token, answer.
    """
    from redurable.cli.send import json_of

    to, text = _addressed(intent, name, value, index)
    found = json_of(text or "null", "the value", f"redurable intents resolve {'ID ' if name else ''}{to[-1]} true")
    run(_answer(client_of(url, namespace), "resolve", to, found, index, by, as_json))


def reject(
    intent: First,
    name: Name = None,
    error: Annotated[str | None, typer.Argument(metavar="WHY", help="What the handler is told.")] = None,
    index: Index = 0,
    by: By = "",
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Reject a promise: the handler that awaits it gets a PromiseRejected that says why.

    [bold]redurable intents reject ID approved 'the budget is spent'[/bold]

    [bold]redurable intents reject rdp_AAGhd... 'the budget is spent'[/bold]  by the promise's token

    As with `resolve`, the answer UNASKED says that the handler has not asked for it yet.

    JSON: id, name, index, answer; by token: token, answer.
    """
    to, why = _addressed(intent, name, error, index)
    if why is None:
        raise ConfigurationError(
            "say why it is rejected", hint="redurable intents reject ID NAME 'the budget is spent'"
        )
    run(_answer(client_of(url, namespace), "reject", to, why, index, by, as_json))


def _addressed(first: str, second: str | None, third: str | None, index: int) -> tuple[tuple[str, ...], str | None]:
    """Return what names the promise, a token or id and name, and what is said besides."""
    from redurable.store.tokens import PREFIX

    if not first.startswith(PREFIX):
        if second is None:
            raise ConfigurationError("no promise is named", hint="give ID and NAME, or the promise's token")
        return (first, second), third
    if third is not None or index:
        raise ConfigurationError(
            "a token names the promise by itself", hint="give TOKEN and the value, without NAME and --index"
        )
    return (first,), second


async def _answer(
    client: Any, verb: str, to: tuple[str, ...], said: Any, index: int, by: str, as_json: bool
) -> None:  # fmt: skip
    async with client:
        answer = await getattr(client, verb)(*to, said, by=by, **({"index": index} if len(to) == 2 else {}))
        if answer == "UNASKED":
            waits = [told.wait_name(w) for w in (await client.get(to[0])).waits if w.kind in ("promise", "approval")]
            note(f"nobody has asked for {_shown(to, index)} yet: it is kept until the handler does; it waits for: "
                 f"{', '.join(waits) or 'no promise'}")  # fmt: skip
    if as_json:
        print_json((_named(to, index) if len(to) == 2 else {"token": to[0]}) | {"answer": answer})
    else:
        print_line(f"{to[0]}  {_shown(to, index)}  {answer}" if len(to) == 2 else answer)


def _shown(to: tuple[str, ...], index: int) -> str:
    return promise_text(f"{to[1]}#{index}")


def _named(to: tuple[str, ...], index: int) -> dict[str, Any]:
    return {"id": to[0], "name": to[1], "index": index}
