"""The error tree: drawn as it is, codes stable, texts helpful, pickled whole."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
from datetime import timedelta
from pathlib import Path

import pytest

from redurable import errors
from redurable.errors import (
    Canceled,
    ConfigurationError,
    Fenced,
    IntentFailed,
    JournalMismatchError,
    PayloadTooLarge,
    RedurableError,
    RetryLater,
    StepFailed,
    Suspended,
    TerminalError,
    UsageError,
)
from redurable.model import ErrorInfo, Status

CLASSES = {name: getattr(errors, name) for name in errors.__all__}


def test_every_error_is_in_the_drawing_with_its_code() -> None:
    drawing = errors.__doc__ or ""
    for name, kind in CLASSES.items():
        line = re.search(rf"^.*\b{name}\b.*(?:\n +│ {{6,}}.*)*", drawing, re.MULTILINE)
        assert line, f"{name} is not in the drawing"
        if issubclass(kind, RedurableError) and kind is not RedurableError:
            own = kind.code in line[0] or kind.code in drawing
            assert own, f"{kind.code} of {name} is not in the drawing"


def test_codes_of_classes_are_unique() -> None:
    codes = [kind.code for kind in CLASSES.values() if hasattr(kind, "code") and kind is not RedurableError]
    assert len(codes) == len(set(codes))


def test_signals_pass_by_except_exception() -> None:
    for signal in (Suspended, Fenced, Canceled, JournalMismatchError):
        assert not issubclass(signal, Exception)
    assert issubclass(Fenced, Suspended)
    assert issubclass(Suspended, asyncio.CancelledError)
    assert issubclass(Canceled, asyncio.CancelledError)
    assert not issubclass(Canceled, Suspended)


def test_the_text_has_message_code_and_hint() -> None:
    assert str(ConfigurationError("x is wrong", code="BAD_URL", hint="mend x")) == "x is wrong [BAD_URL]\n  mend x"
    assert str(UsageError("not here")) == "not here [OUTSIDE_INTENT]"


ONE_OF_EACH: list[RedurableError] = [
    ConfigurationError("m", code="BAD_URL", hint="h"),
    PayloadTooLarge("m"),
    IntentFailed("id", "FAILED", ErrorInfo("ValueError", "m", code="MY_CODE")),
    IntentFailed("id", "CANCELED"),
    StepFailed("fetch", "builtins.OSError", "gone", bases=("builtins.Exception",), details={"a": 1}, tries=3),
    TerminalError("m", details={"k": 1}),
    RetryLater(5),
    RetryLater(timedelta(seconds=5), "soon"),
]


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_an_error_comes_whole_out_of_a_pickle_and_a_copy(error: RedurableError) -> None:
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert (other.args, other.__dict__) == (error.args, error.__dict__)


def test_an_intents_failure_bears_the_code_of_its_error() -> None:
    assert IntentFailed("id", "FAILED", ErrorInfo("ValueError", "m", code="MY_CODE")).code == "MY_CODE"
    assert IntentFailed("id", "FAILED", ErrorInfo("ValueError", "m")).code == "INTENT_FAILED"


def test_a_failed_step_matches_its_error_and_the_errors_bases() -> None:
    info = ErrorInfo.of(FileNotFoundError("x"))
    failed = StepFailed("s", info.type, info.message, bases=info.bases)
    assert failed.matches(FileNotFoundError)
    assert failed.matches(ValueError, OSError)
    assert failed.matches(Exception)
    assert not failed.matches(ValueError)


class _Odd(Exception):
    code = 7
    message = "short"

    def __init__(self, details: object) -> None:
        super().__init__("long")
        self.details = details


def test_an_exception_is_described_with_what_can_be_stored() -> None:
    try:
        raise _Odd({"a": 1})
    except _Odd as error:
        info = ErrorInfo.of(error)
    assert info.type == f"{__name__}._Odd"
    assert (info.message, info.code, info.details) == ("short", "", {"a": 1})
    assert info.bases == ("builtins.Exception", "builtins.BaseException")
    assert "raise _Odd" in info.traceback
    assert ErrorInfo.of(_Odd(object())).details is None
    assert len(ErrorInfo.of(ValueError("x" * 10_000)).message) == 4000


def test_a_status_is_known_however_it_is_written() -> None:
    assert Status.of("failed") is Status.of("FAILED") is Status.FAILED
    with pytest.raises(ConfigurationError, match="'broken'") as refused:
        Status.of("broken")
    assert "TIMED_OUT" in refused.value.hint


def test_the_table_of_codes_has_each_of_them_once() -> None:
    package = Path(errors.__file__).parent
    texts = [path.read_text() for path in package.rglob("*.py")]
    raised = {code for text in texts for code in re.findall(r"""\bcode=["']([A-Z_]{4,})["']""", text)}
    raised |= {code for text in texts for code in re.findall(r"""failure_of\([\w. ]+,\s*["']([A-Z_]+)["']""", text)}
    drawn = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b|\bSTUCK\b|\bENDLESS\b|\bTERMINAL\b", errors.__doc__ or ""))
    classes = {kind.code for kind in CLASSES.values() if "code" in vars(kind)} - {RedurableError.code}
    rows = re.findall(r"^\| (`[^|]*`) \|", (package.parent / "ERRORS.md").read_text(), re.MULTILINE)
    table = [code for row in rows for code in re.findall(r"`(\w+)`", row)]
    assert sorted(table) == sorted(set(table)), "each once"
    assert (raised | drawn | classes) - set(table) == set()
    others = "\n".join(texts + [path.read_text() for path in package.rglob("*.lua")])
    assert [code for code in table if code not in others] == [], "and none that nothing raises"
