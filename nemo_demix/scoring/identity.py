"""What a suite's scores are for, and all that can change one besides the model: known without building anything.

Names of scores: `benchmark/<name>`, `benchmark/<name>:judged` (of items that no search saw), `task/<name>`,
`external/<command>/<name>`, `heldout/<name>`; all but the last kind belong to a capability.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from nemo_demix.artifacts import DataManifest, fingerprint
from nemo_demix.config import SuiteConfig
from nemo_demix.errors import DemixError, ScoreError
from nemo_demix.scoring.external.settings import external_fingerprints, external_scores
from nemo_demix.scoring.harness.identity import task_fingerprints

FORMAT = 2  # raise when requests are built or scored in a way that earlier scores do not share
JUDGED = ":judged"  # after a benchmark's name: the items of suite.judged_items
PROXY_USES = ("search", "fit")  # of the benchmarks that a search may see
EMPTY = "the suite is empty: set suite.tasks, suite.benchmarks or suite.external, or suite.heldout_tokens above 0"
_JUDGES = ("report", "search", "fit")  # a capability's average is over its benchmarks of the first use that it has


@dataclass(frozen=True)
class JudgedScore:
    """A score that is part of a capability.

    Attributes:
        use: search (in the objective), fit (predicted, not in it) or report (only judges the choice).
        weight: Weight in its capability's average.
    """

    capability: str
    use: str = "search"
    weight: float = 1.0


def judged_scores(
    config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None
) -> dict[str, JudgedScore]:
    """Return every benchmark, task and external score of the suite, by score name.

    Args:
        uses: Uses of those to include: PROXY_USES for a search; None: all.
    """
    found = {}
    for name, record in manifest.benchmarks.items():
        use = config.benchmarks[name].use if name in config.benchmarks else "search"
        found[f"benchmark/{name}"] = JudgedScore(record.capability, use)
        if use == "search" and config.judged_items:
            found[f"benchmark/{name}{JUDGED}"] = JudgedScore(record.capability, "report")
    for name, task in config.tasks.items():
        found[f"task/{name}"] = JudgedScore(task.capability, task.use, task.weight)
    for name, external in external_scores(config).items():
        found[name] = JudgedScore(external.capability, external.use, external.weight)
    return {name: score for name, score in found.items() if uses is None or score.use in uses}


def suite_errors(config: SuiteConfig) -> Iterator[DemixError]:
    """Yield errors for a suite that scores nothing, or whose texts have no room, by the configuration alone."""
    yield from length_errors(config)
    if not (config.benchmarks or config.tasks or config.external or config.heldout_tokens):
        yield ScoreError(EMPTY)


def length_errors(config: SuiteConfig) -> Iterator[DemixError]:
    """Yield errors for texts without room for a question and its answer."""
    if config.max_length < 16:
        yield ScoreError(f"suite.max_length={config.max_length}: expected at least 16 tokens")


def declared_capabilities(config: SuiteConfig, uses: Collection[str] | None = None) -> dict[str, str]:
    """Return the capability of every benchmark, task and external score, by its key: known before anything is prepared.

    Args:
        uses: Uses of those to include: PROXY_USES for a search; None: all.
    """
    found: dict[str, tuple[str, str]] = {
        f"suite.benchmarks.{name}": (one.capability, one.use) for name, one in config.benchmarks.items()
    }
    found |= {f"suite.tasks.{name}": (one.capability, one.use) for name, one in config.tasks.items()}
    for key, external in config.external.items():
        found |= {
            f"suite.external.{key}.scores.{name}": (one.capability, one.use) for name, one in external.scores.items()
        }
    return {key: capability for key, (capability, use) in found.items() if uses is None or use in uses}


def averaged_scores(judged: Mapping[str, JudgedScore]) -> dict[str, JudgedScore]:
    """Take the scores that the capabilities' averages are over.

    These are the capability's `report` ones where there are any, else its `search` ones, else `fit`: so a finished
    model is judged on what nothing was tuned on, and a proxy on what the search looks at.
    """
    uses: dict[str, set[str]] = {}
    for score in judged.values():
        uses.setdefault(score.capability, set()).add(score.use)
    judge = {capability: next(use for use in _JUDGES if use in some) for capability, some in uses.items()}
    return {name: score for name, score in judged.items() if score.use == judge[score.capability]}


def heldout_scores(config: SuiteConfig, manifest: DataManifest) -> dict[str, str]:
    """Return the capability of each dataset whose held-out text is scored, by the score's name."""
    if not config.heldout_tokens:
        return {}
    return {f"heldout/{name}": record.capability for name, record in manifest.datasets.items()}


def shares_of(averaged: Mapping[str, JudgedScore]) -> dict[str, dict[str, float]]:
    """Work out what each score counts in its capability's average, by capability; each capability's sum to 1."""
    capability_of = {name: score.capability for name, score in averaged.items()}
    return shares_by(capability_of, {name: score.weight for name, score in averaged.items()})


def shares_by(capability_of: Mapping[str, str], weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Do what `shares_of` does, given each score's capability and weight; a weight that is not given is 1."""
    members: dict[str, dict[str, float]] = {}
    for name, capability in capability_of.items():
        members.setdefault(capability, {})[name] = weights.get(name, 1.0)
    return {
        capability: {name: weight / sum(scores.values()) for name, weight in scores.items()}
        for capability, scores in members.items()
    }


def score_fingerprints(
    config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None
) -> dict[str, str]:
    """Fingerprint all that can change each score, besides the model, by score name.

    Args:
        uses: Uses of the benchmarks to include; None: all.
    """
    common = {"format": FORMAT, "tokenizer": manifest.tokenizer["fingerprint"], "max_length": config.max_length}
    judged = judged_scores(config, manifest, uses)
    found = {}
    for name, record in manifest.benchmarks.items():
        sample = {**common, "seed": config.seed, "items": config.items_per_benchmark, "text": record.fingerprint}
        found[f"benchmark/{name}"] = fingerprint(**sample)
        found[f"benchmark/{name}{JUDGED}"] = fingerprint(**sample, judged=config.judged_items)
    found = {name: value for name, value in found.items() if name in judged}
    found |= {
        f"task/{name}": fingerprint(**common, task=task)
        for name, task in task_fingerprints(config, manifest, uses).items()
    }
    found |= external_fingerprints(config, uses)
    if config.heldout_tokens:
        found |= {
            f"heldout/{name}": fingerprint(
                **common, seed=config.seed, num_tokens=config.heldout_tokens, text=record.fingerprint
            )
            for name, record in manifest.datasets.items()
        }
    return found


def suite_fingerprint(config: SuiteConfig, manifest: DataManifest, uses: Collection[str] | None = None) -> str:
    """Fingerprint all that can change a score or a capability's average, besides the model."""
    judged = judged_scores(config, manifest)
    return fingerprint(
        groups=score_fingerprints(config, manifest, uses),
        judged={name: (score.capability, score.use, score.weight) for name, score in judged.items()},
    )
