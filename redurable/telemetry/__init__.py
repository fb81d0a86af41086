"""Logs and metrics: subscribers of `redurable.events`. Lower floors emit, never measure."""
