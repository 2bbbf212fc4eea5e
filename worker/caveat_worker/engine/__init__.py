"""Gradients, concepts and statistics on arrays: no queue, no web, no clock, no network."""
