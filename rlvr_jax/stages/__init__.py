"""This package runs the stages of a config; only here do host code and device code meet."""
