"""The random numbers of a text: a function of its seed, its place and the step, and of nothing else."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014, "Fast Splittable Pseudorandom Number Generators")."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def stream_key(seed: int, stream: int) -> int:
    """The 64-bit key of one sequence's random numbers: they depend on (seed, stream) and nothing else."""
    with np.errstate(over="ignore"):
        first = _mix(np.array([seed], np.uint64) + _GOLDEN)
        return int(_mix(first + np.array([stream], np.uint64) * _GOLDEN)[0])


def uniforms(keys: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The steps[i]-th random number of stream keys[i]: float64 in [0, 1), 53 bits each.

    Counter-based: the number is a function of key and step, so a sequence draws the same ones alone, in any
    batch, and after the batch around it has changed.
    """
    with np.errstate(over="ignore"):
        bits = _mix(keys.astype(np.uint64) + (steps.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)) * 2.0**-53
