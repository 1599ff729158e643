"""Searching for a good recipe: trials over ranges of its keys, and the range test of learning rates."""
