"""Bytes of a file by their place."""

import os

from nemo_demix.errors import CheckpointError


def read_into(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer from a place in a file.

    Raises:
        CheckpointError: if the file ends before it.
    """
    position = 0
    while position < len(buffer):
        count = os.preadv(descriptor, [buffer[position:]], offset + position)
        if count == 0:
            raise CheckpointError(
                f"a file ends at {offset + position}, {len(buffer) - position} bytes too early: it was cut short since "
                "its size was looked at"
            )
        position += count
