"""
Logs and metrics: subscribers of `redurable.events`. Traces: the observer of `redurable.spans`.

Lower floors emit, never measure.
"""
