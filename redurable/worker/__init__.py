"""A worker process: one file a loop, all started and stopped alike, and the supervisor of several processes."""
