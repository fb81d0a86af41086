"""Crashes played for real: workers and servers that are killed, frozen and cut off, beside an outside ledger."""
