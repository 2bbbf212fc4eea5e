"""Computes audits: a pure engine, and Celery around it."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
"""ONNX Runtime's wheels report models and their hashes to its maker from 1.29 on, unless told so before they load."""
