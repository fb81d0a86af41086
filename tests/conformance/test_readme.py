"""The table of the scenarios is whole."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_the_table_names_every_test_and_no_other() -> None:
    named = re.findall(r"`(test_\w+)`", (HERE / "README.md").read_text())
    sources = [path.read_text() for path in HERE.glob("test_*.py") if path.name != "test_readme.py"]
    written = [name for source in sources for name in re.findall(r"^async def (test_\w+)", source, re.MULTILINE)]
    assert sorted(named) == sorted(written)
