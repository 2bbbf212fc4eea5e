"""Explanations as documents: which examples, at which atoms, drawn how, and what a figure says."""
