"""Colours of a confidence: purple where a match is unsure, yellow where it is sure.

Lightness rises all the way, so that the order survives colour blindness and a grey printer. The stops follow
matplotlib's *plasma* without its dark end, which would vanish on a photograph.
"""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]

BACKGROUND: Colour = (22, 24, 29)
TEXT: Colour = (236, 238, 242)
FAINT: Colour = (158, 164, 176)

_STOPS = np.array([(156, 60, 214), (209, 74, 130), (240, 128, 78), (252, 184, 53), (244, 247, 84)], np.float64)


def ramp(confidence: np.ndarray, low: float, high: float = 1.0) -> np.ndarray:
    """Colours [N, 3] uint8 of confidences [N]; ``low`` and below are the first stop, ``high`` the last."""
    span = max(high - low, 1e-9)  # one confidence for all: the sure end would be as wrong as the other
    place = np.clip((np.asarray(confidence, np.float64) - low) / span, 0, 1) * (len(_STOPS) - 1)
    return (
        np.stack([np.interp(place, range(len(_STOPS)), channel) for channel in _STOPS.T], -1).round().astype(np.uint8)
    )


def css(colour: np.ndarray | Colour) -> str:
    """``#9c3cd6``."""
    red, green, blue = (int(part) for part in colour)
    return f"#{red:02x}{green:02x}{blue:02x}"
