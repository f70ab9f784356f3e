"""Formats of files that several parts of the host code read."""
