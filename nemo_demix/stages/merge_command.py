"""`merge verify` and `merge inspect`, which need no recipe; looking at a checkpoint needs no torch either."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping

from nemo_demix.checkpoints.inspect import describe, print_summary
from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.stack import check_stack


def merge_command(arguments: list[str]) -> None:
    """Carry out `nemo-demix merge verify DIR` or `nemo-demix merge inspect PATH`: no recipe is needed."""
    parser = argparse.ArgumentParser(prog="nemo-demix merge")
    commands = parser.add_subparsers(dest="command", required=True)
    verifying = commands.add_parser("verify", help="recompute checksums, and merge a sample of rows again")
    verifying.add_argument("folder", help="a folder, s3://BUCKET/FOLDER or msc://PROFILE/FOLDER")
    verifying.add_argument("--tensors", type=int, default=16, help="how many tensors to merge a block of again")
    inspecting = commands.add_parser("inspect", help="show a checkpoint")
    inspecting.add_argument("path", help="a folder, s3://BUCKET/FOLDER or msc://PROFILE/FOLDER")
    inspecting.add_argument("--json", action="store_true", help="as JSON, for programs")
    parsed = parser.parse_args(arguments)
    if parsed.command == "inspect":
        summary = describe(checkpoint_path(parsed.path))
        if parsed.json:
            json.dump(_plain(summary), sys.stdout, indent=2)
            print()
        else:
            print_summary(summary)
        return
    check_stack("merge")
    from nemo_demix.merging.verify import verify

    found = verify(checkpoint_path(parsed.folder), parsed.tensors)
    print(f"{parsed.folder}: {found.num_files} files, {found.num_bytes / 2**30:.2f} GiB: every checksum holds")
    if found.not_compared is not None:
        print(f"rows not merged again: {found.not_compared}")
    else:
        print(f"{found.num_elements:,} elements of {found.num_tensors} tensors merged again from the sources: the same")


def _plain(value: object) -> Mapping[str, object]:
    return dataclasses.asdict(value)  # type: ignore[call-overload,no-any-return]
