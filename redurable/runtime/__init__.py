"""What user code calls, and one attempt at an intent from claim to settle."""
