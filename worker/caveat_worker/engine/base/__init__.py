"""Errors, threads, array types and the interface of an array store, for all other rooms."""
