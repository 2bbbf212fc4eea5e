"""`python -m caveat` is the command, too."""

from caveat.cli import main

main()
