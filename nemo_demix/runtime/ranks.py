"""Process groups for one stage: started once by us, then shared by every model the stage trains or scores.

Frameworks find them initialised and leave them alone, which is what lets several models be trained by one set of ranks
without paying imports and rendezvous again.

Importing this does not import torch: how many ranks there are is known before any is started.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_demix.config import ParallelConfig
from nemo_demix.errors import ConfigError, DemixError, refuse

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """This process among the others."""

    rank: int
    local_rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes records and logs."""
        return self.rank == 0


def world_size(parallel: ParallelConfig) -> int:
    """Return tensor x pipeline x data.

    Raises:
        ConfigError: if a size is below 1, or sizes do not divide.
    """
    refuse(layout_errors(parallel))
    return parallel.tensor * parallel.pipeline * parallel.data


def layout_errors(parallel: ParallelConfig) -> Iterator[DemixError]:
    """Yield errors for sizes below 1, or that do not divide."""
    small = [name for name in ("tensor", "pipeline", "data", "expert", "nodes") if getattr(parallel, name) < 1]
    for name in small:
        yield ConfigError(f"parallel.{name}={getattr(parallel, name)}: expected at least 1")
    if small:
        return
    # Experts are spread over the ranks of a pipeline stage in order, so that an expert group is either inside a
    # tensor group or made of whole ones.
    if parallel.tensor % parallel.expert and (
        parallel.expert % parallel.tensor or parallel.data % (parallel.expert // parallel.tensor)
    ):
        yield ConfigError(
            f"parallel.expert={parallel.expert}: expected a divisor of tensor {parallel.tensor}, or tensor "
            f"{parallel.tensor} x a divisor of data {parallel.data}; a pipeline stage has tensor x data = "
            f"{parallel.tensor * parallel.data} ranks to divide the experts between"
        )
    total = parallel.tensor * parallel.pipeline * parallel.data
    if total % parallel.nodes:
        yield ConfigError(
            f"parallel: tensor {parallel.tensor} x pipeline {parallel.pipeline} x data {parallel.data} = {total} ranks "
            f"do not divide over nodes={parallel.nodes}"
        )


def start_ranks(parallel: ParallelConfig, backend: str = "nemo") -> Ranks:
    """Join the process group that torchrun's environment describes, and make Megatron's groups in it.

    Args:
        backend: The framework that is to work in them.
    Raises:
        ConfigError: if the world has another size than the configuration.
    Collective: every rank.
    """
    import torch

    from nemo_demix.runtime.backend import backend_module

    framework = backend_module(backend)
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]))
    expected = world_size(parallel)
    if ranks.world_size != expected:
        raise ConfigError(
            f"WORLD_SIZE is {ranks.world_size}, but parallel.tensor={parallel.tensor} x pipeline={parallel.pipeline} x "
            f"data={parallel.data} is {expected}; change one of them"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())  # srun may show each task its own GPU only
        collectives = "nccl"
    else:
        torch.set_num_threads(1)
        framework.use_cpu()
        collectives = "gloo"
    torch.distributed.init_process_group(collectives, store=_store(), rank=ranks.rank, world_size=ranks.world_size)

    framework.start_groups(parallel, ranks)
    logger.info(
        "%d rank%s over %s: tensor %d x pipeline %d x data %d",
        ranks.world_size,
        "s" if ranks.world_size > 1 else "",
        collectives,
        parallel.tensor,
        parallel.pipeline,
        parallel.data,
    )
    return ranks


def _store() -> "torch.distributed.Store | None":
    """Return these ranks' own corner of the store that their launcher hosts; None where torchrun itself
    started them.
    """
    import torch

    world = os.environ.get("NEMO_DEMIX_WORLD")
    if world is None:
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.PrefixStore(world, torch.distributed.TCPStore(address, port, is_master=False))


def stop_ranks() -> None:
    """Leave the process group. Collective: every rank."""
    import torch

    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def from_rank_0(flag: bool) -> bool:
    """Return rank 0's flag, on every rank; it costs one small message. Collective: every rank."""
    import torch

    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    box = torch.tensor(int(flag), device=device)
    torch.distributed.broadcast(box, src=0)
    return bool(box.item())
