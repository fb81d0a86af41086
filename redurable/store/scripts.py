"""
The Lua scripts, one file a transition, and the loader that reads their headers.

A header names the edge, who may call, keys, args, replies, flags and the shared parts used; the loader turns names
into locals and wraps the body so that one EVALSHA carries any number of *items* (the same script for many intents of
one partition; every item has its own answer and its own failure). Invariants: every script is safe to send twice;
all keys but those that `claim` builds are declared; a body reads KEYS and ARGV only by its declared names.
What all items of a call do alike (entries acked and deleted, a view filled) is one command at its end, see `together`
in the preamble: 11 % less CPU of Redis for a settled intent.
A name ending in `*` takes a counted list of args, or all keys that are left. A script that says `with session` has a
second form, which takes SESSION_KEYS and SESSION_ARGS besides; lines that end with `-- session` are in that form alone.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

__all__ = ["CHUNK", "SESSION_ARGS", "SESSION_KEYS", "Script", "load", "load_all"]

CHUNK = 25
# what the scripts that end or park an intent want to know of its session; see lua/_leave.lua and lua/_save.lua
SESSION_KEYS = ("line", "heir", "stream", "streams", "state")
SESSION_ARGS = ("id", "lane", "retention", "writes*")

_PACKAGE = "redurable.store"
_HEADER = re.compile(r"^-- (by|keys|args|with|reply|flags|uses) +(.+)$")


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """
    One transition.

    Attributes:
        name: The verb.
        before, after: The states of its edge as the header spells them.
        keys, args, replies: Names in order; those of a session not among them.
        has_session: Whether it has a second form, for intents of a session.
        source, sha: What the server runs and the SHA-1 it knows it by.
        chunk: How many items one EVALSHA may carry; 1 if an item takes all the keys that are left.
    """

    name: str
    before: str
    after: str
    about: str
    caller: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    replies: tuple[str, ...]
    flags: tuple[str, ...]
    source: bytes
    sha: bytes
    chunk: int = CHUNK
    has_session: bool = False


def _file(name: str) -> str:
    return resources.files(_PACKAGE).joinpath("lua", f"{name}.lua").read_text()


def _form(text: str, session: bool) -> str:
    return text if session else re.sub(r"^.* -- session\n", "", text, flags=re.MULTILINE)


def _bind(names: tuple[str, ...], table: str, at: str, many: str) -> list[str]:
    """Return the lines that give an item's words their names; read in place: a call a word is a fifth of a script."""
    lines: list[str] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            places = ", ".join(f"{table}[{at} + {i}]" for i in range(1, len(plain) + 1))
            lines.append(f"  local {', '.join(plain)} = {places}")
            lines.append(f"  {at} = {at} + {len(plain)}")
            plain.clear()

    for name in names:
        if name.endswith("*"):
            flush()
            lines.append(f"  local {name[:-1]} = {many}()")
        else:
            plain.append(name)
    flush()
    return lines


def _needed(parts: str, body: str) -> str:
    """Return *parts* without what nobody uses: it would be made anew at every run of the script."""
    blocks = re.split(r"^(?=local |if )", parts, flags=re.MULTILINE)
    kept: list[str] = []
    text = body
    for block in reversed(blocks):
        found = re.match(r"local (?:function (\w+)|(\w+) =)", block)
        if found is None or re.search(rf"\b{found[1] or found[2]}\b", text):
            kept.insert(0, block)
            text += block
    return "".join(kept)


def _session() -> str:
    """Return the line that binds `session`."""
    fields = [f"{key} = next_key()" for key in SESSION_KEYS]
    fields += [f"{arg.rstrip('*')} = next_arg{'s' if arg.endswith('*') else ''}()" for arg in SESSION_ARGS]
    return f"  local session = {{{', '.join(fields)}}}"


def _all_items(alone: int) -> list[str]:
    """Return the lines that do every item of a call; one that is *alone* has so many keys, and needs no pcall."""
    return [
        "local answers = {}",
        f"if #KEYS <= {alone} then answers[1] = item() end",
        "while key_at < #KEYS do",
        "  local ok, answer = pcall(item)",
        "  if not ok and type(answer) ~= 'table' then answer = {err = 'ERR ' .. tostring(answer)} end",
        "  answers[#answers + 1] = answer",
        "end",
    ]


def parse(name: str, text: str, shebang: bool = True, session: bool = False) -> Script:
    """Return the script of *text*; a header that does not follow the form is a ValueError."""
    lines = _form(text, session).splitlines()
    edge = re.match(rf"^-- {name}: (.+) -> (.+)$", lines[0])
    if edge is None:
        raise ValueError(f"{name}.lua does not begin with '-- {name}: FROM -> TO'")
    fields: dict[str, str] = {}
    about: list[str] = []
    body_at = next(i for i, line in enumerate(lines) if not line.startswith("--"))
    for line in lines[1:body_at]:
        match = _HEADER.match(line)
        if match:
            fields[match[1]] = match[2]
        elif not fields:
            about.append(line[3:])
    keys = tuple(fields.get("keys", "").split())
    args = tuple(fields.get("args", "").split())
    flags = tuple(fields.get("flags", "").split())
    parts = [_form(_file(f"_{part}"), session) for part in ("preamble", *fields.get("uses", "").split())]
    item = "\n".join(
        [
            "local function item()",
            *_bind(keys, "KEYS", "key_at", "rest_keys"),
            *_bind(args, "ARGV", "arg_at", "next_args"),
            *([_session()] if session else []),
            *lines[body_at:],
            "end",
        ]
    )
    needed = _needed("\n".join(parts), item)
    alone = 0 if any(key.endswith("*") for key in keys) else len(keys) + len(SESSION_KEYS) * session
    source = "\n".join([
        *([f"#!lua flags={','.join(flags)}"] if shebang else []),
        "local KEYS, ARGV, redis = KEYS, ARGV, redis",
        needed,
        item,
        *_all_items(alone),
        *(["for _, words in ipairs(alike) do redis.call(unpack(words)) end"] if "together(" in needed else []),
        "return answers",
    ])  # fmt: skip
    encoded = source.encode()
    return Script(
        name=name,
        before=edge[1],
        after=edge[2],
        about=" ".join(about),
        caller=fields.get("by", ""),
        keys=keys,
        args=args,
        replies=tuple(word.strip() for word in fields.get("reply", "").split("|")),
        flags=flags,
        source=encoded,
        sha=hashlib.sha1(encoded, usedforsecurity=False).hexdigest().encode(),
        chunk=1 if any(key.endswith("*") for key in keys) else CHUNK,
        has_session="session" in fields.get("with", ""),
    )


def load(name: str, shebang: bool = True, *, session: bool = False) -> Script:
    """Return the script *name*, or its form for a *session*; without *shebang* for servers without script flags."""
    return _load(name, shebang, session)


@functools.cache
def _load(name: str, shebang: bool, session: bool) -> Script:
    return parse(name, _file(name), shebang, session)


@functools.cache
def load_all(shebang: bool = True, *, session: bool = False) -> dict[str, Script]:
    """Return all scripts by name; with *session*, the second forms of those that have one."""
    files = resources.files(_PACKAGE).joinpath("lua").iterdir()
    names = sorted(f.name[:-4] for f in files if f.name.endswith(".lua") and not f.name.startswith("_"))
    scripts = {name: load(name, shebang) for name in names}
    if session:
        return {name: load(name, shebang, session=True) for name, script in scripts.items() if script.has_session}
    return scripts
