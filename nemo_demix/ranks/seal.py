"""Messages of a team that no other process can write: each carries a code that only this run's processes can work out.

The store that they pass through takes connections from anyone who reaches its port. The code covers the key a message
stands under, which has the launch, the group and the number in it, so that none can be put in the place of another.
"""

import hmac
import os
import secrets
import stat
from pathlib import Path

from nemo_demix.errors import ClusterError, ConfigError

VARIABLE = "NEMO_DEMIX_SECRET"  # of the tasks of one step; slurm/common.sh makes it anew for each
_BYTES = 32
_FEWEST_CHARACTERS = 32


class Seal:
    """Closes and opens messages with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Seal()"

    @property
    def hexadecimal(self) -> str:
        """The secret, for the environment of a process of this run."""
        return self._secret.hex()

    @staticmethod
    def random() -> "Seal":
        """Make a seal that nobody else has."""
        return Seal(secrets.token_bytes(_BYTES))

    @staticmethod
    def from_environment() -> "Seal":
        """Take a rank's seal out of its environment; what is started from here does not get it."""
        return Seal(bytes.fromhex(os.environ.pop(VARIABLE)))

    def derived(self, purpose: str) -> "Seal":
        """Make another seal, by which this one cannot be found."""
        return Seal(hmac.digest(self._secret, b"derive\0" + purpose.encode(), "sha256"))

    def close(self, key: str, payload: bytes) -> bytes:
        """Return the payload as it may be put under this key, and no other."""
        return self._code(key, payload) + payload

    def open(self, key: str, message: bytes) -> bytes:
        """Return the payload that stands under this key.

        Raises:
            ClusterError: if this run did not write it there.
        """
        code, payload = message[:_BYTES], message[_BYTES:]
        if not hmac.compare_digest(code, self._code(key, payload)):
            raise ClusterError(
                f"{key}: a message in this run's store that no process of the run has written there; nothing of it was "
                "used. Another process reaches MASTER_ADDR:MASTER_PORT, or the tasks were started with different "
                f"{VARIABLE}: look at who else is on these nodes, and run again"
            )
        return payload

    def _code(self, key: str, payload: bytes) -> bytes:
        name = key.encode()
        return hmac.digest(self._secret, len(name).to_bytes(8, "big") + name + payload, "sha256")


def shared_seal(folder: Path, nonce: bytes) -> Seal:
    """Make the seal of a team whose processes were started apart.

    Its secret is in their environment, or in a file that only the user can read.

    Args:
        folder: Folder of the file, which is made where there is none.
        nonce: Random bytes of this run: what was sealed in an earlier one does not open.
    Raises:
        ConfigError: if the secret is too short, or others can read the file.
    """
    given = os.environ.get(VARIABLE)
    if given is not None and len(given) < _FEWEST_CHARACTERS:
        raise ConfigError(f"{VARIABLE}: {len(given)} characters, expected at least {_FEWEST_CHARACTERS} random ones")
    secret = Seal(given.encode() if given is not None else _user_secret(folder / "team-secret"))
    step = [os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID")]
    return secret.derived("\0".join([*step, nonce.hex()]))


def _user_secret(path: Path) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.path.lexists(path):
            mine = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
            descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, secrets.token_bytes(_BYTES))
            os.fsync(descriptor)
            os.close(descriptor)
            try:
                os.link(mine, path)  # whole, and only if no other process of the team was faster
            except FileExistsError:
                pass
            finally:
                mine.unlink()
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}; the processes of a team share a secret there. Set {VARIABLE} to one random "
            "text in the environment of all of them (slurm/*.sbatch do), or make the folder writable"
        ) from None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        content = file.read(_BYTES + 1)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077 or len(content) != _BYTES:
        raise ConfigError(
            f"{path}: expected {_BYTES} bytes that only this user can read (mode 600), found {len(content)} of user "
            f"{found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}; delete it"
        )
    return content
