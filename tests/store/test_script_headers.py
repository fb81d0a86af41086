"""Every script's header says what its body does, and the diagram in `redurable.model` says the same."""

from __future__ import annotations

import inspect
import re
from importlib import resources
from pathlib import Path

import pytest

from redurable import model
from redurable.model import Status
from redurable.store import scripts
from redurable.store.scripts import CHUNK, Script, load, load_all, parse

ALL = load_all()
PARTS = (
    "enqueue", "rearm", "arrive", "rest", "admit", "leave", "finish", "interrupt", "save", "stand", "remove",
    "contents", "pinned", "delivered", "limit",
)  # fmt: skip
FINAL = {status.value for status in Status if status.final}
STATES = {status.value for status in Status} - {"DELIVERED"} | {"none", "any"}
CALLERS = {"owner", "worker", "client"}
# what a call of one of these can answer in its caller's name
ANSWERS = {
    "refused": {"FENCED", "NOT_FOUND", "WRONG_STATE"},
    "miscounted": {"DUPLICATE", "REGRESSED"},
    "interrupt": {"NOT_FOUND", "REQUESTED", "AGAIN", *FINAL},
}
LUA = {
    *("and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not"),
    *("or", "repeat", "return", "then", "true", "until", "while", "redis", "ipairs", "pairs", "tonumber", "tostring"),
    *("math", "string", "table", "unpack", "pcall"),
}


def _file(name: str) -> str:
    return resources.files(scripts.__package__).joinpath("lua", f"{name}.lua").read_text()


def _body(name: str) -> str:
    """Return the code of a file without comments."""
    lines = [re.sub(r"--.*", "", line) for line in _file(name).splitlines()]
    return "\n".join(lines)


def _bare(code: str) -> str:
    """Return *code* without its strings."""
    return re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", code)


def _states(text: str) -> set[str]:
    return {word.strip() for word in text.split("|")}


def _uses(script: Script) -> list[str]:
    found = re.search(r"^-- uses +(.+)$", _file(script.name), re.M)
    return found[1].split() if found else []


@pytest.fixture(params=sorted(ALL))
def script(request: pytest.FixtureRequest) -> Script:
    return ALL[request.param]


def test_a_header_is_complete(script: Script) -> None:
    assert _states(script.before) <= STATES
    assert _states(script.after) <= STATES
    assert script.about.endswith(".")
    assert script.caller in CALLERS
    assert script.keys
    assert script.replies != ("",)
    assert set(script.flags) <= {"allow-oom"}
    assert script.has_session == bool(re.search(r"^.* -- session$", _file(script.name), re.M))
    assert set(_uses(script)) <= set(PARTS)


def test_a_file_is_short_and_its_lines_too(script: Script) -> None:
    lines = _file(script.name).splitlines()
    assert len(lines) <= 80
    assert max(map(len, lines)) <= 120


def test_what_frees_memory_runs_when_it_is_full(script: Script) -> None:
    adds = {
        "submit", "schedule", "enter", "record", "checkpoint", "note", "redrive", "wake", "watch", "import",
        "resolve", "declare", "withdraw", "amend", "resume", "plan", "tick", "occupy", "debounce", "tell", "heed",
    }  # fmt: skip
    assert (script.name in adds) == (script.flags == ())


def test_every_declared_name_is_used_and_every_used_name_is_declared(script: Script) -> None:
    code = _bare(_body(script.name))
    words = set(re.findall(r"(?<![.:\w])[A-Za-z_]\w*", code))
    names = {name.rstrip("*") for name in (*script.keys, *script.args)}
    # an intent's id is an arg of its owner's verbs for the sake of who reads MONITOR
    assert names - words - {"id"} == set(), "declared, but not used"
    local = {n for some in re.findall(r"local (?:function )?([\w, ]+)", code) for n in re.split(r"[, ]+", some)}
    local |= {n for some in re.findall(r"for ([\w, ]+) (?:=|in)", code) for n in re.split(r"[, ]+", some)}
    local |= {n for some in re.findall(r"function \w*\(([\w, ]*)\)", code) for n in re.split(r"[, ]+", some)}
    parts = "\n".join(_file(part) for part in ["_preamble", *[f"_{part}" for part in _uses(script)]])
    shared = set(re.findall(r"local function (\w+)", parts))
    fields = set(re.findall(r"[{,]\s*(\w+) =[^=]", code))  # of table constructors
    names |= {"session"} if script.has_session else set()
    assert words - names - local - shared - fields - LUA == set(), "used, but not declared"


def test_keys_and_args_are_read_by_name_alone(script: Script) -> None:
    assert not re.search(r"\b(KEYS|ARGV)\b", _bare(_body(script.name)))


def _called(code: str) -> set[str]:
    """Return the parts whose functions *code* calls."""
    functions = {part: re.findall(r"local function (\w+)", _body(f"_{part}")) for part in PARTS}
    return {part for part, names in functions.items() if any(re.search(rf"(?<!function )\b{n}\(", code) for n in names)}


def test_the_parts_used_are_the_parts_named(script: Script) -> None:
    code = _bare(_body(script.name))
    parts = _uses(script)
    called = _called(code)
    while more := {p for part in called for p in _called(_bare(_body(f"_{part}")))} - called:
        called |= more
    assert called == set(parts)
    assert parts == sorted(parts, key=PARTS.index), "a part is loaded before the parts that use it"


def test_the_documented_replies_are_those_that_can_come(script: Script) -> None:
    if script.name == "claim":
        return  # it answers a list
    code = _body(script.name)
    found = {word for line in re.findall(r"\breturn\b[^\n]*|\breply\b[^\n]*=[^\n]*", code)
             for word in re.findall(r"'([A-Z_]+)'", line)}  # fmt: skip
    for name, words in ANSWERS.items():
        if re.search(rf"\b{name}\(", code):
            found |= words
    documented = set(script.replies)
    if "seq" in documented:
        assert re.search(r"return seq\b", code)
        documented.remove("seq")
    if script.name == "occupy":
        documented.remove("index")  # of the limit that is full
    if script.name == "watch":
        assert re.search(r"return status\b", code)
        documented.remove("status")
    if script.name in ("enter", "join", "tick"):
        found |= {"OK", "QUEUED"}
    if script.name in ("expire", "kill", "resolve"):
        found |= FINAL
    assert found == documented


def test_a_verb_has_a_method_and_no_other_file_is_a_script(script: Script) -> None:
    store = Path(inspect.getfile(scripts)).parent
    assert any(f'"{script.name}"' in path.read_text() for path in store.glob("*.py"))


def test_an_owners_verb_checks_its_fence_before_it_writes(script: Script) -> None:
    if script.caller != "owner":
        return
    code = _body(script.name)
    writes = re.search(r"'(HSET|HDEL|HINCRBY|RPUSH|XCLAIM|XADD|SET|ZADD|DEL)'|\b(drop|finish|rearm|enqueue)\(", code)
    checks = re.search(r"refused\(|== fence", code)
    assert writes
    assert checks
    assert checks.start() < writes.start()


def test_there_is_no_refusal_after_the_first_write(script: Script) -> None:
    """Lua does not roll back: once something is written, the answer is a success."""
    code = _body(script.name)
    first = re.search(r"'(HSET|HDEL|HINCRBY|RPUSH|XADD|SET|DEL)'|\bfinish\(", code)
    refusals = ("FENCED", "WRONG_STATE", "NOT_FOUND", "DUPLICATE", "REGRESSED", "AGAIN", "CONFLICT", "NEWS", "ALIVE")
    if first is not None and script.name != "claim":
        assert not [word for word in refusals if f"'{word}'" in code[first.start() :]]


class TestDiagram:
    text = inspect.getdoc(model) or ""
    drawing = text[text.index("walks each edge:") : text.index("What holds in each state:")]

    def test_every_edge_that_is_drawn_straight_is_an_edge_of_its_script(self) -> None:
        edges = re.findall(r"\b([A-Z_]+) ──+ (\w+) ──+► ([A-Z_]+)", self.drawing)
        edges += re.findall(r"\b(IN_PROGRESS) ── (settle) ──► (COMPLETED)", self.drawing)
        begun = re.findall(r"─ (schedule|submit) ─+► ([A-Z]+)", self.drawing)
        edges += [("none", verb, state) for verb, state in begun]
        assert {verb for _, verb, _ in edges} == {"claim", "settle", "schedule", "submit"}
        for before, verb, after in edges:
            assert before in _states(load(verb).before), (before, verb, after)
            assert after in _states(load(verb).after), (before, verb, after)

    def test_every_script_that_moves_an_intent_is_drawn(self) -> None:
        drawn = {word for word in re.findall(r"\b[a-z]+\b", self.drawing) if word in ALL}
        # two keep house and one leaves a remark: what they do is no part of an intent's life
        moving = {s.name for s in ALL.values() if s.before != "any"} - {"mend", "sweep", "note"}
        assert drawn == moving

    def test_the_edges_that_are_spelled_out_are_those_of_the_headers(self) -> None:
        lines = re.findall(
            r"^ +([a-z, ]+?) {2,}(none|[A-Z_| ]+?)(?:, never claimed)? -> (none|[A-Z_| ]+)", self.drawing, re.M
        )
        spelled = "cancel, expire|kill|pause|resume|redrive|delete|import|enter, tick|debounce|continue|reseat|skip"
        spelled += "|linger"
        assert "|".join(line[0] for line in lines) == spelled
        for verbs, before, after in lines:
            for verb in verbs.split(", "):
                assert _states(before) <= _states(load(verb).before)
                ends = {"cancel": {"CANCELED"}, "expire": {"TIMED_OUT"}}.get(verb, _states(after))
                assert ends <= _states(load(verb).after)

    def test_the_verbs_beside_an_arrow_into_a_state_lead_there(self) -> None:
        beside = {
            "release, recover": "SUBMITTED",
            "wake, fire, cancel,": "SUBMITTED",
            "expire, resolve": "SUBMITTED",
            "park, retry": "WAITING",
            "record, renew, checkpoint, tell,": "IN_PROGRESS",
            "declare, withdraw, occupy": "IN_PROGRESS",
        }
        for verbs, state in beside.items():
            assert verbs in self.drawing
            for verb in re.findall(r"\b(?!stay)[a-z]+\b", verbs):
                assert state in _states(load(verb).after), (verb, state)


class TestLoader:
    def test_a_header_that_does_not_follow_the_form_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"nap\.lua does not begin with"):
            parse("nap", "-- sleep: a -> b\nreturn 1")

    def test_names_become_locals_in_their_order(self) -> None:
        header = ("nap: any -> any", "Rests.", "by     owner", "keys   bed", "args   how many*", "reply  OK")
        script = parse("nap", "\n".join([*[f"-- {line}" for line in header], "return 1"]))
        assert (script.keys, script.args, script.replies) == (("bed",), ("how", "many*"), ("OK",))
        assert script.about == "Rests."
        source = script.source.decode()
        assert source.startswith("#!lua flags=\n")
        assert source.index("local bed = KEYS[") < source.index("local how = ARGV[") < source.index("local many = ")

    def test_only_the_helpers_that_a_body_calls_come_along(self) -> None:
        record = load("record").source
        assert b"local function miscounted" in record
        assert b"local function moment" not in record
        assert b"local function now_us" in load("settle").source, "called by what settle calls"

    def test_scripts_that_take_all_keys_are_never_batched(self) -> None:
        assert {s.name: s.chunk for s in ALL.values() if s.chunk != CHUNK} == {"claim": 1}

    def test_without_a_shebang_the_rest_is_the_same(self) -> None:
        assert load("record").source == b"#!lua flags=\n" + load("record", shebang=False).source
