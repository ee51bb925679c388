"""Earlier proxies whose files a merge overwrites in place: their blocks on the disk are there already.

Only what a merge itself made to be overwritten is taken, and only while nobody has touched it since: a folder that was
renamed, copied, added to, linked into or written to is the user's.
"""

import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nemo_demix.errors import DemixError
from nemo_demix.merging.output import RECORD, load_output_record
from nemo_demix.merging.plan import MergePlan


def find_slots(plan: MergePlan, output: Path, asked: Collection[str]) -> list[Path]:
    """The folders that may be overwritten, the oldest first; none of those asked for."""
    shards = {str(plan.template.layout.weights_relative / file.name): file.num_bytes for file in plan.files}
    free = []
    for path in output.iterdir():
        if path.name in asked or path.name.startswith(".") or not path.is_dir():
            continue
        try:
            record = load_output_record(path)
        except DemixError:  # damaged: whatever it is, it is not ours to overwrite
            continue
        if record is None or not record.get("reusable") or record.get("mixture") != path.name:
            continue
        sizes = {name: entry["bytes"] for name, entry in record["files"].items() if name.endswith(".distcp")}
        if sizes == shards and _is_untouched(path, record):
            free.append(path)
    return sorted(free, key=lambda path: ((path / RECORD).stat().st_mtime_ns, path.name))


def _is_untouched(folder: Path, record: dict[str, Any]) -> bool:
    """Whether a folder holds the files of its record and nothing else, each its own, none written to since."""
    finished_ns = (folder / RECORD).stat().st_mtime_ns
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_mtime_ns > finished_ns:
            return False
        found[str(path.relative_to(folder))] = status.st_size
    found.pop(RECORD)
    return found == {name: entry["bytes"] for name, entry in record["files"].items()}
