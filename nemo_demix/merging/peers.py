"""The processes that torchrun or srun started for one command, as a merge has them: apart until they meet to agree."""

import datetime
from dataclasses import dataclass

from nemo_demix.errors import DemixError


class PeerFailure(RuntimeError):
    """Another process of the merge failed, or was lost."""


@dataclass(frozen=True)
class Peers:
    """This process, number `rank` of `size`; the others are met through torch.distributed where there are any."""

    rank: int = 0
    size: int = 1

    def join(self) -> None:
        """Connect; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are in the environment. Collective."""
        if self.size > 1:
            import torch

            # Workers of different machines finish at different times; a lost one breaks its connections at once.
            torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))

    def agree(self, error: Exception | None) -> None:
        """Wait for everyone; raise if anyone failed. Collective.

        Raises:
            Exception: this process's own error.
            DemixError: a user's mistake that another process found.
            PeerFailure: any other failure of another process.
        """
        errors: list[tuple[bool, str] | None] = [None] * self.size
        if self.size > 1:
            import torch

            own = None if error is None else (isinstance(error, DemixError), str(error))
            try:
                torch.distributed.all_gather_object(errors, own)
            except RuntimeError as lost:
                raise error or PeerFailure(f"another process of the merge was lost: {lost}") from None
        if error is not None:
            raise error
        for rank, found in enumerate(errors):
            if found is not None:
                raise DemixError(found[1]) if found[0] else PeerFailure(f"process {rank} failed: {found[1]}")

    def total(self, number: int) -> int:
        """Return the sum of a number over all processes. Collective."""
        numbers: list[int] = [number] * self.size
        if self.size > 1:
            import torch

            torch.distributed.all_gather_object(numbers, number)
        return sum(numbers)

    def leave(self) -> None:
        """Disconnect."""
        if self.size > 1:
            import torch

            torch.distributed.destroy_process_group()
