"""Folders of runs as the stages leave them, written by the stages' own code from scores with a known truth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nemo_demix.artifacts import BenchmarkRecord, DataManifest, DatasetRecord, ModelRecord, canonical_json, write_json
from nemo_demix.config import BenchmarkConfig, DatasetConfig, DemixConfig, PredictorConfig, SourceConfig, save_resolved
from nemo_demix.constraints import Budget, Constraints
from nemo_demix.datasets.identity import expected_fingerprint
from nemo_demix.fidelity.cost import spent
from nemo_demix.fidelity.trust import trust_report
from nemo_demix.mixture import BlendMatrix, token_proportional
from nemo_demix.scoring.identity import judged_scores
from nemo_demix.scoring.items import Items, ModelItems, pack_items
from nemo_demix.scoring.result import ModelResult
from nemo_demix.scoring.scores import Comparison, combined, compare, score_report
from nemo_demix.scoring.suite import Suite
from nemo_demix.search.proxies.base import Evaluation
from nemo_demix.search.proxy_row import ProxyRow, read_rows
from nemo_demix.search.record import Facts, mixture_record, write_mixture
from nemo_demix.search.refine import choose_refined
from nemo_demix.search.space import SearchSpace
from nemo_demix.stack import releases
from tests.test_recipes import composed

DATASETS = {"general": "general", "math_1": "math", "code_1": "code"}
BENCHMARKS = {"piqa": "general", "gsm8k": "math", "mbpp": "code"}
HOSTILE = {
    "<script>alert(1)</script>": "general",
    "a[/b] & \"q\" 'r' $x^2$ `tick`": "math",
    "\u202egnp.exe\u2028مجموعة اللغة العربية الطويلة جدا {{ 7 * 7 }}": "code",
}
NUM_ITEMS = 40


class Run:
    """A run's folder, stage by stage. `datasets` may have any names; the first is the general one."""

    def __init__(self, runs_dir: Path, datasets: Mapping[str, str] | None = None, name: str = "made") -> None:
        self.datasets = dict(datasets or DATASETS)
        self.names = list(self.datasets)
        self.config = self._config(runs_dir, name)
        self.folder = self.config.run_dir
        self.rng = np.random.default_rng(0)
        self.blend = BlendMatrix.demix(self.names, self.names[0], 0.25)
        self.mixture: dict[str, Any] = {}

    def _config(self, runs_dir: Path, name: str) -> DemixConfig:
        config = composed("smoke", f"runs_dir={runs_dir}")
        config.name = name
        config.datasets = {one: DatasetConfig(capability=owner) for one, owner in self.datasets.items()}
        config.components.general = self.names[0]
        owners = list(dict.fromkeys(self.datasets.values()))
        self.benchmarks = {benchmark: owner for benchmark, owner in BENCHMARKS.items() if owner in owners}
        config.suite.benchmarks = {one: BenchmarkConfig(capability=owner) for one, owner in self.benchmarks.items()}
        config.suite.judged_items = NUM_ITEMS
        config.search.objective = "mean"
        config.search.pool_size, config.search.select_top, config.search.num_refits = 400, 16, 3
        config.search.predictor = PredictorConfig(kind="gaussian_process", folds=2, repeats=1)
        return config

    def with_sources(self) -> DataManifest:
        """Name sources that are there; returns the manifest that `prepare` would write for this configuration."""
        text = self.folder.parent / "text.txt"
        text.write_text("text")
        for dataset in self.config.datasets.values():
            dataset.sources = [SourceConfig(path=str(text))]
        for name, benchmark in self.config.suite.benchmarks.items():
            benchmark.registry = name
        return replace(self.manifest, fingerprint=expected_fingerprint(self.config))

    def prepared(self) -> "Run":
        """With data."""
        save_resolved(self.config, self.folder / "config.yaml")
        write_json(self.folder / "datasets" / "manifest.json", self.manifest)
        return self

    @property
    def manifest(self) -> DataManifest:
        """Of datasets of unlike size, one of which has items of a benchmark in it."""
        hit = {"num_items": 200, "num_items_hit": 3, "share_items_hit": 0.015, "ngram": 13}
        none = {"num_items": 200, "num_items_hit": 0, "share_items_hit": 0.0, "ngram": 13}
        datasets = {}
        for place, (name, owner) in enumerate(self.datasets.items()):
            overlap = {benchmark: hit if owner == "code" else none for benchmark in self.benchmarks}
            source = {"origin": f"origin of {name}", "licence": "MIT" if place else None, "num_documents": 7}
            tokens = 100_000 * (3 - place)
            datasets[name] = DatasetRecord(
                name, owner, f"{name}/train", None, 7, 0, tokens, 0, tokens, 0, [source], overlap, f"data_{place}"
            )
        benchmarks = {
            name: BenchmarkRecord(name, owner, name, 200, {"licence": "MIT", "origin": name}, name)
            for name, owner in self.benchmarks.items()
        }
        return DataManifest({"fingerprint": "tokenizer"}, datasets, benchmarks, "manifest")

    def trained(self, components: int | None = None) -> "Run":
        """With the base and so many components; their losses fall from 7."""
        self._model("base", "base", {self.names[0]: 1.0}, None)
        launched = {"wanted": 1.0, "ready": 2.0, "forked": True, "releases": releases("nemo")}
        write_json(self.folder / "logs" / "train" / "launch.json", launched)
        for place, name in enumerate(self.names[:components]):
            row = self.blend.rows_CD[place]
            self._model("component", name, dict(zip(self.names, row.tolist(), strict=True)), 0.05 + 0.02 * place)
        return self

    def _model(self, role: str, name: str, blend: Mapping[str, float], delta: float | None) -> None:
        folder = self.folder / "models" / role / name.replace("/", "_")
        record = ModelRecord(role, name, "", {}, dict(blend), 4096, 300, None, delta, 4.25, 12.0, f"{role}_{name}")
        write_json(folder / "record.json", record)
        rows = [{"step": step, "loss": 4 + 3 / step} for step in range(1, 301)]
        (folder / "losses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def truth(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Bits per byte of each benchmark: less, the more data of its capability there are."""
        return {
            name: 3.0 + place - sum(shares[one] for one in self.names if self.datasets[one] == owner) ** 0.5
            for place, (name, owner) in enumerate(self.benchmarks.items())
        }

    def items(self, shares: Mapping[str, float], suffixes: Sequence[str] = ("",)) -> ModelItems:
        """What a model of these shares gives on each item: the items' own level, the truth, a little noise."""
        found = {}
        for name, value in self.truth(shares).items():
            level_I = np.random.default_rng(len(name)).normal(0, 0.5, NUM_ITEMS)
            for suffix in suffixes:
                noise_I = self.rng.normal(0, 0.02, NUM_ITEMS)
                found[f"benchmark/{name}{suffix}"] = Items(value + level_I + noise_I, np.ones(NUM_ITEMS))
        return found

    def suite(self, uses: Sequence[str] | None) -> Suite:
        """Without requests: what its scores are for."""
        return Suite([], judged_scores(self.config.suite, self.manifest, uses), {}, "suite")

    def scored(self, count: int = 20, failed: int = 1) -> "Run":
        """With proxies of random mixtures."""
        suite, lines = self.suite(("search",)), []
        weights_MC = self.rng.dirichlet(np.ones(len(self.names)), count + failed)
        for number, weights_C in enumerate(weights_MC.tolist()):
            weights = dict(zip(self.names, weights_C, strict=True))
            row = ProxyRow(f"mix_{number}", weights, number // 10, reason="not finite")
            if number < count:
                given = Evaluation(ModelResult(self.items(self.blend.data_shares(weights))), 0.5, 1.5)
                row = given.row(suite, row.name, weights, row.iteration)
            row = replace(row, proxy="merge", components={}, merge="linear", fingerprint="rows")
            lines.append(canonical_json(row.to_json()) + "\n")
        path = self.folder / "search" / "scores.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
        self.rows = read_rows(path)
        return self

    def searched(self) -> "Run":
        """With a mixture, chosen by the real search over these proxies."""
        tokens = {name: record.num_train_tokens for name, record in self.manifest.datasets.items()}
        prior = token_proportional(tokens)
        judged = judged_scores(self.config.suite, self.manifest, ("search",))
        budget = Budget(self.config.final.num_tokens, tokens)
        self.space = SearchSpace(
            blend=self.blend,
            prior=prior,
            capabilities={name: one.capability for name, one in judged.items()},
            higher_is_better=dict.fromkeys(judged, False),
            use=dict.fromkeys(judged, "search"),
            constraints=Constraints.build(self.config.search.constraints, self.blend, budget, prior, None),
            baselines={"proportional": prior, "equal": dict.fromkeys(self.names, 1 / len(self.names))},
        )
        rows = [row for row in self.rows if row.is_ok]
        choice = choose_refined(self.config.search, self.space, rows, 0)
        measured = json.loads(canonical_json(score_report(self.suite(("search",)), self.items(prior))))["capabilities"]
        gap = combined(Comparison(-0.02, 0.004, None, None, "better"), 0.003, 0.01)
        facts = Facts(
            seed=0,
            fingerprint="mixture",
            proxy="merge",
            is_merge=True,
            num_proxies=len(rows),
            num_failed=1,
            measured=measured,
            measured_macro=3.0,
            baselines={
                "proportional": {"proxy": "merge", "measured": measured, "macro": 3.0, "chosen_minus_this": gap}
            },
        )
        record = mixture_record(self.config.search, self.space, choice, facts)
        trust = trust_report(self.config, {name: 0.05 for name in self.names}, choice.cross_validation, None)
        write_mixture(self.folder / "search", record | {"trust": trust}, choice)
        self.mixture = json.loads((self.folder / "search/mixture.json").read_text())
        return self

    def finished(self) -> "Run":
        """With final models, their items, the comparison and the ledger."""
        shares = {"mixture": self.mixture["data_shares"]}
        shares["proportional"] = self.mixture["baselines"]["proportional"]["data_shares"]
        suite, models, items = self.suite(None), {}, {}
        for name, given in shares.items():
            self._model("final", name, given, None)
            items[name] = self.items(given, ("", ":judged"))
            report = json.loads(canonical_json(score_report(suite, items[name])))
            facts, packed = pack_items(items[name])
            path = self.folder / "scores" / f"final_{name}.json"
            write_json(path, {"name": name, **report, "items": facts, "fingerprint": "scores"})
            np.save(path.with_suffix(".npy"), packed)
            macro = float(np.mean([one["score"] for one in report["capabilities"].values()]))
            models[name] = {"capabilities": report["capabilities"], "macro": macro, "scores": report["scores"]}
        gap = combined(compare(suite, items["mixture"], items["proportional"]), None, 0.0)
        result = {"models": models, "predicted": self.mixture["predicted"], "proxy": self.mixture["measured"]}
        write_json(
            self.folder / "final/result.json",
            result | {"chosen_minus": {"proportional": gap | {"heldout": gap}}, "fingerprint": "r"},
        )
        component = ModelRecord("component", "c", "", {}, {}, 4096, 2, None, 0.05, None, 12.0, "c")
        stages = spent({"components": [component] * len(self.names)}, self.rows[:20], 2, 2)
        ledger = {
            "stages": stages,
            "if_proxies_were_trained": {"num_tokens": 20 * 4096, "device_s": 480.0},
            "break_even_proxies": 4,
            "same_answer_by_trained_proxies": {"num_tokens": None, "ratio": None, "reason": "not measured"},
            "growth": None,
        }
        write_json(self.folder / "cost.json", ledger)
        (self.folder / "timing.jsonl").write_text(
            '{"peak_memory_gib": 1.5, "stage": "prepare", "wall_time_s": 53.4}\n{"peak_mem'  # it was killed here
        )
        return self


def whole_run(runs_dir: Path, datasets: Mapping[str, str] | None = None, name: str = "made") -> Run:
    """A finished run."""
    return Run(runs_dir, datasets, name).prepared().trained().scored().searched().finished()
