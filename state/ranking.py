"""What comes first: scores or vectors enter, the places of the best or their nearness leave."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Measure = Literal["dot", "cosine", "euclidean"]


def top(scores: NDArray[np.float32], k: int, events: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Places of the k highest scores, best first; of equal ones, that with more events, then the earlier.

    -inf and NaN are never among them.

    >>> top(np.array([1, 3, -np.inf, 3], np.float32), 2, np.array([9, 1, 9, 2], np.uint32)).tolist()
    [3, 1]
    """
    places = np.flatnonzero(scores > -np.inf)
    if len(places) > k:
        edge = len(places) - k
        places = places[scores[places] >= np.partition(scores[places], edge)[edge]]
    order = np.lexsort((places, -events[places].astype(np.int64), -scores[places]))
    return places[order[:k]]


def compare(vectors: NDArray[np.float32], vector: NDArray[np.float32], by: Measure) -> NDArray[np.float32]:
    """Nearness of each of n vectors, higher is nearer: (n, d), (d,) → (n,).

    dot v·w; cosine v·w / |v||w|, 0 where a length is 0; euclidean -|v − w|.

    >>> compare(np.array([[3, 4], [0, 0]], np.float32), np.array([0, 1], np.float32), "cosine").tolist()
    [0.800000011920929, 0.0]
    """
    if by == "euclidean":
        difference = vectors - vector
        near: NDArray[np.float32] = -np.sqrt(np.einsum("ij,ij->i", difference, difference))
        return near
    dots: NDArray[np.float32] = vectors @ vector
    if by == "dot":
        return dots
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)) * np.sqrt(vector @ vector)
    cosine: NDArray[np.float32] = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0.0)
    return np.clip(cosine, np.float32(-1.0), np.float32(1.0))
