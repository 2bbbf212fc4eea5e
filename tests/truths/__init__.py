"""Audits of models about which the right answer is known."""
