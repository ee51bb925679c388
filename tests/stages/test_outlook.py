"""What a run says of what is still to come, and of how long that takes, by what it has measured."""

from pathlib import Path

import pytest

from nemo_demix.artifacts import write_json
from nemo_demix.progress import Progress
from nemo_demix.search.strategies import strategy_of
from nemo_demix.stages.outlook import Outlook
from tests.report.runs import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path)
    manifest = made.with_sources()
    made.prepared()
    write_json(made.folder / "datasets/manifest.json", manifest)
    return made


def test_what_was_not_measured_is_not_guessed(run: Run) -> None:
    outlook = Outlook(run.config, "train")
    count = strategy_of(run.config.search).num_proxies(run.config.search)
    assert outlook() == (
        f"then train: 4 models, search: {count} proxies, final: 2 models (how long train, search and final will take "
        "was not measured yet)"
    )
    at_hand = Progress("component/math_1", 1, 2, "step", remaining_s=60.0, tokens_per_s=100.0)
    text = outlook(at_hand)
    assert text.startswith(f"then train: 3 models, search: {count} proxies, final: 2 models")
    assert text.endswith("(how long search will take was not measured yet)")


def test_times_are_those_of_earlier_work(run: Run) -> None:
    run.trained(1).scored(4)  # 4096 tokens in 12 s each, 2 s a proxy
    config = run.config
    models = Outlook(config, "search")()
    seconds = 2 * config.final.num_tokens * 12 / 4096
    assert models.startswith("then final: 2 models; about ")
    minutes = round(seconds) // 60
    assert f"about {minutes} min" in models or f"about {round(seconds)} s" in models
    assert Outlook(config, "final")() == ""
    assert "was not measured" not in Outlook(config, "train")()
