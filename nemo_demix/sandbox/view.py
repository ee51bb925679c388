"""The files a program sees, in a mount namespace: Python's own, read-only, and an empty scratch folder."""

import os
from collections.abc import Sequence

from nemo_demix.sandbox import kernel

_STAGE = "/tmp"  # any folder will do that every machine has
_OLD_ROOT = "old_root"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_FEW_FILES = 1000  # of a file system in memory, where each one takes some of the kernel's
_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV


def enter_root(readable: Sequence[str], hidden: Sequence[str], scratch: str) -> None:
    """Make a root of nothing but these folders, and leave the machine's own behind.

    Args:
        readable: Folders and files to be seen, read-only, where they are now.
        hidden: Folders in them of which only what is itself `readable` is to be seen.
        scratch: The folder that is to be a program's own; it is made here.
    Raises:
        OSError: if this process may not mount.
    """
    outer = [path for path in readable if not path.startswith(tuple(hidden))]
    places = {path: os.path.realpath(path) for path in readable}
    devices = [path for path in _DEVICES if os.path.exists(path)]
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", _STAGE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=0755,size=1m")
    os.mkdir(f"{_STAGE}/{_OLD_ROOT}")
    kernel.pivot_root(_STAGE, f"{_STAGE}/{_OLD_ROOT}")
    os.chdir("/")
    for path in outer:
        _bind_read_only(places[path], path)
    for path in hidden:
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=0755")
    for path in places.keys() - set(outer):
        _bind_read_only(places[path], path)
    for path in hidden:
        kernel.mount(None, path, None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)
    for path in devices:
        _bind(path, path)
    os.makedirs(scratch, exist_ok=True)
    kernel.umount(f"/{_OLD_ROOT}")
    os.rmdir(f"/{_OLD_ROOT}")
    kernel.mount(None, "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY)


def _bind(path: str, place: str) -> None:
    source = f"/{_OLD_ROOT}{path}"
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_RDONLY, 0o666))
    kernel.mount(source, place, None, kernel.MS_BIND | kernel.MS_REC)


def _bind_read_only(path: str, place: str) -> None:
    _bind(path, place)
    # A namespace of one's own user may not take a restriction off: noexec stays.
    restriction = os.statvfs(place).f_flag & kernel.MS_NOEXEC
    kernel.mount(None, place, None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY | restriction)


def mount_scratch(place: str, size_mib: int) -> None:
    """Mount an empty scratch folder in memory; it counts what the kernel keeps for its files."""
    options = f"size={size_mib}m,nr_inodes={_FEW_FILES},mode=1777"
    kernel.mount("tmpfs", place, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC, options)


def unmount_scratch(place: str) -> None:
    """Take the scratch folder away, with all that is in it."""
    kernel.umount(place)
