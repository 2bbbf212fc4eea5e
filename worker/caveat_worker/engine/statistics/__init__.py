"""Resampling, p-values, intervals and corrections; nothing here knows what a concept or a model is."""
