"""Fuzzing of what reads bytes that somebody sent."""
