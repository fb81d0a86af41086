"""Tables on terminals: what names something stays whole in one line, however narrow the terminal is."""

from __future__ import annotations

import re
import sys

import pytest

from tests.cli.conftest import Cli


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_ids_states_and_headings_stay_whole(cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    queue = "a-queue-with-a-rather-long-name.of-a-handler"
    intent = cli("send", queue, "1", "--json").json["id"]
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    heading, _, *rows = plain(cli("intents", "list", "-q", queue).out)
    assert heading.split()[0] == "id"
    assert "status" in heading
    assert intent in {row.split()[0] for row in rows}
    assert "SUBMITTED" in rows[0]
    assert all(len(line) <= width for line in (heading, *rows)), rows
    assert (queue in rows[0]) == (width == 160)
    assert ("last step" in heading) == (width == 160)
    heading, _, *rows = plain(cli("queues").out)
    assert heading.split()[:3] == ["queue", "queued", "running"]
    assert next(row.split()[1] for row in rows if row.startswith("a-queue")).isdigit(), rows
    assert all(len(line) <= width for line in (heading, *rows)), rows


def plain(text: str) -> list[str]:
    """Return the lines of a table without colours and blank lines."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if line.strip()]
