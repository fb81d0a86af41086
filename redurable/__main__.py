"""`python -m redurable`: the command line, for where its script is not on PATH."""

from redurable.cli import main

main()
