"""A search over scores from elsewhere, as on a laptop: no model, no ranks, no prepared data."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_demix.config import (
    ComponentsConfig,
    DatasetConfig,
    DemixConfig,
    ImportedConfig,
    PredictorConfig,
    SearchConfig,
)
from nemo_demix.errors import ConfigError, MixtureError, ScoreError
from nemo_demix.search.imported import read_problem, search_imported
from tests.helpers import REPOSITORY, run_cli

BEST = {"web": 0.2, "books": 0.5, "papers": 0.3}
QUICK = (
    "search.pool_size=3000",
    "search.select_top=16",
    "search.num_refits=2",
    "search.predictor.kind=ridge",
    "search.predictor.num_bootstrap=2",
    "search.predictor.repeats=1",
)


def write_csv(path: Path, columns: list[str], count: int = 48, sign: float = 1.0, score: str = "loss") -> Path:
    """Scores on two bowls around BEST, which has the same order as the columns."""
    weights_MC = np.random.default_rng(5).dirichlet(np.ones(3), count)
    bowl_M = ((weights_MC - np.array(list(BEST.values()))) ** 2).sum(axis=1)
    lines = [",".join(["name", *columns, f"one_{score}", f"two_{score}"])]
    for number, (weights_C, bowl) in enumerate(zip(weights_MC.tolist(), bowl_M.tolist(), strict=True)):
        lines.append(",".join(map(str, [f"m{number}", *weights_C, sign * (1 + bowl), sign * (2 + 0.5 * bowl)])))
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(folder: Path, csv: Path, datasets: list[str], **imported: Any) -> DemixConfig:
    search = SearchConfig(
        pool_size=3000,
        select_top=16,
        num_refits=2,
        predictor=PredictorConfig(kind="ridge", num_bootstrap=2, folds=3, repeats=1),
        imported=ImportedConfig(scores=str(csv), **imported),
    )
    return DemixConfig(
        name="imported",
        runs_dir=str(folder),
        datasets={name: DatasetConfig(capability=name) for name in datasets},
        components=ComponentsConfig(num_tokens=1, max_lr=1.0, beta=0.5, general="web"),
        search=search,
    )


def search(config: DemixConfig) -> Path:
    """The search, from reading the files."""
    return search_imported(config, read_problem(config))


def record_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_the_command_finds_the_best_mixture_of_a_csv(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "scores.csv", [f"train_{name}" for name in BEST])
    csv.write_text(csv.read_text() + "broken,1,0,0,nan,2\n")
    command = ["search", f"runs_dir={tmp_path}", "name=laptop", f"search.imported.scores={csv}", *QUICK]
    done = run_cli(*command)
    assert "1 mixtures do not count: 1 no score of one_loss (broken)" in " ".join(done.stdout.split())
    assert "48 mixtures, taken for data shares" in done.stdout
    assert "48 imported mixtures of 3 datasets, 2 benchmarks" in done.stderr
    folder = tmp_path / "laptop"
    assert not (folder / "datasets").exists()
    assert not (folder / "models").exists()
    found = record_of(folder / "search/mixture.json")
    assert found["data_shares"] == pytest.approx({f"train_{name}": share for name, share in BEST.items()}, abs=0.06)
    assert (found["proxy"], found["num_proxies"], found["merge_weights"]) == ("imported", 48, {})
    assert found["notes"]["imported"]["excluded"] == {"broken": "no score of one_loss"}
    assert found["cross_validation"]["rho_macro"] > 0.9
    for name, share in found["data_shares"].items():
        low, high = found["intervals"][name]["top"]
        assert low <= share <= high
    before = (folder / "search/mixture.json").read_bytes()
    assert "search: done already" in run_cli(*command).stderr
    run_cli(*command, "force=true")
    assert (folder / "search/mixture.json").read_bytes() == before


def test_the_documented_example_says_what_is_printed(tmp_path: Path) -> None:
    """Tables of what was understood as they stand there; shares and predictions within what processors differ by."""
    page = (REPOSITORY / "docs/imported_scores.md").read_text(encoding="utf-8")
    blocks = {kind: page.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("csv", "sh", "text")}
    (tmp_path / "scores.csv").write_text(blocks["csv"])
    done = run_cli(*shlex.split(blocks["sh"])[1:], f"runs_dir={tmp_path}", cwd=tmp_path)
    printed = "\n".join(line.rstrip() for line in done.stdout.splitlines())
    read, _, chosen = printed.partition("The mixture\n")
    assert blocks["text"].startswith(read)
    number = re.compile(r"\d+\.\d+")
    found, documented = chosen, blocks["text"].partition("The mixture\n")[2]
    assert [line.split()[:2] for line in found.splitlines()] == [line.split()[:2] for line in documented.splitlines()]
    pairs = zip(number.findall(found), number.findall(documented), strict=True)
    assert all(float(one) == pytest.approx(float(other), rel=0.05, abs=0.2) for one, other in pairs)


def test_merge_weights_of_the_recipes_datasets_are_converted_by_its_blends(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "scores.csv", list(BEST))
    found = record_of(search(settings(tmp_path, csv, list(BEST))))
    weights, shares = found["merge_weights"], found["data_shares"]
    assert weights == pytest.approx(BEST, abs=0.06)
    assert shares["web"] == pytest.approx(weights["web"] + 0.5 * (1 - weights["web"]))
    assert shares["books"] == pytest.approx(0.5 * weights["books"])


def test_it_does_not_matter_which_way_the_scores_point(tmp_path: Path) -> None:
    lower = write_csv(tmp_path / "lower.csv", list(BEST))
    higher = write_csv(tmp_path / "higher.csv", list(BEST), sign=-1.0, score="acc")
    one, two = (record_of(search(settings(tmp_path, csv, list(BEST)))) for csv in (lower, higher))
    assert one["data_shares"] == pytest.approx(two["data_shares"], abs=1e-9)


def test_no_torch_nemo_or_megatron_is_imported(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "scores.csv", list(BEST))
    program = f"""
import sys
from nemo_demix.config import DatasetConfig, DemixConfig, ImportedConfig, SearchConfig
from nemo_demix.search.imported import read_problem, search_imported
search = SearchConfig(pool_size=500, select_top=16, num_refits=0, imported=ImportedConfig({str(csv)!r}))
datasets = dict.fromkeys(("web", "books", "papers"), DatasetConfig("any"))
config = DemixConfig(name="imported", runs_dir={str(tmp_path)!r}, datasets=datasets, search=search)
config.components.general = "web"
config.search.predictor.kind = "ridge"
print(search_imported(config, read_problem(config)))
print([name for name in ("torch", "nemo", "megatron", "sklearn", "pandas", "transformers") if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / "imported/search/mixture.json"), "[]"]


def test_another_content_of_the_same_file_is_searched_again(tmp_path: Path) -> None:
    config = settings(tmp_path, write_csv(tmp_path / "scores.csv", list(BEST)), list(BEST))
    first = record_of(search(config))
    write_csv(tmp_path / "scores.csv", list(BEST), count=40)
    second = record_of(search(config))
    assert (first["num_proxies"], second["num_proxies"]) == (48, 40)
    assert first["fingerprint"] != second["fingerprint"]


def test_too_few_mixtures_and_other_mistakes_are_said(tmp_path: Path) -> None:
    few = write_csv(tmp_path / "few.csv", list(BEST), count=3)
    with pytest.raises(
        ScoreError, match=r"search\.predictor\.kind=ridge: expected \d+ distinct scored mixtures or more"
    ):
        search(settings(tmp_path, few, list(BEST)))
    csv = write_csv(tmp_path / "scores.csv", list(BEST))
    config = settings(tmp_path, csv, list(BEST))
    config.search.strategy = "bayes"
    with pytest.raises(ConfigError, match=r"search\.strategy=bayes: imported scores cannot be added to"):
        search(config)
    both = {"one_loss": "all", "two_loss": "all"}
    wrong = {"one_loss": True}
    with pytest.raises(ScoreError, match=r"capability all: two_loss is of another direction"):
        search(settings(tmp_path, csv, list(BEST), capabilities=both, higher_is_better=wrong))
    assert not (tmp_path / "imported/search/mixture.json").exists()


def test_scores_of_several_units_have_no_mean(tmp_path: Path) -> None:
    csv = tmp_path / "scores.csv"
    rows = [f"m{n},{n / 9},{1 - n / 9},{2 + n / 10},{20 + n}" for n in range(10)]
    csv.write_text("\n".join(["name,train_a,train_b,web_loss,math_ppl", *rows]))
    config = settings(tmp_path, csv, ["unlike"])
    assert read_problem(config).found.metrics["math_ppl"].unit == "perplexity"  # ranks need no common unit
    config.search.objective = "mean"
    with pytest.raises(ConfigError, match=r"objective=mean: math_ppl is in perplexity; web_loss is in loss"):
        read_problem(config)
    config.search.objective = "utility"
    config.search.imported.capabilities = {"*": "all"}
    with pytest.raises(ConfigError, match=r"capability all: web_loss is in loss and math_ppl in perplexity"):
        read_problem(config)


def test_what_no_mixture_varies_is_kept_and_said(tmp_path: Path) -> None:
    """A dataset of the recipe that no row has, and one that all have alike."""
    csv = write_csv(tmp_path / "scores.csv", list(BEST))
    lines = [line.split(",") for line in csv.read_text().splitlines()]
    shares = [[0.8 * float(share) for share in line[1:4]] for line in lines[1:]]
    rows = [[line[0], *map(str, share), "0.2", *line[4:]] for line, share in zip(lines[1:], shares, strict=True)]
    csv.write_text("\n".join(map(",".join, [[*lines[0][:4], "code", *lines[0][4:]], *rows])))
    config = settings(tmp_path, csv, [*BEST, "code", "never"])
    problem = read_problem(config)
    assert problem.fixed == {"code": pytest.approx(0.2), "never": 0.0}
    assert "every mixture has the same share of code 0.2, never 0" in problem.notes[-1]
    found = record_of(search_imported(config, problem))
    assert found["merge_weights"]["code"] == pytest.approx(0.2)
    assert found["data_shares"]["never"] == 0
    assert found["baselines"]["equal"]["merge_weights"] == pytest.approx(
        {**dict.fromkeys(BEST, 0.8 / 3), "code": 0.2, "never": 0.0}
    )
    config.search.constraints.min = {"never": 0.05}
    with pytest.raises(MixtureError, match=r"search\.imported \(every mixture has 0 of never\)"):
        read_problem(config)


def test_the_recommended_search_minimises_and_says_where_no_floor_can_be(tmp_path: Path) -> None:
    names = [f"train_{name}" for name in BEST]
    config = settings(tmp_path, write_csv(tmp_path / "scores.csv", names), ["unlike"])
    config.search.strategy, config.search.objective, config.search.default_floor = "recommended", "mean", 0.01
    config.search.predictor.kind = "gaussian_process"
    problem = read_problem(config)
    mixture = record_of(search_imported(config, problem))
    assert list(mixture["data_shares"].values()) == pytest.approx(list(BEST.values()), abs=5e-3)
    assert "no floor under the capabilities: it is counted from the proportional mixture" in problem.notes[-1]
    assert "search.floor_baseline to one of equal" in problem.notes[-1]
    config.search.floor_baseline, config.search.default_floor = "equal", 0.0
    problem = read_problem(config)
    floored = record_of(search_imported(config, problem))
    assert not problem.notes
    for name, predicted in floored["predicted"].items():
        assert predicted["score"] <= floored["baselines"]["equal"]["predicted"][name] + 1e-6
