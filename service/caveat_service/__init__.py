"""The HTTP API: stores requests, and publishes their jobs to the workers."""
