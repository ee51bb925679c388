"""The plain alternatives to a search, as data shares: what a chosen mixture has to beat."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from nemo_demix.artifacts import DataManifest, read_json
from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError, DemixError, MixtureError, found_by, near, refuse
from nemo_demix.mixture import check_simplex, token_proportional
from nemo_demix.training.jobs import final_name, final_seeds

CHOSEN = "mixture"  # the final run's name among its baselines
PUBLISHED = "demix"  # beside the baselines: what DeMix's published search ends with on the same proxies
HEURISTIC = "heuristic"  # where the configuration gives it
PLAIN_BASELINES = ("proportional", "equal", "unimax")


def baseline_shares(config: DemixConfig, manifest: DataManifest) -> dict[str, dict[str, float]]:
    """Return data shares of every baseline, by its name; `heuristic` only where the configuration gives it.

    Raises:
        ConfigError: if `search.unimax_epochs` is not above 0, or as `heuristic_shares`.
        MixtureError: if the heuristic is not on the simplex of the datasets, or there are no tokens.
    """
    tokens = {name: record.num_train_tokens for name, record in manifest.datasets.items()}
    shares = {
        "proportional": token_proportional(tokens),
        "equal": dict.fromkeys(tokens, 1.0 / len(tokens)),
        "unimax": unimax_shares(tokens, config.final.num_tokens, config.search.unimax_epochs),
    }
    if heuristic := heuristic_shares(config, list(tokens)):
        shares[HEURISTIC] = heuristic
    return shares


def baseline_errors(config: DemixConfig, others: Collection[str] = ()) -> Iterator[DemixError]:
    """Yield errors for baselines that do not exist or cannot be worked out: of the final run, of the floors, and the
    user's own.

    Args:
        others: What the strategy puts beside the baselines, which the final run may train on too.
    """
    own = (HEURISTIC,) if config.search.heuristic or config.search.heuristic_from is not None else ()
    known = (*PLAIN_BASELINES, *own)
    for name in config.final.baselines:
        if name not in (*known, *others):
            yield unknown_baseline(name, (*known, *others))
    yield from order_errors(config)
    if config.search.floor_baseline not in known:
        yield unknown_floor_baseline(config.search.floor_baseline, known)
    yield from found_by(lambda: heuristic_shares(config, list(config.datasets)))
    yield from epoch_errors(config.search.unimax_epochs)


def order_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield an error for data orders of a final run that nothing is compared with."""
    if config.final.seeds and not config.final.baselines:
        yield ConfigError(
            f"final.seeds={list(config.final.seeds)}: more data orders are for a comparison, and final.baselines is "
            "empty; name a baseline, or take the seeds out"
        )


def final_names(config: DemixConfig) -> list[str]:
    """Return the names of the models that `final` trains: the mixture and its baselines, each in every data order."""
    compared = [CHOSEN, *config.final.baselines]
    return [final_name(config, name, seed) for name in compared for seed in final_seeds(config)]


def unknown_baseline(name: str, known: Collection[str]) -> ConfigError:
    """Make the error for an unknown name under `final.baselines`."""
    return ConfigError(f"final.baselines: {name} is unknown; expected some of {', '.join(known)}{near(name, known)}")


def unknown_floor_baseline(name: str, known: Collection[str]) -> ConfigError:
    """Make the error for an unknown name under `search.floor_baseline`."""
    return ConfigError(f"search.floor_baseline={name}: expected one of {', '.join(known)}{near(name, known)}")


def epoch_errors(max_epochs: float) -> Iterator[DemixError]:
    """Yield errors for a bound on repetitions that leaves no data."""
    if not (math.isfinite(max_epochs) and max_epochs > 0):
        yield ConfigError(f"search.unimax_epochs={max_epochs}: expected a number of epochs above 0")


def heuristic_shares(config: DemixConfig, datasets: Sequence[str]) -> dict[str, float]:
    """Return the user's own data shares, or those that another run chose; empty where neither is given.

    Raises:
        ConfigError: as `given_heuristic`.
        MixtureError: if they are not on the simplex of the datasets.
    """
    shares = given_heuristic(config)
    what = "search.heuristic" if config.search.heuristic_from is None else "search.heuristic_from"
    return check_simplex(shares, datasets, what) if shares else {}


def given_heuristic(config: DemixConfig) -> dict[str, float]:
    """Return `search.heuristic`, or the data shares of the record that `search.heuristic_from` names, as they stand
    there.

    Raises:
        ConfigError: if both are given, or the file is no `mixture.json` of a mixture that passed its trust gates.
    """
    settings = config.search
    if settings.heuristic_from is None:
        return settings.heuristic
    key = f"search.heuristic_from={settings.heuristic_from}"
    if settings.heuristic:
        raise ConfigError(f"{key}: search.heuristic is set too; leave one of them out")
    if not Path(settings.heuristic_from).is_file():
        raise ConfigError(f"{key}: no such file; expected the search/mixture.json of a run whose search is done")
    record = read_json(Path(settings.heuristic_from))
    if not isinstance(record, dict) or not isinstance(record.get("data_shares"), dict):
        raise ConfigError(f"{key}: has no data_shares; expected the search/mixture.json of another run")
    failed = [gate["name"] for gate in (record.get("trust") or {}).get("gates", []) if gate["passed"] is False]
    if failed and not config.accept_untrusted:
        raise ConfigError(
            f"{key}: its mixture failed the trust gates {', '.join(failed)}; set accept_untrusted=true to take it"
        )
    shares: dict[str, float] = record["data_shares"]
    return shares


def unimax_shares(tokens_by_dataset: Mapping[str, int], num_tokens: int, max_epochs: float) -> dict[str, float]:
    """Work out shares as uniform as can be while no dataset is repeated more than `max_epochs` times.

    From the smallest dataset to the largest, each gets an equal part of the budget that is left, or all of its capped
    repetitions if these are less. Where the whole budget does not fit under the cap, the shares are in proportion to
    the tokens: every dataset is repeated equally often, and more often than the cap.

    Args:
        tokens_by_dataset: Training tokens of each dataset, not all 0.
        num_tokens: Token budget of the final run.

    Raises:
        ConfigError: if `max_epochs` is not a finite number above 0.
        MixtureError: if a count is negative or all are 0.

    Source: UniMax, Chung et al. 2023 (arXiv:2304.09151), algorithm 1.
    """
    refuse(epoch_errors(max_epochs))
    if min(tokens_by_dataset.values(), default=0) < 0 or not any(tokens_by_dataset.values()):
        raise MixtureError(f"token counts: expected counts >= 0, not all 0; found {dict(tokens_by_dataset)}")
    left = float(num_tokens)
    budgets = {}
    by_size = sorted(tokens_by_dataset, key=lambda name: (tokens_by_dataset[name], name))
    for index, name in enumerate(by_size):
        budgets[name] = min(left / (len(by_size) - index), max_epochs * tokens_by_dataset[name])
        left -= budgets[name]
    total = math.fsum(budgets.values())
    return {name: budgets[name] / total for name in tokens_by_dataset}
