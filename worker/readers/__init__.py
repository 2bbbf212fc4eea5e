"""Readers turn the bytes of an example set into arrays; one file a kind of examples.

A reader is a function `(declaration, blob, seed) -> ExampleSource`. It checks names, sizes and shapes before it
decodes anything, and decodes only the examples it is asked for.
"""

from worker.readers.reading import ExampleSource, open_examples

__all__ = ["ExampleSource", "open_examples"]
