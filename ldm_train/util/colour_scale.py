"""The colours of heatmaps and of maps of attention."""

import numpy as np
from numpy.typing import NDArray

# Viridis: from dark violet to yellow, perceptually uniform, also in grey.
COLOUR_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def colour_shares(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the colours (3, H, W) of shares (H, W) from 0, the darkest, to 1."""
    places = np.linspace(0, 1, len(COLOUR_STOPS))
    channels = [np.interp(shares, places, [stop[channel] for stop in COLOUR_STOPS]) for channel in range(3)]
    return np.stack(channels).round().astype(np.uint8)


def mix_colour(share: float) -> str:
    """Return the CSS colour of a share from 0, the darkest, to 1."""
    place = max(0.0, min(1.0, share)) * (len(COLOUR_STOPS) - 1)
    first = min(int(place), len(COLOUR_STOPS) - 2)
    mixed = [round(a + (b - a) * (place - first)) for a, b in zip(COLOUR_STOPS[first], COLOUR_STOPS[first + 1], strict=True)]
    return "#" + "".join(f"{part:02x}" for part in mixed)
