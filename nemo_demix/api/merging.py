"""A merge from Python: what `nemo-demix merge` does, without a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_demix.checkpoints.store import checkpoint_path
from nemo_demix.config import MergeConfig
from nemo_demix.ranks.peers import find_peers
from nemo_demix.stages.merge import carry_out, plan_of

if TYPE_CHECKING:
    from nemo_demix.merging.merge import MergeReport


def merge(
    components: Mapping[str, str | Path],
    mixtures: Mapping[str, Mapping[str, float]],
    output: str | Path,
    *,
    method: str = "linear",
    parameters: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    seed: int = 0,
    dtype: str | None = None,
    any_weights: bool = False,
    workers: int | None = None,
    memory_gib: float = 1.0,
    force: bool = False,
    staging: str | Path = "staging",
) -> "MergeReport":
    """Merge Megatron checkpoints into one for each mixture, at `<output>/<mixture>/`, reading each component once.

    What is there already is left; a merge that was killed goes on. Under torchrun or srun every process calls it.

    Args:
        components: Checkpoints by name, of one model in any layout: folders, `s3://...` or `msc://...`, as `output`.
        mixtures: Merge weights by component, by name of the mixture; they sum to 1 unless `any_weights`.
        method: What `merge.method` would name; `parameters`, `base` and `seed` belong to it.
        dtype: fp32 | bf16 | fp16; None: as the components.
        workers: Processes here; None: one a core, at most 8.
        memory_gib: Memory of all processes here together; the merge is refused beforehand if it cannot be kept.
        force: Replace what another merge made.
        staging: A folder here, for at most 64 GiB of outputs at a time on their way to an object store.

    Returns:
        What was merged, and what it cost.

    Raises:
        ConfigError: if a setting is impossible.
        MixtureError: if a mixture is not one.
        CheckpointError: if a checkpoint is damaged, of another model, or something else stands in the output's place.
    Memory: as `memory_gib` says, whatever the size of the model.
    """
    settings = MergeConfig(
        method=method,
        parameters=dict(parameters or {}),
        seed=seed,
        dtype=dtype,
        any_weights=any_weights,
        workers=workers,
        memory_gib=memory_gib,
    )
    paths = {name: checkpoint_path(path) for name, path in components.items()}
    plan = plan_of(settings, paths, None if base is None else checkpoint_path(base), mixtures, "mixtures")
    return carry_out(plan, settings, checkpoint_path(output), Path(staging), force, find_peers())
