"""`python -m caveat` runs the command."""

from caveat.cli import main

main()
