"""What ranks can be asked to do. Every function is collective: every rank calls it with the same arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import DataManifest
from nemo_demix.config import DemixConfig
from nemo_demix.runtime.ranks import Ranks
from nemo_demix.training.jobs import component_jobs, load_model, select_jobs


def train(config: DemixConfig, manifest: DataManifest, task: dict[str, Any], ranks: Ranks) -> None:
    """Train the jobs of `task["jobs"]`: a list of (role, names)."""
    from nemo_demix.training.train import train_jobs

    for role, names in task["jobs"]:
        train_jobs(config, manifest, select_jobs(config, manifest, role, names), ranks)


def score(config: DemixConfig, manifest: DataManifest, task: dict[str, Any], ranks: Ranks) -> None:
    """Score the checkpoints of `task["targets"]`."""
    from nemo_demix.scoring.store import ScoreTarget, score_targets

    targets = [
        ScoreTarget(target["name"], Path(target["checkpoint"]), target["model_fingerprint"])
        for target in task["targets"]
    ]
    score_targets(config, manifest, targets, ranks)


def final(config: DemixConfig, manifest: DataManifest, task: dict[str, Any], ranks: Ranks) -> None:
    """Train the final models, score them, and compare, in the same ranks."""
    from nemo_demix.fidelity.outcome import write_outcome

    train(config, manifest, task, ranks)
    score(config, manifest, task, ranks)
    if ranks.is_main:
        write_outcome(config, manifest, task["fingerprint"])


def search(config: DemixConfig, manifest: DataManifest, task: dict[str, Any], ranks: Ranks) -> None:
    """The search, and how far its mixture is to be trusted."""
    from nemo_demix.fidelity.outcome import macro_seeds_std
    from nemo_demix.fidelity.report import load_fidelity
    from nemo_demix.fidelity.trust import trust_report
    from nemo_demix.search.record import write_mixture
    from nemo_demix.search.run import Noise, run_search
    from nemo_demix.search.space import search_folder

    components = component_jobs(config, manifest)
    fidelity = load_fidelity(config, components)
    shown = fidelity.get("benchmarks", {}).get("residual_std", {}) if fidelity else {}
    noise = Noise(macro_seeds_std(fidelity), {kind: stds["macro"] for kind, stds in shown.items()})
    found = run_search(config, manifest, components, ranks, noise)
    if found is not None:
        record, choice = found
        merged = record["proxy"] != "trained"
        records = [load_model(job) for job in components] if merged else []
        deltas = {model.name: model.delta for model in records if model.delta is not None}
        trust = trust_report(config, deltas, choice.cross_validation, fidelity if merged else {})
        write_mixture(search_folder(config), record | {"trust": trust}, choice)


def score_mixtures(config: DemixConfig, manifest: DataManifest, task: dict[str, Any], ranks: Ranks) -> None:
    """Score proxies of the mixtures of `task["mixtures"]`, of the kind `task["kind"]` (merge | predictions)."""
    from nemo_demix.search.run import run_mixtures

    kind = task.get("kind", "merge")
    run_mixtures(config, manifest, component_jobs(config, manifest), task["mixtures"], kind, ranks)


def verify(config: DemixConfig, manifest: DataManifest, task: dict[str, Any], ranks: Ranks) -> None:
    """Train references, then score them and the proxies of their mixtures, of every kind of `task["kinds"]`."""
    train(config, manifest, task, ranks)
    score(config, manifest, task, ranks)
    for kind in task["kinds"]:
        score_mixtures(config, manifest, {"mixtures": task["mixtures"], "kind": kind}, ranks)


TASKS: dict[str, Callable[[DemixConfig, DataManifest, dict[str, Any], Ranks], None]] = {
    "train": train,
    "score": score,
    "final": final,
    "search": search,
    "score_mixtures": score_mixtures,
    "verify": verify,
}
