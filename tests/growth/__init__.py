"""What an operation costs, as more and more is queued, parked, finished, recorded or served."""
