"""`run`: all stages in order; each skips what is done. A stage is imported when its turn comes."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemo_demix.artifacts import canonical_json, read_json_lines
from nemo_demix.config import DemixConfig
from nemo_demix.config.stages import STEPS
from nemo_demix.stages.outlook import Outlook
from nemo_demix.stages.watch import MemoryWatch
from nemo_demix.terminal import expect

logger = logging.getLogger(__name__)


def run_stages(config: DemixConfig) -> None:
    """Run all stages, from text to a final model; what each took in this call is added to `timing.jsonl`."""
    path = config.run_dir / "timing.jsonl"
    steps: dict[str, Callable[[DemixConfig], object]] = {
        "prepare": _prepare,
        "train": _train,
        "search": _search,
        "final": _final,
    }
    outlook = Outlook(config)
    expect(outlook)
    for name in STEPS:
        started = time.monotonic()
        outlook.stage = name
        to_do = outlook().removeprefix("then ")
        logger.info("== %s%s", name, f" ({to_do})" if to_do else "")
        with MemoryWatch() as memory:
            steps[name](config)
        row = {
            "stage": name,
            "wall_time_s": round(time.monotonic() - started, 1),
            "peak_memory_gib": round(memory.peak_gib, 2),
        }
        with open(path, "a", encoding="utf-8") as file:
            file.write(canonical_json(row) + "\n")
    logger.info("wall time and peak memory, of all calls of this run: %s", spent(read_json_lines(path)))


def spent(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what all calls took of each stage: one that found it done costs nothing, and takes nothing from what it
    cost.
    """
    parts = []
    for name in dict.fromkeys(row["stage"] for row in rows):
        some = [row for row in rows if row["stage"] == name]
        seconds, peak = sum(row["wall_time_s"] for row in some), max(row["peak_memory_gib"] for row in some)
        parts.append(f"{name} {seconds:.0f} s ({peak:.1f} GiB)")
    return ", ".join(parts)


def _prepare(config: DemixConfig) -> None:
    from nemo_demix.stages.prepare import prepare_stage

    prepare_stage(config)


def _search(config: DemixConfig) -> None:
    from nemo_demix.stages.search import search_stage

    search_stage(config)


def _final(config: DemixConfig) -> None:
    from nemo_demix.stages.final import final_stage

    final_stage(config)


def _train(config: DemixConfig) -> None:
    """Train the base, and the components where the strategy merges them."""
    from nemo_demix.prepared import PreparedRun
    from nemo_demix.search.strategies import strategy_of
    from nemo_demix.stages.models import train_all_components, train_jobs_if_needed

    run = PreparedRun.open(config)
    if strategy_of(config.search).mixes_components():
        train_all_components(run)
    else:
        train_jobs_if_needed(run, [("base", [run.base])])
