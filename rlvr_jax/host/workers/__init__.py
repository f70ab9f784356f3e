"""Processes that may be killed: the pool of rules, the sandbox and its walls."""
