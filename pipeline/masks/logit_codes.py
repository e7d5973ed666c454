"""Logits in 8 bits: fine steps where a detector is unsure, and coarse ones that reach up to 16 where it is sure.

A logit x is stored as t = x / (4 + |x|), which 256 codes divide evenly. A step is 0.03 near 0, 0.2 at 8 and 0.4 at 12.
Codes from 128 on are positive logits. The first code stands for a probability of 0, the last one for 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_LOGIT: Final = 16.0
_SCALE: Final = 4.0
_MIDDLE: Final = 127.5
_STEP: Final = MOST_LOGIT / (_SCALE + MOST_LOGIT) / _MIDDLE

_SHARES = (np.arange(256) - _MIDDLE) * _STEP
LOGITS: Final[NDArray[np.float32]] = (_SCALE * _SHARES / (1 - np.abs(_SHARES))).astype(np.float32)
"""The logit of every code, (256,)."""


def logistic(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the probabilities of logits. Those of the negative logits are 1 minus these, to all digits."""
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


PROBABILITIES: Final[NDArray[np.float32]] = logistic(LOGITS)
"""The probability of every code, (256,), 0 and 1 included."""
PROBABILITIES[[0, -1]] = 0, 1


def log_odds(probability: NDArray[np.float32], complement: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits, at most `MOST_LOGIT` and at least its negative. complement: 1 - probability.

    Both are given since a float32 near 1 has too few digits to tell large logits from each other.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(probability, 0)) - np.log(np.maximum(complement, 0))
    limited: NDArray[np.float32] = np.clip(logits, -MOST_LOGIT, MOST_LOGIT)
    return limited


def encode_logits(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the codes of logits."""
    limited = np.clip(logits.astype(np.float64), -MOST_LOGIT, MOST_LOGIT)
    codes: NDArray[np.uint8] = np.rint(_MIDDLE + limited / (_SCALE + np.abs(limited)) / _STEP).astype(np.uint8)
    return codes


def codes_of_bytes(probabilities: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the codes of probabilities in 8 bits, where 255 is 1.0, as label stores of version 2 have them.

    255 stood for everything from 254.5 on, and 0 for everything below 0.5: 255 becomes the logit of half a step below
    1, so that it is no more than a step above 254.
    """
    return _CODES_OF_BYTES[probabilities]


def _codes_of_bytes() -> NDArray[np.uint8]:
    probability = np.minimum(np.arange(256), 254.5).astype(np.float32) / np.float32(255)
    return encode_logits(log_odds(probability, 1 - probability))


_CODES_OF_BYTES: Final = _codes_of_bytes()
