"""
The same work done by the peers, side by side: `uv run python -m tests.benchmarks`.

`sides/` has one small file per product, ours among them; each runs in an environment of its own. `runner` takes them
in turn, repeat by repeat and measure by measure, so that all see the same machine; `tables` makes medians and ratios
of what was recorded, `plot` the picture, from the same JSON.
"""
