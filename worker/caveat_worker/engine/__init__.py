"""Gradients, concepts and statistics on arrays: no queue, no web, no clock, no network."""

from caveat_worker.engine.base.postponed import postpone

postpone()
