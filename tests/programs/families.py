"""Each family's Hugging Face folder there and back: import, train two steps, merge, export; logits on both sides.

    families.py BACKEND FOLDER FAMILY ...

Everything is made here, with random weights, and written to FOLDER/<family>. The last line is
{family: {"size": of the logits, "trained": delta of the weights, "changed": largest difference that it made to the
logits; "imported", "exported": largest difference between Hugging Face's logits and Megatron's, before and after}}, and
with Megatron-Bridge {"odd": what was said of odd folders}.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from nemo_demix.artifacts import DataManifest, DatasetRecord, ModelRecord, load_record
from nemo_demix.checkpoints.layouts import locate
from nemo_demix.command_line import recipes_folder
from nemo_demix.config import DemixConfig, ModelConfig, TokenizerConfig, register_schema, to_dataclasses
from nemo_demix.datasets.tokenizer_build import build_tokenizer
from nemo_demix.prepared import PreparedRun
from nemo_demix.runtime.model import build_model, load_checkpoint
from nemo_demix.runtime.ranks import Ranks, start_ranks, stop_ranks
from nemo_demix.stages.convert import export_stage, import_stage
from nemo_demix.training.train import train_jobs
from tests.helpers import merge_checkpoints
from tests.programs.odd_folders import told

VOCAB_SIZE = 320  # of the embedding; the tokenizer has fewer
ENDS = [1, 2]  # text may end at two tokens, of which the tokenizer names the first
TOKENS = np.random.default_rng(0).integers(3, 300, (2, 48)).tolist()
MEGATRON = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4, "num_query_groups": 2}
HF = {
    "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB_SIZE, "initializer_range": 0.1, "bos_token_id": 0,
    "eos_token_id": ENDS,
}  # fmt: skip
_LLAMA31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
RECIPES = {
    "nemo": "nemo.collections.llm.recipes.{}.pretrain_recipe",
    "bridge": "megatron.bridge.recipes.{}_pretrain_config",
}
# By family: NeMo's recipe and what is overridden in it; transformers' classes and what is set there.
FAMILIES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "llama3": ("llama3_8b", {}, "Llama", {"rope_theta": 5e5, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192}),
    "llama31": (
        "llama31_8b", {"old_context_len": 16}, "Llama",
        {"rope_theta": 5e5, "rms_norm_eps": 1e-5, "rope_scaling": {**_LLAMA31, "rope_type": "llama3"}},
    ),
    "qwen3": ("qwen3_1p7b", {"kv_channels": 32}, "Qwen3", {"rope_theta": 1e6, "head_dim": 32,
                                                            "tie_word_embeddings": True}),
    "qwen3_moe": (
        "qwen3_30b_a3b",
        {"kv_channels": 32, "moe_ffn_hidden_size": 48, "num_moe_experts": 4, "moe_router_topk": 2}, "Qwen3Moe",
        {"rope_theta": 1e6, "head_dim": 32, "moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2,
         "norm_topk_prob": True},
    ),
}  # fmt: skip


# The same for Megatron-Bridge, whose recipes have the sizes of published configurations, and what is set otherwise in
# its folder: Bridge scales Llama 3.1's positions from one length, in which one of them turns once by this base.
BRIDGE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama3": ("llama.llama3_8b", {"kv_channels": 16}, {}),
    "llama31": (
        "llama.llama31_8b", {"kv_channels": 16, "rotary_base": 4000},
        {"rope_theta": 4e3,
         "rope_scaling": {**_LLAMA31, "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    ),
    "qwen3": ("qwen.qwen3_1p7b", {"kv_channels": 32}, {}),
    "qwen3_moe": (
        "qwen.qwen3_30b_a3b",
        {"kv_channels": 32, "moe_ffn_hidden_size": 48, "num_moe_experts": 4, "moe_router_topk": 2}, {},
    ),
}  # fmt: skip


def main() -> None:
    backend, folder, *families = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    register_schema()
    with initialize_config_dir(str(recipes_folder()), version_base="1.3"):
        config = to_dataclasses(compose("smoke", overrides=["hydra.searchpath=[pkg://nemo_demix.conf]"]))
    config.backend, config.parallel.tensor = backend, 1
    config.train.seq_length, config.train.global_batch_size, config.train.micro_batch_size = 32, 4, 4
    config.components.num_tokens, config.components.max_lr = 2 * 4 * 32, 0.05
    make_corpus(folder / "corpus")
    ranks = start_ranks(config.parallel, backend) if backend == "bridge" else None
    before, environment = {}, dict(os.environ)
    for family in families:  # first all of these: NeMo's importer leaves the process groups, and no WORLD_SIZE
        of_family(config, family, folder)
        classes, sizes = FAMILIES[family][2:]
        own = BRIDGE[family][2] if backend == "bridge" else {}
        before[family] = make_model(folder / family / "hf", classes, {**HF, **sizes, **own})
        convert(config, import_stage, folder / family / "hf", folder / family / "imported")
    os.environ.update(environment)
    ranks = ranks or start_ranks(config.parallel)
    found: dict[str, Any] = {family: and_back(config, family, folder, ranks, before[family]) for family in families}
    if backend == "bridge":
        of_family(config, "qwen3", folder)
        found["odd"] = told(config, folder / "qwen3/hf", folder / "odd")
    print(json.dumps(found), flush=True)
    stop_ranks()


def of_family(config: DemixConfig, family: str, folder: Path) -> None:
    recipe, overrides = (BRIDGE if config.backend == "bridge" else FAMILIES)[family][:2]
    config.model = ModelConfig(
        RECIPES[config.backend].format(recipe), overrides={"model": {"config": {**MEGATRON, **overrides}}},
        vocab_size=VOCAB_SIZE,
    )  # fmt: skip
    config.runs_dir, config.base.checkpoint = str(folder / family / "runs"), str(folder / family / "imported")


def and_back(config: DemixConfig, family: str, folder: Path, ranks: Ranks, before: np.ndarray) -> dict[str, float]:
    """Train what was imported, merge it with its start, and export the merge."""
    of_family(config, family, folder)
    prefix, folder = str(folder / "corpus/corpus"), folder / family
    settings = config.tokenizer = TokenizerConfig(kind="huggingface", path=str(folder / "hf"))
    datasets = {
        name: DatasetRecord(name, value.capability, prefix, None, 1, 0, 1, 1, 1, 1, [], {}, name)
        for name, value in config.datasets.items()
    }
    manifest = DataManifest(build_tokenizer(settings, [], folder / "tokenizer"), datasets, {}, "m")
    (job,) = (job for job in PreparedRun(config, manifest).components if job.name == "code_1")
    train_jobs(config, manifest, [job], ranks)

    components = {"imported": folder / "imported", "trained": job.checkpoint}
    mixture = {"half": {"imported": 0.5, "trained": 0.5}}
    merge_checkpoints(components, folder / "merged", mixture, objects_from="trained")
    merged = folder / "merged/half"
    convert(config, export_stage, merged, folder / "hf_merged")
    if family == "llama3":
        shutil.copytree(merged, folder / "bare", ignore=shutil.ignore_patterns("tokenizer"))
        bare = folder / "bare" / locate(merged).weights_relative
        convert(config, export_stage, bare, folder / "hf_without_tokenizer")
    if family in ("llama31", "qwen3"):
        convert(config, export_stage, folder / "imported", folder / "hf_again")
    model = build_model(config, manifest)
    imported, exported = (megatron_logits(model, path) for path in (folder / "imported", merged))
    return {
        "size": float(np.abs(exported).max()),
        "trained": load_record(job.record_path, ModelRecord).delta or 0.0,
        "changed": float(np.abs(imported - exported).max()),
        "imported": float(np.abs(imported - before).max()),
        "exported": float(np.abs(exported - huggingface_logits(folder / "hf_merged")).max()),
    }


def convert(config: DemixConfig, stage: Any, source: Path, output: Path) -> None:
    config.convert.source, config.convert.output = str(source), str(output)
    stage(config)


def make_model(folder: Path, classes: str, sizes: dict[str, Any]) -> np.ndarray:
    """A folder as transformers saves it; returns the model's logits."""
    import transformers
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    torch.manual_seed(0)
    model = getattr(transformers, f"{classes}ForCausalLM")(getattr(transformers, f"{classes}Config")(**sizes))
    for name, parameter in model.named_parameters():
        if "norm" in name:  # all ones would hide a mistake in them
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=0, eos_token_id=ENDS, do_sample=True, temperature=0.6, top_p=0.9
    )
    model.save_pretrained(folder)
    vocabulary = {"<s>": 0, "</s>": 1, "<|eot|>": 2, **{f"word{n}": n for n in range(3, 300)}}
    backend = Backend(models.WordLevel(vocabulary, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens(["<more>"])  # which `vocab_size` of transformers leaves out
    tokenizer.save_pretrained(folder)
    return huggingface_logits(folder)


@torch.no_grad()
def huggingface_logits(folder: Path) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return np.asarray(model(torch.tensor(TOKENS)).logits)


@torch.no_grad()
def megatron_logits(model: torch.nn.Module, checkpoint: Path) -> np.ndarray:
    load_checkpoint(model, checkpoint)
    tokens = torch.tensor(TOKENS)
    return np.asarray(model(tokens, torch.arange(tokens.shape[1]).expand_as(tokens), None))


def make_corpus(folder: Path) -> None:
    """A prefix of random tokens."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    folder.mkdir(parents=True)
    builder = IndexedDatasetBuilder(str(folder / "corpus.bin"), dtype=np.uint16)
    rng = np.random.default_rng(0)
    for _ in range(20):
        builder.add_item(torch.from_numpy(rng.integers(3, 300, 50)))
        builder.end_document()
    builder.finalize(str(folder / "corpus.idx"))


if __name__ == "__main__":
    main()
