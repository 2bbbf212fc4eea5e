"""Hostile input: every threat that docs/operations.md names, made by code."""
