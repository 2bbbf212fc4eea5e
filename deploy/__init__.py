"""Builds the images and tries them out; nothing here is part of Caveat."""
