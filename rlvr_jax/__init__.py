"""Reinforcement learning with verifiable rewards, in JAX."""
