"""Sight: what limits and the detector look at in a piece of readings, and whether a piece is worth the look."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from water.limits import LEAST_BASE_US, Limits
from water.parameter import PARAMETERS
from water.piece import Piece
from water.rulebook import Profiles
from water.trouble import ramps

_WIDTH = len(PARAMETERS)
_SAFELY = np.float32(0.999)  # a quick look may see too much, never too little


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """By parameter and reading. `judged`: what limits are compared with, each parameter's value, then each one's rate (NaN where
    there is none that counts). `gap`: history starts anew. `anchor`, `ratio`: what the rate was measured against, and how fast it
    was as the ratio to the limit."""

    judged: NDArray[np.float32]
    gap: NDArray[np.bool_]
    anchor: NDArray[np.float32]
    ratio: NDArray[np.float32]


def is_quiet(piece: Piece, limits: Limits, profiles: Profiles, profile: NDArray[np.intp]) -> bool:
    """Whether nothing is beyond a limit and nothing moved too fast. `profile`: that of each sensor."""
    past, anchors = piece.past, piece.past.anchors
    least = (limits.rate_suspect_per_us * (LEAST_BASE_US * _SAFELY)).astype(np.float32)
    if (np.abs(past.value - anchors.each(anchors.value)) > past.each(least)).any():
        return False
    asks_rates = profiles.asks_rates[profile].any()
    low, high = _of_readings(piece, profiles.low, profile), _of_readings(piece, profiles.high, profile)
    beyond = (piece.values < low[:_WIDTH]) | (piece.values > high[:_WIDTH])
    if beyond.any() and (beyond & piece.enters).any():
        return False
    if not asks_rates:
        return True
    rate = anchors.rate_per_hour(past.value, past.time_us)
    low, high = (np.broadcast_to(limit[_WIDTH:], piece.enters.shape)[piece.enters] for limit in (low, high))
    return not ((rate < low) | (rate > high)).any()


def _of_readings(piece: Piece, limit: NDArray[np.float32], profile: NDArray[np.intp]) -> NDArray[np.float32]:
    """The limit of each slot and reading, or of each slot alone where the sensors have one profile."""
    if (profile == profile[0]).all():
        return limit[profile[:1]].T
    return np.repeat(limit[profile].T, piece.counts, axis=1)


def see(piece: Piece, limits: Limits) -> Sight:
    """A closer look."""
    shape = piece.enters.shape
    judged = np.full((2 * _WIDTH, shape[1]), np.nan, np.float32)
    judged[:_WIDTH][piece.enters] = piece.past.value
    judged[_WIDTH:][piece.enters] = piece.past.anchors.rate_per_hour(piece.past.value, piece.past.time_us)
    anchor = np.full(shape, np.nan, np.float32)
    anchor[piece.enters] = piece.past.anchors.each(piece.past.anchors.value)
    gap = np.zeros(shape, np.bool_)
    gap[piece.enters] = np.isnan(piece.past.previous)
    ratio = np.abs(judged[_WIDTH:])
    ratio /= limits.rate_suspect_per_hour[:, None]
    return Sight(judged, gap, anchor, ratio)


def broken(
    sight: Sight, piece: Piece, profiles: Profiles, profile: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(index of the sensor, rule) of every rule of a sensor's profile, that is for a slot beyond some limit of the profile."""
    low, high = profiles.low[profile].T, profiles.high[profile].T
    beyond = sight.judged < np.repeat(low, piece.counts, axis=1)
    beyond |= sight.judged > np.repeat(high, piece.counts, axis=1)
    slot, sensor = np.nonzero(np.logical_or.reduceat(beyond, piece.starts, axis=1))
    key = profile[sensor] * len(beyond) + slot
    counts = profiles.offsets[key + 1] - profiles.offsets[key]
    return np.repeat(sensor, counts), profiles.members[np.repeat(profiles.offsets[key], counts) + ramps(counts)]
