"""What would go wrong without a word: sums that overflow, factors that are averaged, sources that are replaced."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from nemo_demix.api.merging import merge
from nemo_demix.checkpoints.metadata import _check_tiling, read_metadata
from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.errors import CheckpointError
from nemo_demix.merging.live import LiveProxies
from nemo_demix.merging.merge import MergeOptions
from nemo_demix.merging.methods import build_method
from nemo_demix.merging.output import publish
from nemo_demix.merging.verify import verify
from tests.helpers import merge_checkpoints
from tests.merging.faults import just_before, meeting
from tests.merging.grids import write_checkpoint

NAME = "module.decoder.layers.mlp.linear_fc2.weight"
HALF = {"mix": {"one": 0.5, "two": 0.5}}


def pair(folder: Path, value: float, dtype: torch.dtype, name: str = NAME) -> dict[str, Path]:
    """Two checkpoints whose weights are this value in three places, 1 elsewhere."""
    weights = torch.ones(2, 4, 8, dtype=dtype)
    weights[1, 2, 3:6] = value
    norm = {"module.decoder.final_layernorm.weight": torch.ones(8, dtype=dtype)}
    return {one: write_checkpoint(folder / one, {name: weights, **norm}) for one in ("one", "two")}


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
@pytest.mark.parametrize(
    ("value", "stored", "out", "weights"),
    [
        (70144.0, torch.bfloat16, torch.float16, 0.5),
        (3.4e38, torch.float32, torch.bfloat16, 0.5),
        (3e38, torch.float32, torch.float32, 0.9),
        (60000.0, torch.float16, torch.float16, 0.9),
    ],
)
def test_what_overflows_is_refused_or_counted(
    tmp_path: Path, value: float, stored: torch.dtype, out: torch.dtype, weights: float, method: str
) -> None:
    paths = pair(tmp_path, value, stored)
    base = None if method == "linear" else write_checkpoint(tmp_path / "base", {
        NAME: torch.ones(2, 4, 8, dtype=stored), "module.decoder.final_layernorm.weight": torch.ones(8, dtype=stored)
    })  # fmt: skip
    parameters = {
        "linear": {"normalize": False},
        "task_arithmetic": {"scale": 1.1},
        "ties": {"density": 1.0, "scale": 1.1, "normalize": False},
    }[method]
    mixtures = {"mix": {"one": weights, "two": weights}, "small": {"one": 0.25, "two": 0.125}}
    arguments = {"method": method, "parameters": parameters, "base": base, "dtype": out}
    with pytest.raises(CheckpointError, match=r"mix: 3 values of module\.decoder.*finite in the sources.*merge\.dtype"):
        merge_checkpoints(paths, tmp_path / "out", mixtures, **arguments)
    assert not (tmp_path / "out/mix").exists()
    merge_checkpoints(paths, tmp_path / "out", mixtures, **arguments, allow_nonfinite=True)
    found = {name: json.loads((tmp_path / "out" / name / "merge.json").read_text())["nonfinite"] for name in mixtures}
    assert found == {"mix": {f"-> mix: {NAME}": 3}, "small": {}}
    assert int((~CheckpointReader(tmp_path / "out/mix").read_tensor(NAME).isfinite()).sum()) == 3


class Resident(torch.nn.Module):
    """A model of one rank, that says what it holds as Megatron's do."""

    def __init__(self, tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.held = {name.removeprefix("module."): torch.zeros_like(x, dtype=dtype) for name, x in tensors.items()}

    def sharded_state_dict(self, prefix: str) -> dict[str, ShardedTensor]:
        return {name: ShardedTensor.from_rank_offsets(prefix + name, x) for name, x in self.held.items()}


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
@pytest.mark.parametrize(
    ("value", "stored", "live"),
    [
        (70144.0, torch.bfloat16, torch.float16),
        (3.4e38, torch.float32, torch.bfloat16),
        (3.3e38, torch.float32, torch.float32),
        (65504.0, torch.float16, torch.float16),
    ],
)
def test_a_live_proxy_that_overflows_is_refused(
    tmp_path: Path, value: float, stored: torch.dtype, live: torch.dtype, method: str
) -> None:
    """Also one that was merged ahead, from the same read as another."""
    paths = pair(tmp_path, value, stored)
    ones = {
        NAME: torch.ones(2, 4, 8, dtype=stored),
        "module.decoder.final_layernorm.weight": torch.ones(8, dtype=stored),
    }
    paths["small"] = write_checkpoint(tmp_path / "small", ones)
    scale = 1.1 if method != "linear" else 1.0
    parameters = {"linear": {}, "task_arithmetic": {"scale": scale},
                  "ties": {"density": 1.0, "scale": scale, "normalize": False}}[method]  # fmt: skip
    base = None if method == "linear" else paths["small"]
    built = build_method(method, parameters, 0, 3, base is not None)
    model = Resident(ones, live)
    proxies = LiveProxies(model, paths, built, base, batch=2)
    fine, large = {"small": 1.0}, {"one": 0.5, "two": 0.5}
    proxies.write(fine)
    assert all(bool(x.isfinite().all()) for x in model.held.values())
    if method == "linear" and torch.finfo(live).max >= value:
        proxies.write(large)  # an average is never larger than what it is of
        assert float(model.held[NAME.removeprefix("module.")].max()) == torch.tensor(value).to(live)
        return
    for announced in ([large], [fine, large]):
        proxies.announce(announced)
        kind = str(live).removeprefix("torch.")
        with pytest.raises(
            CheckpointError, match=rf"one, two, small: 3 values of {NAME} .*and rounded to {kind}; leave"
        ):
            proxies.write(announced[0])


def test_a_component_that_is_not_finite_is_named_by_a_live_proxy(tmp_path: Path) -> None:
    paths = pair(tmp_path / "odd", float("nan"), torch.bfloat16)
    paths["two"] = pair(tmp_path / "fine", 2.0, torch.bfloat16)["two"]
    tensors = {name: CheckpointReader(paths["one"]).read_tensor(name) for name in CheckpointReader(paths["one"])}
    proxies = LiveProxies(Resident(tensors, torch.bfloat16), paths, build_method("linear", {}, 0, 2, False))
    with pytest.raises(CheckpointError, match=rf"3 values of {NAME} are NaN or infinite, as are some of one; leave"):
        proxies.write({"one": 0.5, "two": 0.5})


def test_the_largest_finite_values_are_no_overflow(tmp_path: Path) -> None:
    for number, dtype in enumerate((torch.float16, torch.bfloat16, torch.float32)):
        folder = tmp_path / str(number)
        paths = pair(folder, torch.finfo(dtype).max, dtype)
        merge_checkpoints(paths, folder / "out", HALF)
        merged = CheckpointReader(folder / "out/mix").read_tensor(NAME)
        assert float(merged.double().max()) == torch.finfo(dtype).max


@pytest.mark.parametrize(
    "name",
    [
        "module.decoder.layers.self_attention.linear_qkv.adapter.linear_in.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.q_proj.lora_B.default.weight",
        "model.layers.0.q_proj.lora_magnitude_vector.weight",
    ],
)
def test_factors_of_adapters_are_not_averaged(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"holds the factors of adapters .*merge_lora"):
        merge_checkpoints(pair(tmp_path, 1.0, torch.float32, name), tmp_path / "out", HALF)


@pytest.mark.parametrize("where", ["itself", "below", "by a link"])
def test_a_source_is_never_replaced(tmp_path: Path, where: str) -> None:
    paths = pair(tmp_path, 2.0, torch.float32)
    merge_checkpoints(paths, tmp_path / "out", HALF)
    own = tmp_path / "out/mix"
    if where == "below":
        (own / "kept").mkdir()
        own = write_checkpoint(own / "kept/c", {
            name: CheckpointReader(tmp_path / "out/mix").read_tensor(name)
            for name in (NAME, "module.decoder.final_layernorm.weight")
        })  # fmt: skip
    elif where == "by a link":
        (tmp_path / "link").symlink_to(own)
        own = tmp_path / "link"
    before = (tmp_path / "out/mix/merge.json").read_bytes()
    with pytest.raises(
        CheckpointError, match="out/mix: holds two, a source of this very merge, which is never replaced"
    ):
        merge_checkpoints(
            {"one": paths["one"], "two": own}, tmp_path / "out", HALF, options=MergeOptions(1, 2.0, force=True)
        )
    assert (tmp_path / "out/mix/merge.json").read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_what_a_merge_that_failed_halfway_has_published_is_listed(tmp_path: Path, force: bool) -> None:
    paths, output = pair(tmp_path, 2.0, torch.float32), tmp_path / "out"
    mixtures = {name: {"one": 1 - share, "two": share} for name, share in (("a", 0.1), ("b", 0.2), ("c", 0.3))}
    if force:
        merge(paths, {"b": {"one": 1.0}, "c": {"two": 1.0}}, output)
    before = {name: record(output / name) for name in mixtures if (output / name).exists()}
    shard = next((tmp_path / "two/weights").glob("*.distcp"))
    with pytest.raises(CheckpointError, match="changed while it was merged; this mixture is not published") as caught:
        meeting(
            lambda: merge(paths, mixtures, output, force=force),
            just_before("os.rename", output / "b"),
            lambda: os.utime(shard),
        )
    kind = "still an earlier merge's" if force else "not published"
    assert str(caught.value).endswith(f"; published: a, b; {kind}: c")
    assert {name: record(output / name)["weights"] for name in ("a", "b")} == {name: mixtures[name] for name in "ab"}
    if force:
        assert record(output / "c") == before["c"]
        verify(output / "b")
    else:
        assert not (output / "c").exists()


def test_where_an_output_cannot_be_published_what_it_was_to_replace_stays(tmp_path: Path) -> None:
    paths = pair(tmp_path, 2.0, torch.float32)
    merge(paths, HALF, tmp_path / "out")
    before = record(tmp_path / "out/mix")
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "nowhere", tmp_path / "out/mix", tmp_path / "out/replaced/mix")
    assert record(tmp_path / "out/mix") == before


def record(folder: Path) -> dict[str, Any]:
    """What a merge says of an output."""
    return json.loads((folder / "merge.json").read_text())  # type: ignore[no-any-return]


def test_what_is_healthy_though_unusual_is_merged(tmp_path: Path) -> None:
    """Empty tensors, a rank that holds no rows, values that are no tensors, and two precisions."""
    state: dict[str, Any] = {
        "model": {"w": torch.ones(3, 4), "b": torch.full((2,), 3.0, dtype=torch.bfloat16), "s": torch.tensor(2.0)},
        "model.empty": torch.zeros(0, 4),
        "flat": torch.zeros(0),
        "narrow": torch.zeros(4, 0),
        "iteration": 7,
        "args": {"lr": 0.1},
    }
    paths = {name: tmp_path / name for name in ("one", "two")}
    for path in paths.values():
        dcp.save(state, checkpoint_id=path, no_dist=True)
    for method, base in (("linear", None), ("ties", paths["one"])):
        output = tmp_path / method
        merge_checkpoints({"one": paths["one"], "two": paths["one"]}, output, HALF, method=method, base=base)
        reader = CheckpointReader(output / "mix")
        for name in ("w", "b", "s"):
            assert torch.equal(reader.read_tensor(f"model.{name}"), state["model"][name])
        assert reader.read_tensor("flat").shape == (0,)
        assert reader.read_tensor("narrow").shape == (4, 0)
        verify(output / "mix")
    whole = read_metadata(paths["two"]).tensors["model.w"]
    none = replace(whole.chunks[0], offsets=(3, 0), sizes=(0, 4))  # as FSDP2 has it where rows are fewer than ranks
    _check_tiling(paths["two"], "model.w", (3, 4), [*whole.chunks, none])
    with pytest.raises(CheckpointError, match="do not tile"):
        _check_tiling(paths["two"], "model.w", (3, 4), [none])
