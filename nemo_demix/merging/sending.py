"""A finished output of a merge, sent to an object store so that half of it is never taken for a checkpoint.

    ADDRESS/.sending-<mixture>.json   first: what will stand below, so that what an interruption left is known as ours
    ADDRESS/<mixture>/...             shards and small files, then what a checkpoint is recognised by
    ADDRESS/<mixture>/merge.json      last; then the first is removed

A store has no rename. A large object is sent in parts, and is there when the last of them is.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import canonical_json, parse_json
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.store import StorePath
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.merging.output import RECORD, load_output_record

logger = logging.getLogger(__name__)

_AT_ONCE = 4  # objects; the parts of a large one are sent side by side, too
# Without these no reader takes a folder for a checkpoint; the trackers name one to whoever looks for the newest.
_LAST = (".metadata", "metadata.json", "latest_train_state.pt", "latest_checkpointed_iteration.txt")


def send(folder: Path, target: StorePath) -> None:
    """Send a finished output. Where this was interrupted before, it is done again from the start.

    Raises:
        CheckpointError: if something else stands there, or the store refuses.
    """
    record = load_output_record(folder)
    assert record is not None, folder
    check_free(target, record["fingerprint"])
    sizes = {name: int(entry["bytes"]) for name, entry in record["files"].items()}
    marker = _marker(target)
    marker.write_bytes(canonical_json({"fingerprint": record["fingerprint"], "files": sorted(sizes)}).encode())
    logger.info("merge: sending %s to %s (%.2f GiB)", folder.name, target, sum(sizes.values()) / 2**30)
    late = sorted((name for name in sizes if Path(name).name in _LAST), key=lambda name: _LAST.index(Path(name).name))
    early = sorted(set(sizes) - set(late))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: (target / name).send(folder / name), early))
    _check_sizes(target, {name: sizes[name] for name in early})
    for name in late:
        (target / name).send(folder / name)
    _check_sizes(target, sizes)
    (target / RECORD).send(folder / RECORD)
    marker.unlink(missing_ok=True)


def is_sent(target: StorePath, fingerprint: str) -> bool:
    """Tell whether this very output stands at an address, whole.

    Raises:
        CheckpointError: if something else does.
    """
    record = load_output_record(target)
    if record is not None and record["fingerprint"] == fingerprint:
        _marker(target).unlink(missing_ok=True)  # where it was killed just before that
        return True
    if record is not None:
        raise CheckpointError(
            f"{target}: was merged from other sources, weights or settings (see its {RECORD}); nothing is overwritten "
            "in an object store: set another merge.output, rename the mixture, or remove it there"
        )
    check_free(target, fingerprint)
    return False


def check_free(target: StorePath, fingerprint: str) -> None:
    """Refuse an address at which anything stands but what an interrupted `send` of this very output left.

    Raises:
        CheckpointError: naming it.
    """
    if target.is_file():
        raise CheckpointError(f"{target}: exists, and is no folder; set another merge.output, or rename the mixture")
    found = {str(path) for path in target.states()}
    sent = _being_sent(target) if found else None
    ours = {*sent["files"], RECORD} if sent is not None and sent["fingerprint"] == fingerprint else set()
    if foreign := sorted(found - ours):
        raise CheckpointError(
            f"{target}: {foreign[0]} stands there, and this merge did not send it; nothing is overwritten in an object "
            "store. Set another merge.output, rename the mixture, or remove what is there"
        )


def _marker(target: StorePath) -> StorePath:
    marker = target.with_name(f".sending-{target.name}.json")
    assert isinstance(marker, StorePath)
    return marker


def _being_sent(target: StorePath) -> Mapping[str, Any] | None:
    """Return what the marker beside an address says; None where there is none, or it is another's."""
    marker = _marker(target)
    try:
        found = parse_json(read_file(marker.parent, marker), marker)
    except FileNotFoundError:
        return None
    except CheckpointError:
        raise
    except DemixError:  # no JSON
        return None
    is_ours = isinstance(found, dict) and isinstance(found.get("files"), list) and "fingerprint" in found
    return found if is_ours else None


def _check_sizes(target: StorePath, sizes: Mapping[str, int]) -> None:
    there = {str(path): state[0] for path, state in target.states().items()}
    for name, size in sizes.items():
        if there.get(name) != size:
            raise CheckpointError(
                f"{target / name}: the store has {there.get(name, 'nothing')}, {size} bytes were sent; run the same "
                "command again"
            )
