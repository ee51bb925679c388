"""Merging into memory, against what memory itself takes to be read and written so much."""

import time
from statistics import median
from typing import Any

import numpy as np

_PIECE = 128 << 10  # bytes: stays in the cache of one core


def memory_limit(num_components: int, component_bytes: int, proxy_bytes: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds to read `num_components` resident components and to write one proxy, one thread, nothing computed.

    Reading is copying, piece by piece, into a buffer that stays in the cache; writing is copying such a buffer out.
    Memory: all components and one proxy.
    """
    components = [np.full(component_bytes, index, dtype=np.uint8) for index in range(num_components)]
    proxy = np.full(proxy_bytes, 0xFF, dtype=np.uint8)  # written, so that its pages are there
    buffer = np.zeros(_PIECE, dtype=np.uint8)
    rows = []
    for repeat in range(repeats):
        start = time.perf_counter()
        for component in components:
            for offset in range(0, component_bytes, _PIECE):
                piece = component[offset : offset + _PIECE]
                np.copyto(buffer[: piece.size], piece)
        middle = time.perf_counter()
        for offset in range(0, proxy_bytes, _PIECE):
            piece = proxy[offset : offset + _PIECE]
            np.copyto(piece, buffer[: piece.size])
        end = time.perf_counter()
        rows.append(
            {
                "contender": "memory",
                "repeat": repeat,
                "read_s": middle - start,
                "write_s": end - middle,
                "phase_s": end - start,
            }
        )
    return rows


def median_phase_s(rows: list[dict[str, Any]]) -> float:
    """The median of `phase_s`."""
    return median(row["phase_s"] for row in rows)
