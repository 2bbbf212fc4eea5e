"""Decisions compared between groups of people."""
