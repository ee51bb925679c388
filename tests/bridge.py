"""Megatron-Bridge's environment, which `make bridge` makes beside NeMo's: commands and programs of tests in it."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPOSITORY, VARIABLES

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


def write_hub(home: Path) -> None:
    """What Hugging Face's library keeps of a hub (HF_HOME), with the configurations of `PUBLISHED` in it."""
    for name, content in PUBLISHED.items():
        folder, revision = home / "hub" / f"models--{name.replace('/', '--')}", _REVISIONS.get(name, "0" * 40)
        (folder / "snapshots" / revision).mkdir(parents=True)
        (folder / "snapshots" / revision / "config.json").write_text(json.dumps(content))
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(revision)


class Bridge:
    """Commands and programs of that environment, forks of a process there that has imported what they need.

    Where the start itself is what is tested, `tests.helpers.run_fresh` takes this environment's `PYTHON`. Hugging
    Face's library reads where its files are when it is imported, so they are at one place for all.
    """

    def __init__(self, home: Path) -> None:
        self._variables = {**VARIABLES, "HF_HOME": str(home), "WANDB_SILENT": "true"}
        self._server = subprocess.Popen(
            [PYTHON, "-m", "tests.served"],
            cwd=REPOSITORY, env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments: str, timeout: float = 500, expect: int = 0) -> None:
        """Run `nemo-demix ARGUMENTS` and check its exit code."""
        code, output, errors = self._ask("command", arguments, timeout)
        assert code == expect, f"exit code {code}, expected {expect}\n{output}{errors}"

    def run_program(self, name: str, *arguments: str, timeout: float = 500) -> dict[str, Any]:
        """Run tests/programs/NAME.py, as the one rank of a world; its last line on stdout is JSON."""
        code, output, errors = self._ask("program", [f"tests/programs/{name}.py", *arguments], timeout)
        assert code == 0, output + errors
        return json.loads(output.strip().splitlines()[-1])  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in {**os.environ, **self._variables}.items() if name != "PYTHONPATH"}

    def _ask(self, kind: str, arguments: Sequence[str], timeout: float) -> tuple[int, str, str]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {"kind": kind, "arguments": arguments, "environment": self._environment(), "timeout": timeout}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer = self._server.stdout.readline()
        assert answer, f"{PYTHON} -m tests.served ended"
        code, output, errors = json.loads(answer)
        return code, output, errors
