"""What operators are told while it happens: logs and traces. Metrics are counted in the database, by the service."""
