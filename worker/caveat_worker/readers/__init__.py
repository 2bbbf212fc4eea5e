"""Readers turn the bytes of an example set into arrays; one file and one row of `registry` for each kind of examples.

A reader is a function `(declared, *paths, seed) -> ExampleSource`. It checks names, sizes and shapes before it decodes
anything, and decodes only the examples of the current batch.
"""
