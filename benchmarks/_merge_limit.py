"""The limit: reads every file from start to end, then writes files of the same sizes, with fsync; computes nothing.

One process, the standard library only, one buffer. Its last line says how long both took, without Python's own start.
"""

import json
import os
import sys
import time
from pathlib import Path

_BUFFER = 16 << 20


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    buffer = memoryview(bytearray(_BUFFER))
    start = time.perf_counter()
    for path in job["read"]:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    middle = time.perf_counter()
    for name, sizes in job["write"].items():
        folder = Path(name)
        folder.mkdir(parents=True)
        for index, size in enumerate(sizes):
            with open(folder / f"{index}.bin", "wb", buffering=0) as file:
                while size:
                    size -= file.write(buffer[: min(size, _BUFFER)])
                os.fsync(file.fileno())
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    end = time.perf_counter()
    print(json.dumps({"phase_s": end - start, "read_s": middle - start, "write_s": end - middle}))


if __name__ == "__main__":
    main()
