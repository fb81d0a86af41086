"""
What Redis's error replies mean: wait and send it again, log in otherwise, or give the caller the error.

`PATIENCE` begins every reply that says "not now". Nothing of redis or hiredis passes this border.
"""

from __future__ import annotations

from redurable.errors import StoreError, StoreUnavailable

__all__ = ["PATIENCE", "refusal"]

# "BUSY " with its blank: BUSYGROUP and BUSYKEY are answers
PATIENCE = ("LOADING", "OOM", "MISCONF", "NOREPLICAS", "READONLY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "BUSY ")
_HINTS = {
    "OOM": "raise its maxmemory, or let finished intents be removed sooner; workers go on settling meanwhile",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "too few of its replicas are connected",
    "READONLY": "this is a replica: connect to the primary",
    "LOADING": "it is still reading its data from disk",
}


def refusal(reply: Exception) -> StoreError:
    """Return the error that a caller gets for an error reply."""
    text = str(reply).removeprefix("ERR ")  # an error inside a script bears it twice
    if text.startswith(PATIENCE):
        return StoreUnavailable(f"Redis holds commands back: {text}", hint=_HINTS.get(text.split(" ", 1)[0], ""))
    if text.startswith(("NOPERM", "NOAUTH")):
        return StoreUnavailable(
            f"Redis refused a command: {text}",
            code="AUTH_FAILED",
            hint="its user needs all keys and channels of the namespace: ACL SETUSER <user> ~rd:* &rd:* +@all -@admin",
        )
    if text.startswith("NOSCRIPT"):
        return StoreError(f"Redis refused a command: {text}", hint="its user must be allowed to run SCRIPT LOAD")
    return StoreError(f"Redis refused a command: {text}")
