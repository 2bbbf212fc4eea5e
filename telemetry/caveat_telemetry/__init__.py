"""Logs and traces for operators. Metrics are counted in the database, by the service."""
