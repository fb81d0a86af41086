"""
Logs, metrics and probes: subscribers of `redurable.events`. Traces: the observer of `redurable.spans`.

Lower floors emit and gather; they count nothing.
"""
