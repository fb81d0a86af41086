"""
The benchmark suite: what this machine does, each figure beside the raw floor of the same run.

The product's side uses public names and real `redurable worker` processes; the floor is the bare multiplexer with a
script of record's commands and bytes. Machines and their moods differ, so a figure is judged by its ratio to the
floor measured right before it, and is the median of the repeats.
"""
