"""Runs jobs: Celery tasks, the supervisor and its sandboxed child processes, the reaper, the webhook sender."""
