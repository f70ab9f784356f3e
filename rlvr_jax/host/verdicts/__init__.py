"""Verdicts on answers: who gives them, how far they agree, and what is learned from them."""
