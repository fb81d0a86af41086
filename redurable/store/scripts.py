"""
The Lua scripts, one file a transition, and the loader that reads their headers.

A header names the edge, who may call, keys, args, replies, flags and the shared parts used; the loader turns names
into locals and wraps the body so that one EVALSHA carries any number of *items* (the same script for many intents of
one partition; every item has its own answer and its own failure). Invariants: every script is safe to send twice;
all keys but those that `claim` builds are declared; a body reads KEYS and ARGV only by its declared names.
A name ending in `*` takes a counted list of args, or all keys that are left.
"""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

__all__ = ["CHUNK", "Script", "load", "load_all"]

CHUNK = 25

_PACKAGE = "redurable.store"
_HEADER = re.compile(r"^-- (by|keys|args|reply|flags|uses) +(.+)$")


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """
    One transition.

    Attributes:
        name: The verb.
        before, after: The states of its edge as the header spells them.
        keys, args, replies: Names in order.
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


def _file(name: str) -> str:
    return resources.files(_PACKAGE).joinpath("lua", f"{name}.lua").read_text()


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
    """Return *parts* without the functions that nobody calls: each is made anew at every run of the script."""
    blocks = re.split(r"^(?=local |if )", parts, flags=re.MULTILINE)
    kept: list[str] = []
    text = body
    for block in reversed(blocks):
        function = re.match(r"local function (\w+)", block)
        if function is None or re.search(rf"\b{function[1]}\b", text):
            kept.insert(0, block)
            text += block
    return "".join(kept)


def parse(name: str, text: str, shebang: bool = True) -> Script:
    """Return the script of *text*; a header that does not follow the form is a ValueError."""
    lines = text.splitlines()
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
    parts = [_file("_preamble"), *(_file(f"_{part}") for part in fields.get("uses", "").split())]
    body = "\n".join(
        [
            "local function item()",
            *_bind(keys, "KEYS", "key_at", "rest_keys"),
            *_bind(args, "ARGV", "arg_at", "next_args"),
            *lines[body_at:],
            "end",
            "local answers = {}",
            f"if #KEYS <= {len(keys)} then return {{item()}} end" if not any(k.endswith("*") for k in keys) else "",
            "repeat",
            "  local ok, answer = pcall(item)",
            "  if not ok and type(answer) ~= 'table' then answer = {err = 'ERR ' .. tostring(answer)} end",
            "  answers[#answers + 1] = answer",
            "until key_at >= #KEYS",
            "return answers",
        ]
    )
    source = "\n".join([
        *([f"#!lua flags={','.join(flags)}"] if shebang else []),
        "local KEYS, ARGV, redis = KEYS, ARGV, redis",
        _needed("\n".join(parts), body),
        body,
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
    )


@functools.cache
def load(name: str, shebang: bool = True) -> Script:
    """Return the script *name*; without *shebang* for servers that do not know script flags."""
    return parse(name, _file(name), shebang)


@functools.cache
def load_all(shebang: bool = True) -> dict[str, Script]:
    """Return all scripts by name."""
    files = resources.files(_PACKAGE).joinpath("lua").iterdir()
    names = sorted(f.name[:-4] for f in files if f.name.endswith(".lua") and not f.name.startswith("_"))
    return {name: load(name, shebang) for name in names}
