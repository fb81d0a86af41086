"""Crashes played for real: worker processes and servers that are killed, frozen and cut off, beside an outside ledger."""
