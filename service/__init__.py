"""Who listens: the HTTP API, which keeps what is asked and lets the workers do it."""
