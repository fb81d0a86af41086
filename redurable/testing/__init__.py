"""
Tests of handlers: in memory with `run` and `replay_check`, on a real server with the fixtures of the pytest plugin.

`run` needs no server and no time: the engine is the real one, the store a few lists, the clock virtual.

    from redurable import testing

    def test_it_completes():
        run = testing.run(handler, {"loaves": 2})
        assert run.result == ["loaf 1", "loaf 2"]

The fixtures, there as soon as redurable is installed: `redurable_server`, `redurable_client`, `redurable_worker`; see
`redurable.testing.plugin`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redurable.testing.replay import replay_check
    from redurable.testing.report import Run, StepRun
    from redurable.testing.story import RunOptions, run

__all__ = ["Run", "RunOptions", "StepRun", "replay_check", "run"]

# at their first use: pytest imports this package at every start, for the plugin in it
_HOMES = {"Run": "report", "RunOptions": "story", "StepRun": "report", "replay_check": "replay", "run": "story"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"redurable.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
