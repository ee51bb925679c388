"""Merged proxies in memory: any method's mixture, straight into a live, sharded model.

Each rank holds its own shards of every component; for methods that work element by element, of what they prepare: the
sparsified task vectors and the base, or the components and their second moments. A proxy is then arithmetic on resident
shards: no proxy on disk, no gather, no communication. Statistics of whole matrices, where a method asks for them, are
gathered once, from the checkpoints, by all ranks together.

Axes: M mixtures, K components, T rows that are held (the components, then the base where the method uses one; or what
the method prepares), N elements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from nemo_demix.checkpoints.metadata import Chunk
from nemo_demix.checkpoints.reader import CheckpointReader, stored_name
from nemo_demix.errors import CheckpointError
from nemo_demix.merging.geometry import BLOCK_ELEMENTS, Grid, Span
from nemo_demix.merging.kernel import Coefficients, all_within, padded, put
from nemo_demix.merging.methods import BlockMethod, LinearMethod, Method, Statistics
from nemo_demix.merging.passes import check_payloads, collect_matrices, matrices_of
from nemo_demix.merging.plan import MergePlan, Range, make_plan
from nemo_demix.merging.sources import open_sources
from nemo_demix.merging.stream import SourceBlocks
from nemo_demix.mixture import check_simplex
from nemo_demix.runtime.model import Shard, shards

_DEVICE_BLOCK = 1 << 24  # elements at a time on an accelerator, where launching costs more than memory traffic
Key = tuple[int, int]  # tensor, matrix


class _Region(NamedTuple):
    """Elements of a resident shard that belong to one logical matrix."""

    start: int
    stop: int
    key: Key


@dataclass(frozen=True)
class _Resident:
    shard: Shard
    values_TN: torch.Tensor  # sources in their stored dtype; or what the method prepared
    regions: tuple[_Region, ...]


class LiveProxies:
    """K component models resident beside one live model.

    Args:
        model: This rank's part of the model; its parameters are overwritten by `write`.
        components: Checkpoint of each component, by component name.
        method: How they are merged.
        base: The base model's checkpoint, where the method uses one.
        batch: How many announced mixtures are merged at a time; their weights are held until they are written.
    Raises:
        CheckpointError: if a component is of another architecture than the model, damaged, or without the second
            moments that the method uses.
    Memory: one shard of the model a source, in the stored dtype (fp32 for methods on task vectors; with second moments
        two a component), and `batch` - 1 more for the mixtures merged ahead.
    Collective: construction, where the method needs statistics.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        components: Mapping[str, Path],
        method: Method,
        base: Path | None = None,
        batch: int = 1,
    ) -> None:
        self.names = list(components)
        self._method, self._batch = method, batch
        sources, base_source = open_sources(components, base if method.uses_base else None, None, method.uses_moments)
        self._plan = make_plan(sources, base_source, method, {})
        self._statistics = _gather_statistics(self._plan)
        numbers = {tensor.name: number for number, tensor in enumerate(self._plan.tensors)}
        held = [replace(shard, name=stored_name(shard.name, numbers)) for shard in shards(model)]
        for shard in held:
            if shard.name not in numbers:
                raise CheckpointError(f"{sources[0].path}: has no tensor {shard.name}; it is of another architecture")
            shard.check(tuple(self._plan.tensors[numbers[shard.name]].shape), sources[0].path)
        if isinstance(method, BlockMethod):
            _check_share(self._plan)
            self._residents = _load_prepared(self._plan, method, self._statistics, held, numbers)
        else:
            self._residents = _load_sources(self._plan, held, numbers)
        self._announced: list[tuple[float, ...]] = []
        self._ahead: dict[tuple[float, ...], int] = {}  # merged already: which of the buffers
        self._buffers: list[list[torch.Tensor]] = []  # by resident

    @property
    def num_bytes(self) -> int:
        """Bytes of component weights this rank holds."""
        return sum(resident.values_TN.nbytes for resident in self._residents)

    def announce(self, mixtures: Sequence[Mapping[str, float]]) -> None:
        """Say which mixtures will be written next, so that `batch` of them can be merged from one read."""
        self._announced = [self._weights(mixture) for mixture in mixtures]
        self._ahead.clear()

    @torch.no_grad()
    def write(self, merge_weights: Mapping[str, float]) -> None:
        """Overwrite the model's parameters with the mixture.

        Sums in fp32, in the components' order, whatever the dtypes; a one-hot linear mixture is a copy, bit for bit.
        The same bits whether or not the mixture was announced.

        Raises:
            MixtureError: if the weights are not on the simplex of the components.
        """
        weights_K = self._weights(merge_weights)
        if weights_K in self._ahead:
            number = self._ahead.pop(weights_K)
            for resident, buffers in zip(self._residents, self._buffers, strict=True):
                resident.shard.view.view(-1).copy_(buffers[number])
            return
        some = [weights_K]
        if weights_K in self._announced:
            first = self._announced.index(weights_K)
            some = list(dict.fromkeys(self._announced[first : first + self._batch]))
        if len(some) > 1 and not self._buffers:  # made once: fresh memory costs more than the sums
            self._buffers = [
                [torch.empty_like(resident.shard.view.view(-1)) for _ in range(self._batch - 1)]
                for resident in self._residents
            ]
        outs = [[resident.shard.view.view(-1)] for resident in self._residents]
        for out_M, buffers in zip(outs, self._buffers, strict=False):
            out_M += buffers[: len(some) - 1]
        self._merge(np.array(some), outs)
        self._ahead = {weights: number for number, weights in enumerate(some[1:])}

    def _weights(self, merge_weights: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(check_simplex(merge_weights, self.names, "merge weights").values())

    def _merge(self, weights_MK: np.ndarray, outs: Sequence[Sequence[torch.Tensor]]) -> None:
        """Merge M mixtures: `outs` are, for each resident, M flat tensors to fill.

        Raises:
            CheckpointError: if a sum, or its dtype, overflows, or a component holds NaN or infinity.
        """
        coefficients: dict[Key, Coefficients] = {}
        scratch = _Scratch(len(self._plan.inputs), self._residents)
        for resident, out_M in zip(self._residents, outs, strict=True):
            within = []
            for region in resident.regions:
                statistics = self._statistics.get(region.key)
                for start in range(region.start, region.stop, scratch.size):
                    stop = min(start + scratch.size, region.stop)
                    if isinstance(self._method, LinearMethod):
                        key = region.key if self._method.needs_statistics else (0, 0)
                        if key not in coefficients:
                            values_MT = self._method.coefficients(weights_MK, statistics)
                            coefficients[key] = Coefficients(values_MT)
                        merged_MPD = coefficients[key].apply(scratch.widened(resident.values_TN[:, start:stop]))
                    else:
                        assert isinstance(self._method, BlockMethod)
                        prepared_T1N = resident.values_TN[:, None, start:stop].float()
                        merged_MPD = self._method.mix(prepared_T1N, weights_MK, statistics)
                    within.append(all_within(merged_MPD, out_M[0].dtype))
                    for out_N, merged_PD in zip(out_M, merged_MPD, strict=True):
                        put(merged_PD, out_N[start:stop])
            if within and not torch.stack(within).all():
                self._check_finite(resident, out_M)

    def _check_finite(self, resident: _Resident, out_M: Sequence[torch.Tensor]) -> None:
        count = sum(int((~out_N.isfinite()).sum()) for out_N in out_M)
        if not count:
            return
        kind = str(resident.shard.view.dtype).removeprefix("torch.")
        odd = [n for n, row_N in zip(self.names, resident.values_TN, strict=False) if not row_N.isfinite().all()]
        cause = f"as are some of {', '.join(odd)}" if odd else f"once they are summed and rounded to {kind}"
        raise CheckpointError(
            f"merge of {', '.join(self.names)}: {count} values of {resident.shard.name} are NaN or infinite, {cause}; "
            "leave that component out, or search with weights of a wider dtype"
        )


class _Scratch:
    """A buffer for one block of all sources."""

    def __init__(self, num_sources: int, residents: Sequence[_Resident]) -> None:
        device = residents[0].values_TN.device
        longest = padded(max(resident.values_TN.shape[1] for resident in residents))
        self.size = min(BLOCK_ELEMENTS if device.type == "cpu" else _DEVICE_BLOCK, longest)
        self._values_TN = torch.zeros(num_sources, self.size, device=device)

    def widened(self, sources_TN: torch.Tensor) -> torch.Tensor:
        """Return a block in fp32, padded with what was there before; overwritten by the next call."""
        count = sources_TN.shape[1]
        self._values_TN[:, :count].copy_(sources_TN)
        return self._values_TN[:, : padded(count)]


def _load_sources(plan: MergePlan, held: Sequence[Shard], numbers: Mapping[str, int]) -> list[_Resident]:
    readers = [CheckpointReader(source.path) for source in plan.sources]
    residents = []
    for shard in held:
        tensor = plan.tensors[numbers[shard.name]]
        values_TN = torch.empty((len(readers), shard.view.numel()), dtype=tensor.dtype)
        for row, reader in zip(values_TN, readers, strict=True):
            reader.read_slice(shard.name, shard.offsets, shard.sizes, row.view(shard.sizes))
        regions = _regions(plan, numbers[shard.name], shard)
        residents.append(_Resident(shard, values_TN.to(shard.view.device), regions))
    return residents


def _load_prepared(
    plan: MergePlan,
    method: BlockMethod,
    statistics: Mapping[Key, Statistics],
    held: Sequence[Shard],
    numbers: Mapping[str, int],
) -> list[_Resident]:
    """Prepare all sources once: whole rows are read, and this rank's part of what is made of them is kept."""
    blocks = SourceBlocks(plan, keep_crcs=False)
    residents = []
    for shard in held:
        number = numbers[shard.name]
        in_bf16 = method.keeps_bf16 and plan.tensors[number].dtype is torch.bfloat16
        dtype = torch.bfloat16 if in_bf16 else torch.float32
        values_TN = torch.empty((len(plan.inputs), shard.view.numel()), dtype=dtype)
        grid = _grid(plan, number, shard)
        for index, matrix in enumerate(plan.tensors[number].matrices):
            for first, end in matrix.runs:
                part = Range(number, index, first, end)
                for span in plan.blocks(part):
                    own = grid.pieces(span)
                    if not own:
                        continue
                    block = blocks.block(part, span)
                    blocks.check_finite(part, span, block.sources_TRC.flatten(1))
                    prepared_TRC = method.prepare(block, statistics.get((number, index)))
                    for piece in own:
                        place = slice(piece.start, piece.start + piece.size)
                        values_TN[:, place] = prepared_TRC[:, piece.rows, piece.columns].flatten(1)
        regions = _regions(plan, number, shard)
        residents.append(_Resident(shard, values_TN.to(shard.view.device), regions))
    blocks.close()
    return residents


def _grid(plan: MergePlan, tensor: int, shard: Shard) -> Grid:
    """Return the shard as the only chunk of a grid."""
    shape = plan.tensors[tensor].shape
    if len(shape) != len(shard.sizes) or any(
        offset + size > whole for offset, size, whole in zip(shard.offsets, shard.sizes, shape, strict=True)
    ):
        raise CheckpointError(
            f"{plan.template.path}: {shard.name} has shape {shape}, the model's part of it is {shard.sizes} at "
            f"{shard.offsets}; it is of another architecture"
        )
    return Grid(shape, [Chunk(shard.offsets, shard.sizes, "", 0, 0)], plan.tensors[tensor].rows.width)


def _regions(plan: MergePlan, number: int, shard: Shard) -> tuple[_Region, ...]:
    grid, tensor = _grid(plan, number, shard), plan.tensors[number]
    found = []
    for index, matrix in enumerate(tensor.matrices):
        for first, end in matrix.runs:
            for piece in grid.pieces(Span(first, end, 0, tensor.rows.width)):
                found.append(_Region(piece.start, piece.start + piece.size, (number, index)))
    assert sum(region.stop - region.start for region in found) == shard.view.numel(), f"{shard.name}: not covered"
    return tuple(sorted(found))


def _gather_statistics(plan: MergePlan) -> dict[Key, Statistics]:
    """Collect the statistics of all matrices; each rank gathers some, and all get all."""
    if not plan.method.needs_statistics:
        return {}
    rank, size = _rank()
    own = dict(collect_matrices(plan, matrices_of(plan, rank, size)))
    everyone: list[dict[Key, Statistics] | None] = [own]
    if size > 1:
        everyone = [None] * size
        torch.distributed.all_gather_object(everyone, own)
    return {key: value for some in everyone if some is not None for key, value in some.items()}


def _check_share(plan: MergePlan) -> None:
    """Compare this rank's share of all payloads with their CRCs: blocks of rows are read without."""
    check_payloads(plan, *_rank())


def _rank() -> tuple[int, int]:
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
