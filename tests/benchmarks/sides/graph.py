"""
LangGraph's graph, for both of its savers: one node that loops, so that each step is a node and each node a checkpoint.

It runs in the process that calls it. `durability="sync"`: a checkpoint is stored before the next node starts.
"""

import contextlib
import itertools
import time
from typing import Any, TypedDict

from kit import RESULT, Steps
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph


class State(TypedDict):
    left: int
    result: str


class LangGraph(Steps):
    """A side; what differs is the saver."""

    in_process = True
    uvloop = True

    def saver(self) -> contextlib.AbstractAsyncContextManager[Any]:
        raise NotImplementedError

    async def launch(self) -> None:
        self.stack = contextlib.AsyncExitStack()
        saver = await self.stack.enter_async_context(self.saver())
        await saver.setup()
        self.times: dict[str, list[int]] = {}
        builder = StateGraph(State)
        builder.add_node("work", self.work)
        builder.add_edge(START, "work")
        builder.add_conditional_edges("work", lambda state: "work" if state["left"] else END)
        self.graph = builder.compile(checkpointer=saver)
        self.serial = itertools.count()

    async def stop(self) -> None:
        await self.stack.aclose()

    async def work(self, state: State, config: RunnableConfig) -> State:
        times = self.times.get(config["configurable"]["thread_id"])
        if times is not None:
            times.append(time.perf_counter_ns())
        return {"left": state["left"] - 1, "result": RESULT}

    async def start(self, handler: str, argument: Any) -> Any:
        thread = f"{time.time_ns()}-{next(self.serial)}"
        if handler == "timed":
            self.times[thread] = []
        config = {"configurable": {"thread_id": thread}, "recursion_limit": argument + 5}
        await self.graph.ainvoke({"left": argument, "result": ""}, config, durability="sync")
        if handler != "timed":
            return argument
        return [b - a for a, b in itertools.pairwise(self.times.pop(thread))]

    async def measure_kill(self, watch: float, **_: Any) -> dict[str, Any]:
        return {"value": None, "reason": "nobody watches"}
