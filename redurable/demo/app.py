"""
Where the app of the demo is, and what the demo has to know of it.

It is `workers/etl` in a checkout; the wheel carries the same files as `redurable/demo/etl`. It is not a module of this
package, because it is run the way users run theirs: by its directory, importing nothing but public names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from redurable.errors import ConfigurationError

__all__ = ["QUEUE", "TARGET", "directory", "fingerprint", "load"]

TARGET = "etl:handler"
QUEUE = "etl.handler"


def directory() -> Path:
    """
    Return the directory of the app.

    Raises:
        ConfigurationError: It, or the data it needs, is not installed.
    """
    here = Path(__file__).resolve().parent
    found = next((p for p in (here / "etl", here.parents[1] / "workers" / "etl") if (p / "etl.py").is_file()), None)
    if found is None:
        raise ConfigurationError(
            "this installation has no demo: workers/etl is missing", hint="pip install --force-reinstall redurable"
        )
    if importlib.util.find_spec("airportsdata") is None:
        raise ConfigurationError(
            "the demo's data, the package airportsdata, is not installed", hint="pip install 'redurable[demo]'"
        )
    return found


def load() -> Any:
    """Return the app's module, imported into this process; its steps are ordinary functions here."""
    spec = importlib.util.spec_from_file_location("redurable_demo_etl", directory() / "etl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def fingerprint(module: Any, database: Path) -> tuple[str, int]:
    """Return the digest of every row of *database*, in sorted order, and how many they are."""
    digest, rows = hashlib.sha256(), 0
    for rows, line in enumerate(module.dump(str(database)), 1):  # noqa: B007  # the last count is the result
        digest.update(line.encode() + b"\n")
    return digest.hexdigest(), rows
