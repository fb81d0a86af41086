"""
`redurable` and `python -m redurable`: the command line; and what `redurable worker` starts.

The processes of a worker have no command line: `worker-process` alone starts without the imports of one, which take
as long as half of its own.
"""

import sys


def _worker_process() -> int:
    """Be one process of `redurable worker`; return the exit code."""
    from redurable.errors import RedurableError

    try:
        from redurable.telemetry import counting, exporting, logs
        from redurable.worker.process import child_options, run_child

        options = child_options()
        logs.start(options.log_format)
        exporting.trace_worker(options.target)
        if options.metrics_port is not None:
            counting.count(options.worker_id)
        return run_child()
    except KeyboardInterrupt:
        return 130
    except RedurableError as error:
        from redurable.cli.output import complain

        return complain(error)


def main() -> None:
    """Run what the words say, and end the process."""
    if sys.argv[1:] == ["worker-process"]:
        sys.exit(_worker_process())
    try:
        from redurable.cli import main as command_line
    except KeyboardInterrupt:
        sys.exit(130)  # Ctrl+C while it is imported, which takes as long as many a command
    command_line()


if __name__ == "__main__":
    main()
