"""Megatron-Bridge's environment, which `make bridge` makes beside NeMo's: commands and programs of tests in it."""

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPOSITORY

PYTHON = REPOSITORY / ".venv-bridge/bin/python"
needs_bridge = pytest.mark.skipif(
    not (REPOSITORY / ".venv-bridge/.installed").exists(),
    reason="no .venv-bridge: `make bridge` makes it, with Python 3.12",
)
# Hugging Face's names for models, as recipes of Megatron-Bridge ask for them; what is published there of each.
_QWEN3 = {
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144,
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1_000_000,
    "sliding_window": None, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-1.7B": {
        **_QWEN3, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_window_layers": 28,
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "tie_word_embeddings": True,
    },
    "Qwen/Qwen3-30B-A3B": {
        **_QWEN3, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "max_window_layers": 48,
        "num_attention_heads": 32, "num_hidden_layers": 48, "num_key_value_heads": 4, "tie_word_embeddings": False,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True,
        "num_experts": 128, "num_experts_per_tok": 8, "output_router_logits": False, "router_aux_loss_coef": 0.001,
    },
    "meta-llama/Meta-Llama-3-8B": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 8192,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_scaling": None, "rope_theta": 500_000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_cache": True, "vocab_size": 128256,
    },
}  # fmt: skip
PUBLISHED["meta-llama/Meta-Llama-3.1-8B"] = PUBLISHED["meta-llama/Meta-Llama-3-8B"] | {
    "max_position_embeddings": 131072,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}  # fmt: skip
_REVISIONS = {"Qwen/Qwen3-30B-A3B": "ad44e777bcd18fa416d9da3bd8f70d33ebb85d39"}  # that Bridge's recipe asks for


def write_hub(home: Path) -> Path:
    """What Hugging Face's library keeps of a hub (HF_HOME), with the configurations of `PUBLISHED` in it."""
    for name, content in PUBLISHED.items():
        folder, revision = home / "hub" / f"models--{name.replace('/', '--')}", _REVISIONS.get(name, "0" * 40)
        (folder / "snapshots" / revision).mkdir(parents=True)
        (folder / "snapshots" / revision / "config.json").write_text(json.dumps(content))
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(revision)
    return home


def _environment(home: Path | None) -> dict[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    found |= {"WANDB_SILENT": "true"} | ({} if home is None else {"HF_HOME": str(home)})
    found.pop("PYTHONPATH", None)
    return found


def run_bridge(
    *arguments: str, home: Path | None = None, timeout: float = 500, expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `nemo-demix ARGUMENTS` in that environment and check its exit code."""
    done = subprocess.run(
        [PYTHON, "-m", "nemo_demix", *arguments],
        cwd=REPOSITORY, env=_environment(home), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == expect, f"exit code {done.returncode}, expected {expect}\n{done.stdout}{done.stderr}"
    return done


def run_bridge_program(name: str, *arguments: str, home: Path | None = None, timeout: float = 500) -> dict[str, Any]:
    """Run tests/programs/NAME.py there, as the one rank of a world; its last line on stdout is JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0", "RANK": "0", "LOCAL_RANK": "0"}
    world |= {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    done = subprocess.run(
        [PYTHON, "-m", f"tests.programs.{name}", *arguments],
        cwd=REPOSITORY, env=_environment(home) | world, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]
