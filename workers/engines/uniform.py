"""Random numbers that depend on nothing but a seed and a position."""

import numpy as np
from numpy.typing import NDArray

from workers.engines.native.wire import Ids

# The golden ratio in 64 bits, and the multipliers of the finalizer.
GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)


def uniform(seeds: NDArray[np.uint64], positions: Ids) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair of a seed and a position, both of the shape (rows,).

    The ``position``-th number of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", 2014) that starts at the mixed seed: neighbouring seeds have nothing in
    common. A row's numbers are the same in any company, and again after a preemption.
    """
    states = _mixed(seeds) + (positions.astype(np.uint64) + np.uint64(1)) * GAMMA
    # The 53 bits that a float64 has room for.
    return np.ldexp((_mixed(states) >> np.uint64(11)).astype(np.float64), -53)


def _mixed(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    states = (states ^ (states >> np.uint64(30))) * FIRST
    states = (states ^ (states >> np.uint64(27))) * SECOND
    return states ^ (states >> np.uint64(31))
