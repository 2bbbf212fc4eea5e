"""Computes audits: a pure engine, and Celery around it."""
