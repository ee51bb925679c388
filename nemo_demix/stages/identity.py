"""What `verify` and `final` are made of, and their fingerprints: `status` and `launch` look at them too."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nemo_demix.artifacts import fingerprint
from nemo_demix.config import DemixConfig
from nemo_demix.errors import refuse
from nemo_demix.fidelity.record import FORMAT, macro_seeds_std
from nemo_demix.mixture import placed_otherwise
from nemo_demix.prepared import PreparedRun
from nemo_demix.scoring.identity import suite_fingerprint
from nemo_demix.search.baselines import CHOSEN, PUBLISHED, baseline_shares, order_errors, unknown_baseline
from nemo_demix.search.identity import proxy_identity
from nemo_demix.training.jobs import TrainJob

SAME = 1e-3  # of the data: mixtures that differ by less are one, for a final run


def proxy_kinds(config: DemixConfig) -> list[str]:
    """Return which stand-ins are compared with the references.

    Predictions can be mixed, but not by another merge method, nor for scores that need a model.
    """
    can_mix = config.merge.method == "linear" and not config.suite.tasks and not config.suite.external
    return ["merge", "predictions"] if can_mix else ["merge"]


def verify_fingerprint(run: PreparedRun, references: Sequence[TrainJob]) -> str:
    """Fingerprint everything that can change `verify/fidelity.json`."""
    config = run.config
    kinds = proxy_kinds(config)
    return fingerprint(
        references=[job.fingerprint for job in references],
        proxies=[proxy_identity(run, kind).fingerprint for kind in kinds],
        verify=asdict(config.verify),
        num_proxies=sum(config.search.iterations),
        max_failed_share=config.search.max_failed_share,
        capability_weights=config.search.capability_weights,
        format=FORMAT,
        seed=config.seed,
    )


def final_shares(run: PreparedRun, mixture: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return data shares of the final run and of its baselines, by name.

    A baseline that is the chosen mixture, but for less than `SAME` of the data, is left out: of the same model trained
    twice nothing can be learnt, and a final run is dear.

    Raises:
        ConfigError: if a baseline is unknown, or several data orders are asked for and no comparison.
    """
    refuse(order_errors(run.config))
    available, wanted = baseline_shares(run.config, run.manifest), run.config.final.baselines
    if PUBLISHED in mixture["baselines"]:
        available[PUBLISHED] = mixture["baselines"][PUBLISHED]["data_shares"]
    for name in wanted:
        if name not in available:
            raise unknown_baseline(name, available)
    chosen = mixture["data_shares"]
    others = {name: available[name] for name in wanted if placed_otherwise(chosen, available[name]) >= SAME}
    return {CHOSEN: chosen, **others}


def final_fingerprint(
    run: PreparedRun,
    mixture: dict[str, Any],
    jobs: Sequence[TrainJob],
    fidelity: dict[str, Any] | None,
) -> str:
    """Fingerprint everything that can change `final/result.json`."""
    return fingerprint(
        mixture=mixture["fingerprint"],
        models=[job.fingerprint for job in jobs],
        suite=suite_fingerprint(run.config.suite, run.manifest),
        seeds_std=macro_seeds_std(fidelity),
    )
