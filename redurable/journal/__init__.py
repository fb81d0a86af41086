"""
The replay brain: what is recorded, how far it is applied, and what a handler's next call means.

Pure: no Redis, no clock, no IO. It takes entries and asks, and answers with decisions; the runtime carries them out.
Why replay gives the same run: a handler is deterministic between its durable calls; a completion takes effect only
when its entry is reached, in the order of the journal, and only when the handler has come to rest after the one
before. That rule is the same live and on replay, so every task sees the same completions in the same order.
"""
