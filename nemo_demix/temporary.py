"""Where temporary folders go that have sockets in them."""

import os
import tempfile

_LONGEST = 107  # bytes of a socket's path, says Linux


def sockets_root(room: int) -> str:
    """Return the folder to make a temporary folder in: TMPDIR, or /tmp where that leaves too little for a socket.

    Args:
        room: Bytes of a socket's path beyond this folder.
    """
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) + room <= _LONGEST else "/tmp"
