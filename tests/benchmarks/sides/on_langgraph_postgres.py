# /// script
# dependencies = ["langgraph", "langgraph-checkpoint-postgres", "psycopg[binary,pool]", "uvloop"]
# ///
"""LangGraph with its PostgreSQL saver."""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from graph import LangGraph
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

DATABASE = os.environ.get("BENCH_POSTGRES", "").format("langgraph")


class Postgres(LangGraph):
    name = "LangGraph on PostgreSQL"
    packages = ("langgraph", "langgraph-checkpoint-postgres", "psycopg", "uvloop")
    settings = (
        ("one node that loops, a checkpoint after each", "docs.langchain.com/oss/python/langgraph/graph-api"),
        ('durability="sync"', "docs.langchain.com/oss/python/langgraph/durable-execution"),
        (
            "AsyncPostgresSaver on a pool of 20, autocommit, prepare_threshold=0",
            "pypi.org/project/langgraph-checkpoint-postgres",
        ),
        (
            "everysec: synchronous_commit=off; always: PostgreSQL as it comes",
            "postgresql.org/docs/15/wal-async-commit.html",
        ),
    )

    @contextlib.asynccontextmanager
    async def saver(self) -> AsyncIterator[Any]:
        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(DATABASE, min_size=20, max_size=20, kwargs=options) as pool:
            yield AsyncPostgresSaver(pool)


SIDE = Postgres()
