"""The commands, each in a module of its name; what they have in common is in `group.py` and `options.py`.

A module imports what it runs only when it runs, so that `caveat --help`, which reads all of them, is quick.
"""
