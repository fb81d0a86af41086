"""
The README's section "Testing", taken at its word: its files in a directory of their own, run by a pytest that knows
nothing but what is installed; then async tests, with each of the usual plugins.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def files() -> dict[str, str]:
    """The section's files by their names."""
    section = re.search(r"^## Testing\n(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section
    return dict(re.findall(r"`(\w+\.py)`:\n\n```python\n(.*?)```", section[1], re.DOTALL))


def pytest_in(directory: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"{done.stdout}\n{done.stderr}"


def test_the_files_of_the_readme_pass_as_a_project_of_their_own(tmp_path: Path) -> None:
    texts = files()
    assert set(texts) == {"shop.py", "test_shop.py"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    tests = texts["test_shop.py"].count("\ndef test_")
    said = pytest_in(tmp_path)
    assert f"{tests} passed" in said, said


ASYNC = """
import pytest
from redurable import Client, step

@step
async def double(n: int) -> int:
    return 2 * n

async def handler(payload: int) -> int:
    return await double(payload)

@pytest.mark.anyio
async def test_it(redurable_worker):
    redurable_worker(handler)
    async with Client() as client:
        assert await client.call(handler, 21, timeout=60) == 42

@pytest.mark.anyio
async def test_in_memory():
    from redurable import testing
    assert testing.run(handler, 21).result == 42
"""


def test_the_fixtures_serve_the_async_tests_of_anyios_plugin_and_of_pytest_asyncio(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
    )
    (tmp_path / "test_anyio.py").write_text(ASYNC)
    (tmp_path / "test_asyncio.py").write_text(ASYNC.replace("mark.anyio", "mark.asyncio"))
    said = pytest_in(tmp_path, "-o", "asyncio_mode=strict")
    assert "4 passed" in said, said


def test_without_a_server_a_test_is_told_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conftest.py").write_text("from redurable.store import binary\n\nbinary.bundled = lambda: None\n")
    (tmp_path / "test_it.py").write_text("def test_it(redurable_client):\n    redurable_client.list()\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    said = pytest_in(tmp_path)
    assert "NO_SERVER" in said, said
    assert "redurable[embedded]" in said
    assert "REDURABLE_TEST_URL" in said
    assert "Traceback" not in said
