# /// script
# dependencies = ["langgraph", "langgraph-checkpoint-sqlite", "uvloop"]
# ///
"""LangGraph with its SQLite saver."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from typing import Any

from graph import LangGraph
from kit import STRICT
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver


class Sqlite(LangGraph):
    name = "LangGraph on SQLite"
    packages = ("langgraph", "langgraph-checkpoint-sqlite", "aiosqlite", "uvloop")
    settings = (
        ("one node that loops, a checkpoint after each", "docs.langchain.com/oss/python/langgraph/graph-api"),
        ('durability="sync"', "docs.langchain.com/oss/python/langgraph/durable-execution"),
        ("AsyncSqliteSaver, its write-ahead log", "pypi.org/project/langgraph-checkpoint-sqlite"),
        ("everysec: synchronous=NORMAL; always: FULL", "sqlite.org/pragma.html#pragma_synchronous"),
    )

    @contextlib.asynccontextmanager
    async def saver(self) -> AsyncIterator[Any]:
        with tempfile.TemporaryDirectory(prefix="bench-sqlite-") as directory:
            async with AsyncSqliteSaver.from_conn_string(f"{directory}/checkpoints") as saver:
                await saver.conn.execute(f"PRAGMA synchronous={'FULL' if STRICT else 'NORMAL'}")
                yield saver


SIDE = Sqlite()
