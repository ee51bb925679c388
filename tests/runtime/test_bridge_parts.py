"""What a whole run by Megatron-Bridge can have besides: a mixture of experts over two pipeline stages, with tasks of
lm-eval, trackers and the base's optimizer; references; proxies trained, and a model scored, with experts over ranks.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_demix.artifacts import ModelRecord, load_record, read_json, read_json_lines
from nemo_demix.checkpoints.common_state import load_common
from nemo_demix.checkpoints.metadata import read_metadata
from nemo_demix.checkpoints.objects import read_common_state
from tests.bridge import Bridge, needs_bridge
from tests.conftest import Once
from tests.helpers import losses
from tests.runtime.test_bridge import RECIPE, write_data
from tests.scoring.test_tasks import CHOICES, DEFINITION, WRITING

pytestmark = [pytest.mark.slow, needs_bridge]
# Bridge's own recipe of Qwen3-30B-A3B, at the smallest size.
MODEL = ("backend=bridge", "model=bridge_qwen3_30b_a3b", "model.vocab_size=null", "parallel.tensor=1")
MODEL += ("model.overrides.model.config.moe_token_dispatcher_type=allgather",)
MODEL += tuple(
    f"+model.overrides.model.config.{name}={value}"
    for name, value in {
        "num_attention_heads": 2, "num_query_groups": 2, "moe_ffn_hidden_size": 32, "num_moe_experts": 4,
        "moe_router_topk": 2,
    }.items()
)  # fmt: skip
MAX_LR = 5e-4  # not the base's
WITH = ("parallel.pipeline=2", "track.tensorboard=true", "track.wandb_project=mixtures", "track.wandb_mode=offline")
WITH += ("components.load_optimizer=true", "components.keep_tokens=[1024]", f"components.max_lr={MAX_LR}")
# Half of the experts on each of two ranks, which have other texts.
OVER_EXPERTS = ("parallel.pipeline=1", "parallel.data=2", "parallel.expert=2", "train.micro_batch_size=2")


@pytest.fixture(scope="module")
def run(once: Once, bridge: Bridge) -> Path:
    def make(folder: Path) -> None:
        write_data(folder)
        data = folder / "squares.jsonl"
        rows = [{"question": f"{n} x {n}", "answer": str(n * n)} for n in range(2, 12)]
        rows = [{**row, "choices": [row["answer"], "none"], "gold": 0} for row in rows]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        suite = []
        for name, kind, rest, more in (
            ("squares", "multiple_choice", CHOICES, "metric:bpb"),
            ("written", "generate_until", WRITING, "use:report,limit:4"),
        ):
            task = folder / f"{name}.yaml"
            task.write_text(DEFINITION.format(name=name, kind=kind, rest=rest, data=data))
            suite.append(f"+suite.tasks.{name}={{task:{task},capability:code,data:{data},{more}}}")
        given = ("--config-name", RECIPE, f"runs_dir={folder}", *MODEL, *WITH, *suite, "name=moe")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DATA", str(folder))
            bridge.run("run", *given)
            references = ("verify.references=3", "verify.seeds=[]", "verify.trained_shares=[0.5]")
            bridge.run("verify", *given, *references)
            trained = ("search=regmix", "search.trained.num_tokens=1024", "search.iterations=[8]")
            trained += ("search.predictor.folds=2",)
            bridge.run("search", *given, *trained, *OVER_EXPERTS, "search.select_top=3")
            shutil.rmtree(folder / "moe/scores/answers")  # so that they are given again
            checkpoint = load_record(folder / "moe/models/final/mixture/record.json", ModelRecord).checkpoint
            again = (f"score.checkpoint={checkpoint}", "score.name=over_experts")
            bridge.run("score", *given, *OVER_EXPERTS, *again)

    return once("bridge_parts", make) / "moe"


def merged(run: Path) -> list[dict[str, Any]]:
    """The proxies that are merges."""
    return [row for row in read_json_lines(run / "search/scores.jsonl") if row["proxy"] == "merge"]


def test_a_mixture_of_experts_trains_over_two_pipeline_stages(run: Path) -> None:
    record = load_record(run / "models/component/code_1/record.json", ModelRecord)
    assert list(losses(run / "models/component/code_1")) == list(range(1, 9))
    assert record.final_loss is not None
    assert record.final_loss < losses(run / "models/component/code_1")[1]
    stored = read_metadata(Path(record.checkpoint)).tensors
    experts = [name for name in stored if ".experts." in name and name.endswith("linear_fc1.weight")]
    assert experts
    assert any("router" in name for name in stored)
    assert [row["status"] for row in merged(run)] == ["OK"] * 12
    assert set(read_json(run / "final/result.json")["models"]) == {"mixture"}


def test_a_task_of_lm_eval_is_scored_for_every_proxy(run: Path) -> None:
    scores = [row["scores"]["task/squares"] for row in merged(run)]
    assert {(score["num_items"], score["unit"]) for score in scores} == {(10, "bits/byte")}
    assert len({score["score"] for score in scores}) == 12


def test_a_model_scores_the_same_over_stages_and_over_experts(run: Path) -> None:
    stages, experts = (read_json(run / f"scores/{name}.json")["scores"] for name in ("final_mixture", "over_experts"))
    assert stages["task/written"]["num_items"] == experts["task/written"]["num_items"] == 4
    assert set(stages) == set(experts)
    for name, score in stages.items():
        assert experts[name]["score"] == pytest.approx(score["score"], rel=1e-6), name


def test_a_component_goes_on_with_the_bases_optimizer_and_its_own_schedule(run: Path) -> None:
    kept = load_record(run / "models/component/code_1/record.json", ModelRecord).checkpoints
    assert not any("exp_avg" in name for name in read_metadata(Path(kept["2048"])).tensors)
    common = read_common_state(Path(kept["1024"]))
    assert common is not None
    state = load_common(common, megatrons=True)
    assert state["optimizer"]["state"]["common_step"] == 16 + 4, "the base's steps, and its own"
    assert {group["max_lr"] for group in state["optimizer"]["param_groups"]} == {MAX_LR}
    rates = EventAccumulator(str(run / "tensorboard/component/code_1"))
    rates.Reload()
    by_cosine = 0.2 * MAX_LR + 0.4 * MAX_LR * (1 + math.cos(math.pi * 5 / 8))
    assert [one.value for one in rates.Scalars("learning-rate")] == [pytest.approx(by_cosine)]


def test_each_model_and_the_run_have_an_entry_in_the_trackers(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard/component/code_1"))
    events.Reload()
    logged = {one.step: one.value for one in events.Scalars("lm loss")}
    assert logged == {5: pytest.approx(losses(run / "models/component/code_1")[5])}
    proxies = EventAccumulator(str(run / "tensorboard/run"))
    proxies.Reload()
    assert len(proxies.Scalars("proxy/code")) == 12
    kept = [path.read_bytes() for path in run.glob("wandb/offline-run-*/*.wandb")]
    for name in (b"moe/base/base", b"moe/component/code_1", b"moe/final/mixture", b"moe/run"):
        assert any(name in content for content in kept), name
    assert all(b"mixtures" in content for content in kept)


def test_references_are_trained_and_compared(run: Path) -> None:
    report = read_json(run / "verify/fidelity.json")
    assert (report["num_references"], report["excluded"]) == (3, {})
    assert set(report["benchmarks"]["proxies"]) == {"merge", "trained_1024", "null"}
    names = [path.parent.name for path in (run / "models/reference").glob("*/record.json")]
    assert sorted(names) == ["ref_000", "ref_001", "ref_002"]


def test_regmix_trains_its_proxies_with_experts_over_ranks(run: Path) -> None:
    mixture = read_json(run / "search/mixture.json")
    assert (mixture["proxy"], mixture["num_proxies"]) == ("trained", 8)
    assert len(list((run / "models/proxy").glob("*/record.json"))) == 8
