"""A search from Python: over an evaluator of one's own, or over scores that are there already."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from nemo_demix.api.result import Result
from nemo_demix.api.settings import search_settings
from nemo_demix.artifacts import fingerprint, plain
from nemo_demix.config import ComponentsConfig, DatasetConfig, DemixConfig, ImportedConfig, SearchConfig
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.errors import ConfigError, ScoreError
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.scoring.imported import Table, table_of
from nemo_demix.scoring.items import Score
from nemo_demix.search.imported import ImportedProblem, choose_imported, no_floor, read_problem
from nemo_demix.search.loop import Search
from nemo_demix.search.proxy_row import ProxyRow
from nemo_demix.search.record import Facts, mixture_record, with_published, write_mixture
from nemo_demix.search.sample import max_prior_weights
from nemo_demix.search.score_log import ProxyIdentity, ScoreLog
from nemo_demix.search.space import SearchSpace
from nemo_demix.search.strategies import Problem, build_strategy, strategy_of

KIND = "study"  # of proxy, in the files: scored by the caller
Measured: TypeAlias = float | tuple[float, float]  # a score, or a score and its standard error


@runtime_checkable
class Frame(Protocol):
    """A pandas DataFrame, as far as it is asked."""

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        """Return its rows, for `orient="records"`."""


@dataclass(frozen=True)
class Trial:
    """A mixture to be scored.

    Attributes:
        name: Its name in this study: `mix_0`, `mix_1`, ...
        weights: Merge weights by component; data shares by dataset where the study has no blends.
        data_shares: What the weights stand for, by dataset.
        step: Step of the strategy, counted from 0: all trials of a step are told before it asks for more.
    """

    name: str
    weights: dict[str, float]
    data_shares: dict[str, float]
    step: int


@dataclass
class _Step:
    """What was asked for last."""

    number: int
    mixtures: dict[str, dict[str, float]]
    rows: dict[str, ProxyRow] = field(default_factory=dict)


class Study:
    """One search, asked and told by the caller. It is the search of `nemo-demix search`: strategies, loop and files.

    Args:
        datasets: Candidate datasets, with their tokens where these are known: they give the proportional baseline, and
            epochs.
        scores: The capability that each score serves, by its name. A capability is the mean of its scores.
        higher_is_better: Whether higher is better, for all scores, or by name.
        strategy: What `search=` on the command line would name.
        settings: Keys below `search`, as in a recipe: `{"iterations": [16, 8], "constraints": {"max": {"web": 0.5}}}`.
        blends: The data shares that each component was trained on, where mixtures are merge weights of components.
        num_tokens: Tokens of the final run, for epochs and their caps; needs the datasets' tokens.
        seed: Seed of everything random.
        folder: A run's folder: rows are appended to `search/scores.jsonl` as they are told, and `result` writes
            `search/mixture.json`. A study that is made again with the same arguments goes on from there.
        evaluator: What the scores depend on besides the mixture, such as a version; told rows count for it alone.

    Raises:
        ConfigError: if a setting is unknown or impossible, or the strategy needs more than scores of mixtures.
        MixtureError: if no mixture satisfies the constraints.
        ScoreError: if a capability has scores of both directions.
    """

    def __init__(
        self,
        datasets: Mapping[str, int] | Sequence[str],
        scores: Mapping[str, str],
        *,
        higher_is_better: bool | Mapping[str, bool] = False,
        strategy: str = "recommended",
        settings: Mapping[str, Any] | SearchConfig | None = None,
        blends: Mapping[str, Mapping[str, float]] | None = None,
        num_tokens: int | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        evaluator: str = "",
    ) -> None:
        found = search_settings(strategy, settings or {})
        space = _space(found, datasets, dict(scores), higher_is_better, blends, num_tokens)
        self.notes: tuple[str, ...] = ()
        if note := no_floor(found, space):
            self.notes += (note,)
            found.default_floor = None
        self._problem = Problem(found, space, seed)
        if strategy_of(found).plan(found, can_mix=False).needs_predictions:
            raise ConfigError(
                f"search.strategy={strategy}, search.proxy={found.proxy}: needs the components' own predictions, and a "
                "study has the scores of mixtures alone; take another strategy, or proxy=merge"
            )
        self._search = Search(self._problem, build_strategy(self._problem))
        self._is_merge = blends is not None
        self._folder = None if folder is None else Path(folder)
        path = None if self._folder is None else self._folder / "search" / "scores.jsonl"
        self._log = ScoreLog(path, _identity(space, evaluator))
        self._step: _Step | None = None
        self._is_over = False
        self._given: tuple[DemixConfig, ImportedProblem] | None = None

    @classmethod
    def from_scores(
        cls,
        scores: str | Path | Frame | Iterable[Mapping[str, Any]],
        mixtures: str | Path | None = None,
        *,
        datasets: Sequence[str] = (),
        capabilities: Mapping[str, str] | None = None,
        higher_is_better: Mapping[str, bool] | None = None,
        strategy: str = "recommended",
        settings: Mapping[str, Any] | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
    ) -> "Study":
        """Return a study of scores that are there already, as `search.imported`: it asks for nothing.

        Args:
            scores: A file or folder that `search.imported.scores` takes; or rows, as a DataFrame or mappings: a row a
                mixture, with its shares in columns `datasets` (else `train_*`) and its scores in the others.
            mixtures: A file of the mixtures, where the scores do not hold them.
            datasets: The columns that are shares.
            capabilities: Capabilities by score or pattern; a score left out is a capability of its own.
            higher_is_better: Whether higher is better, by score or pattern, where its name does not say.
            settings: Keys below `search`, as of any study.
            folder: A run's folder, as of any study; there are no rows to be kept.

        Raises:
            ConfigError, MixtureError, ScoreError: as `nemo-demix search` would, with the keys below `search.imported`.
        """
        table = None if isinstance(scores, (str, Path)) else _table(scores)
        found = search_settings(strategy, settings or {})
        found.imported = ImportedConfig(
            scores=None if table is not None else str(scores),
            mixtures=None if mixtures is None else str(mixtures),
            capabilities=dict(capabilities or {}),
            higher_is_better=dict(higher_is_better or {}),
            index=found.imported.index,
        )
        config = DemixConfig(
            name="study",
            seed=seed,
            datasets={name: DatasetConfig(capability=name) for name in datasets},
            components=ComponentsConfig(beta=0.0, general=next(iter(datasets), "general")),  # so: data shares
            search=found,
        )
        problem = read_problem(config, table)
        study = cls.__new__(cls)
        study._problem = Problem(problem.settings, problem.space, seed)
        study.notes = tuple(problem.notes)
        study._folder = None if folder is None else Path(folder)
        study._is_over, study._step = True, None
        study._given = (config, problem)
        return study

    @property
    def settings(self) -> SearchConfig:
        """What the search goes by."""
        return self._problem.settings

    @property
    def num_trials(self) -> int:
        """How many mixtures the strategy asks for in all; those of `from_scores` are there."""
        if self._given is not None:
            return len(self._given[1].found.rows)
        return strategy_of(self.settings).num_proxies(self.settings)

    def ask(self) -> list[Trial]:
        """Return the trials of the present step that are not told yet; none: the search is over.

        What an earlier study of the same folder was told is not asked for again.

        Raises:
            ScoreError: if more than `search.max_failed_share` of a step's trials failed.
        """
        while not self._is_over:
            if self._step is None:
                mixtures = self._search.ask()
                if not mixtures:
                    self._is_over = True
                    break
                self._step = _Step(self._search.step, mixtures)
                for name, weights in mixtures.items():
                    if (row := self._log.find(weights)) is not None:
                        self._step.rows[name] = row
            if open_trials := self._open(self._step):
                return open_trials
            rows = [self._step.rows[name] for name in self._step.mixtures]
            self._step = None
            self._search.tell(rows)
        return []

    def tell(
        self, trial: Trial | str, scores: Mapping[str, Measured] | None = None, *, failed: str | None = None
    ) -> None:
        """Say what a trial scored; or why it could not be scored, which the search counts and leaves out.

        Args:
            trial: One that `ask` gave, or its name.
            scores: Every score of the study, alone or with its standard error.

        Raises:
            ConfigError: if the trial was not asked for, or is told already.
            ScoreError: if a score is missing, unknown or not finite: say that the trial failed instead.
        """
        name = trial if isinstance(trial, str) else trial.name
        if self._step is None or name not in self._step.mixtures or name in self._step.rows:
            raise ConfigError(f"tell: {name} is no trial that waits for its scores; tell those that ask() gives, once")
        if (scores is None) == (failed is None):
            raise ConfigError(f"tell: {name}: expected its scores, or why it failed; found both or neither")
        row = ProxyRow(
            name,
            self._step.mixtures[name],
            self._step.number,
            reason=None if failed is None else str(failed),
            scores={} if scores is None else _checked(self._problem.space, name, scores),
        )
        self._step.rows[name] = self._log.append(row)

    def result(self) -> Result:
        """Return the mixture; where the study has a folder, it is written there too.

        Raises:
            ConfigError: if trials are still open.
            ScoreError: if the scores are too few for the predictor.
            MixtureError: if no mixture is above the floors.
        """
        if self._given is not None:
            record, choice = choose_imported(*self._given)
        else:
            if waiting := self.ask():
                raise ConfigError(
                    f"result: {len(waiting)} trials of step {waiting[0].step} wait for their scores; go on with ask() "
                    "and tell() until ask() gives none"
                )
            found = self._search.result()
            choice, space = found.choice, with_published(self._problem.space, found.choice)
            facts = Facts(
                seed=self._problem.seed,
                fingerprint=fingerprint(
                    scores=self._log.fingerprint, search=self.settings, seed=self._problem.seed, tokens=_tokens(space)
                ),
                proxy=KIND,
                is_merge=self._is_merge,
                num_proxies=len(found.rows),
                num_failed=found.num_failed,
            )
            record = mixture_record(self.settings, space, choice, facts)
        if self._folder is not None:
            write_mixture(self._folder / "search", record, choice)
        return Result.of(plain(record), self.notes)

    def _open(self, step: _Step) -> list[Trial]:
        blend = self._problem.space.blend
        return [
            Trial(name, dict(weights), blend.data_shares(weights), step.number)
            for name, weights in step.mixtures.items()
            if name not in step.rows
        ]


def _space(
    settings: SearchConfig,
    datasets: Mapping[str, int] | Sequence[str],
    capabilities: dict[str, str],
    higher_is_better: bool | Mapping[str, bool],
    blends: Mapping[str, Mapping[str, float]] | None,
    num_tokens: int | None,
) -> SearchSpace:
    names = tuple(datasets)
    tokens = dict(datasets) if isinstance(datasets, Mapping) else None
    if num_tokens is not None and tokens is None:
        raise ConfigError("num_tokens: epochs need the datasets' tokens; give datasets={name: tokens, ...}")
    blend = BlendMatrix.unmixed(names) if blends is None else BlendMatrix.from_blends(blends, names)
    equal = dict.fromkeys(names, 1.0 / len(names))
    prior = equal if tokens is None else token_proportional(tokens)
    baselines = {"equal": equal} if tokens is None else {"proportional": prior, "equal": equal}
    over = blend.merge_weights_for(prior)[0]  # of merge weights, where these are mixed
    directions = (
        dict(higher_is_better)
        if isinstance(higher_is_better, Mapping)
        else dict.fromkeys(capabilities, higher_is_better)
    )
    return SearchSpace(
        blend=blend,
        prior=over,
        capabilities=capabilities,
        higher_is_better=directions,
        use=dict.fromkeys(capabilities, "search"),
        constraints=Constraints.build(
            settings.constraints,
            blend,
            None if num_tokens is None or tokens is None else Budget(num_tokens, tokens),
            prior,
            max_prior_weights(settings.sampler, over),
        ),
        baselines=baselines,
    )


def _identity(space: SearchSpace, evaluator: str) -> ProxyIdentity:
    blends = {
        name: fingerprint(blend=dict(zip(space.blend.datasets, row_D, strict=True)))
        for name, row_D in zip(space.blend.components, space.blend.rows_CD.tolist(), strict=True)
    }
    return ProxyIdentity(
        kind=KIND,
        components=blends,
        merge=fingerprint(evaluator=evaluator),
        score_fingerprints={
            name: fingerprint(higher_is_better=higher) for name, higher in space.higher_is_better.items()
        },
        needed=tuple(space.capabilities),
        uses_all=False,
    )


def _checked(space: SearchSpace, trial: str, scores: Mapping[str, Measured]) -> dict[str, Score]:
    """Return scores as a row has them."""
    if set(scores) != set(space.capabilities):
        raise ScoreError(f"tell: {trial}: expected the scores {sorted(space.capabilities)}, found {sorted(scores)}")
    found = {}
    for name, value in scores.items():
        score, stderr = value if isinstance(value, tuple) else (value, None)
        if not math.isfinite(score) or not (stderr is None or (math.isfinite(stderr) and stderr >= 0)):
            raise ScoreError(
                f"tell: {trial}: {name}: expected a finite score, found {value}; where there is none, "
                f"tell({trial!r}, failed=why)"
            )
        found[name] = Score(
            float(score),
            None if stderr is None else float(stderr),
            unit=None,
            higher_is_better=space.higher_is_better[name],
        )
    return found


def _table(scores: Frame | Iterable[Mapping[str, Any]]) -> Table:
    rows = scores.to_dict("records") if isinstance(scores, Frame) else scores
    return table_of(rows, "scores")


def _tokens(space: SearchSpace) -> dict[str, int] | None:
    budget = space.constraints.budget
    return None if budget is None else dict(budget.tokens_by_dataset)
