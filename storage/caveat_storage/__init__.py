"""Storage: bytes by digest, and the database of jobs, keys, webhooks and the audit log."""
