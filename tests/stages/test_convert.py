"""`export` and `import` as a user runs them: the same logits, the same bits after a round trip, and what is refused.

The Hugging Face side is transformers' own Qwen3, with its own forward pass; Megatron's runs on real ranks.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.config import DemixConfig, load_resolved
from nemo_demix.errors import CheckpointError, DemixError
from nemo_demix.runtime.context import read_context
from nemo_demix.stages.convert import export_stage, import_stage
from tests.helpers import fork_run, run_cli, run_program

SMOKE = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "kv_channels": 32}
SMOKE |= {"num_attention_heads": 2, "num_query_groups": 2}
# Grouped queries, heads wider than hidden_size / num_heads, and (untied) an output layer of its own.
TIED = {"num_layers": 3, "hidden_size": 96, "ffn_hidden_size": 160, "kv_channels": 48}
TIED |= {"num_attention_heads": 4, "num_query_groups": 2, "share_embeddings_and_output_weights": True}
UNTIED = TIED | {"share_embeddings_and_output_weights": False}
OVERRIDES = [  # TIED on the command line
    "model.overrides.model.config={num_layers:3,hidden_size:96,ffn_hidden_size:160,kv_channels:48,"
    "num_attention_heads:4,num_query_groups:2}"
]
VOCAB_SIZE = 1152  # of the Hugging Face models: a multiple of 128, beyond the tokenizer's 1,024 tokens
TOKENS = np.random.default_rng(0).integers(0, 1024, (2, 64)).tolist()


def component(smoke_run: Path) -> Path:
    """A checkpoint trained at tensor parallel size 2."""
    return next((smoke_run / "models/component/code_1/checkpoints").glob("step_*"))


def make_qwen3(folder: Path, tokenizer: Path, tied: bool, dtype: torch.dtype = torch.float32, **more: Any) -> Path:
    """A Qwen3 with random weights, as transformers saves it."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(int(tied))
    sizes = {"num_hidden_layers": 3, "hidden_size": 96, "intermediate_size": 160, "head_dim": 48}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB_SIZE, **more}
    config = Qwen3Config(**sizes, rope_theta=1e6, tie_word_embeddings=tied, initializer_range=0.1)
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:  # all ones would hide a mistake in them
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.to(dtype).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def asked(smoke_run: Path, runs: Path, source: Path, output: Path) -> DemixConfig:
    """The smoke recipe's configuration, with the Hugging Face models' sizes, asked to convert."""
    config = load_resolved(smoke_run / "config.yaml")
    config.runs_dir = str(runs)
    config.model.overrides = {"model": {"config": TIED}}
    config.convert.source, config.convert.output = str(source), str(output)
    return config


def poison_context(source: Path, trace: Path) -> None:
    """Have io.json name a call for NeMo to make, and lie a pickle that runs a command beside it."""
    path = source / "context/io.json"
    trainer = json.dumps({"type": "pyref", "module": "nemo.lightning.io.pl", "name": "TrainerContext"})
    assert trainer in path.read_text()
    path.write_text(path.read_text().replace(trainer, json.dumps({"type": "pyref", "module": "os", "name": "system"})))
    (source / "context/evil").write_bytes(b"cposix\nsystem\n(S'touch " + os.fsencode(trace) + b"'\ntR.")
    shutil.copy(source / "context/evil", source / "weights/common.pt")


def poison_folder(source: Path, trace: Path) -> None:
    """Have a Hugging Face folder bring its own code for everything that transformers would load from it."""
    (source / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: ...\n")
    edit(source / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    edit(source / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.Evil"]})


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def converted(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What most tests look at: Hugging Face models and what they became, a component and what it became.

    Both sources that go through the command line bring code that must not run.
    """
    folder = tmp_path_factory.mktemp("convert")
    tokenizer = smoke_run / "datasets/tokenizer"
    poison_folder(make_qwen3(folder / "hf_tied", tokenizer, tied=True), folder / "trace")
    make_qwen3(folder / "hf_untied", tokenizer, tied=False, dtype=torch.bfloat16)
    shutil.copytree(component(smoke_run), folder / "component")
    poison_context(folder / "component", folder / "trace")
    common = ["--config-name", "smoke", f"runs_dir={folder / 'runs'}"]
    run_cli("import", *common, f"convert.source={folder / 'hf_tied'}", f"convert.output={folder / 'tied'}", *OVERRIDES)
    export = [f"convert.source={folder / 'component'}", f"convert.output={folder / 'hf_component'}"]
    run_cli("export", *common, *export)
    requests = [
        ("import", "hf_untied", "untied", UNTIED),
        ("export", "untied", "hf_untied_again", UNTIED),
        ("import", "hf_component", "component_again", SMOKE),
    ]
    run_program("convert", str(smoke_run / "config.yaml"), str(folder), json.dumps(requests))
    return folder


def huggingface_logits(folder: Path) -> np.ndarray:
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return np.asarray(model(torch.tensor(TOKENS)).logits)


@pytest.mark.parametrize("tensor", [1, 2])
def test_both_sides_give_the_same_logits(smoke_run: Path, converted: Path, tmp_path: Path, tensor: int) -> None:
    models = {
        "tied": {"checkpoint": converted / "tied", "overrides": TIED, "vocab_size": VOCAB_SIZE},
        "untied": {"checkpoint": converted / "untied", "overrides": UNTIED, "vocab_size": VOCAB_SIZE},
        "component": {"checkpoint": converted / "component", "overrides": SMOKE, "vocab_size": 1024},
    }
    request = {"run": smoke_run, "tensor": tensor, "tokens": TOKENS, "models": models, "output": tmp_path / "out.npz"}
    (tmp_path / "request.json").write_text(json.dumps(request, default=str))
    run_program("logits", str(tmp_path / "request.json"), ranks=tensor)
    megatron = np.load(tmp_path / "out.npz")
    for name in models:
        expected = huggingface_logits(converted / f"hf_{name}")
        difference = float(np.abs(megatron[name] - expected).max())
        print(f"tensor {tensor}, {name}: logits to {np.abs(expected).max():.2f}, difference {difference:.2e}")
        assert np.abs(expected).max() > 0.1, "the comparison would mean little"
        assert difference <= 1e-4


def test_a_round_trip_keeps_every_bit(smoke_run: Path, converted: Path) -> None:
    first, again = CheckpointReader(component(smoke_run)), CheckpointReader(converted / "component_again")
    assert len(list(first)) >= 9
    assert list(first) == list(again)
    for name in first:
        a, b = first.read_tensor(name), again.read_tensor(name)
        assert a.dtype == b.dtype == torch.float32
        assert torch.equal(a.view(torch.int32), b.view(torch.int32)), name


def test_a_bf16_round_trip_from_hugging_face_keeps_every_bit(converted: Path) -> None:
    from safetensors.torch import load_file

    first, again = (load_file(converted / name / "model.safetensors") for name in ("hf_untied", "hf_untied_again"))
    assert first.keys() == again.keys()
    assert "lm_head.weight" in again
    for name, tensor in first.items():
        assert tensor.dtype == again[name].dtype == torch.bfloat16
        assert torch.equal(tensor, again[name]), name


def test_the_hugging_face_folder_is_whole_and_says_what_it_holds(smoke_run: Path, converted: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    folder = converted / "hf_component"
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors, "tied embeddings are stored once"
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == tensors["model.embed_tokens.weight"].shape[0] == 1024
    assert config["dtype"] == "float32"
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    text = "def f(x): return x + 1"
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (smoke_run / "datasets/tokenizer", folder))
    assert ours(text).input_ids == theirs(text).input_ids
    assert config["eos_token_id"] == theirs.eos_token_id != 151645
    assert (converted / "tied/context/tokenizer/tokenizer.json").exists()
    assert not (converted / "trace").exists(), "code that a source brought was run"
    left = {path.name for path in converted.iterdir() if path.name.startswith(".")}
    assert not left, "temporary folders were left behind"


@pytest.mark.slow
def test_an_imported_checkpoint_is_a_base_to_train_from(smoke_run: Path, converted: Path, tmp_path: Path) -> None:
    runs = fork_run(smoke_run, tmp_path, "models")
    base = ["--config-name", "smoke", f"runs_dir={runs}", f"base.checkpoint={converted / 'component_again'}"]
    prepared = (runs / "smoke/datasets/manifest.json").read_text()
    (runs / "smoke/datasets/manifest.json").write_text(prepared.replace(str(smoke_run), str(runs / "smoke")))
    run_cli("train", *base, "role=base")
    run_cli("train", *base, "role=component", "component=code_1")
    record = json.loads((runs / "smoke/models/component/code_1/record.json").read_text())
    assert record["start"] == str(converted / "component_again")
    assert 0 < record["delta"] < 0.5, "it did not start from the imported weights"


def lose_a_tensor(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def set_layers(path: Path, number: int) -> None:
    text = (path / "context/model.yaml").read_text()
    (path / "context/model.yaml").write_text(text.replace("num_layers: 2\n", f"num_layers: {number}\n"))


EXPORT_MISTAKES = {
    "not_found": (shutil.rmtree, "not found; expected a folder"),
    "no_weights": (lambda path: shutil.rmtree(path / "weights"), "weights"),
    "no_context": (lambda path: shutil.rmtree(path / "context"), "has no context/"),
    "no_tokenizer": (lambda path: shutil.rmtree(path / "context/tokenizer"), "set tokenizer.kind=huggingface"),
    "truncated": (lambda path: os.truncate(next((path / "weights").glob("*.distcp")), 1000), "distcp"),
    "a_layer_more": (lambda path: set_layers(path, 1), "its context"),
    "a_layer_less": (lambda path: set_layers(path, 3), "its context"),
}
IMPORT_MISTAKES = {
    "no_config": (lambda path: (path / "config.json").unlink(), "config.json: not found"),
    "no_tokenizer": (lambda path: [file.unlink() for file in path.glob("*token*")], "a Hugging Face tokenizer, found"),
    "pickles": (lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"), "are not read"),
    "truncated": (lambda path: os.truncate(path / "model.safetensors", 100_000), "truncated or damaged"),
    "a_tensor_less": (lose_a_tensor, "the first is model.layers.1.mlp.up_proj.weight"),
    "another_model": (lambda path: edit(path / "config.json", model_type="llama"), "model_type is llama"),
    "another_size": (lambda path: edit(path / "config.json", rope_theta=1e4), "rope_theta is 10000.0, the recipe's 1"),
    "another_dtype": (lambda path: edit(path / "config.json", dtype="bfloat16"), "the tensors are torch.float32"),
}


@pytest.mark.parametrize("mistake", EXPORT_MISTAKES)
def test_a_checkpoint_that_cannot_be_exported(smoke_run: Path, tmp_path: Path, mistake: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(component(smoke_run), source)
    spoil, message = EXPORT_MISTAKES[mistake]
    spoil(source)
    with pytest.raises(DemixError, match=re.escape(message)):
        export_stage(asked(smoke_run, tmp_path / "runs", source, tmp_path / "out/hf"))
    assert not list((tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("mistake", IMPORT_MISTAKES)
def test_a_folder_that_cannot_be_imported(smoke_run: Path, tmp_path: Path, mistake: str) -> None:
    source = make_qwen3(tmp_path / "source", smoke_run / "datasets/tokenizer", tied=True)
    spoil, message = IMPORT_MISTAKES[mistake]
    spoil(source)
    with pytest.raises(DemixError, match=re.escape(message)):
        import_stage(asked(smoke_run, tmp_path / "runs", source, tmp_path / "out/nemo"))
    assert not list((tmp_path / "out").rglob("*"))


def test_what_is_there_already_stays(smoke_run: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/notes.txt").write_text("mine")
    with pytest.raises(DemixError, match="nothing is overwritten"):
        export_stage(asked(smoke_run, tmp_path / "runs", component(smoke_run), tmp_path / "hf"))
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DemixError, match="was not written"):
        export_stage(asked(smoke_run, tmp_path / "runs", component(smoke_run), tmp_path / "file/hf"))


def test_the_commands_say_what_they_need(tmp_path: Path) -> None:
    error = run_cli("import", "--config-name", "smoke", f"runs_dir={tmp_path}", expect=2).stderr
    assert "set convert.source= (what to read) and convert.output= (the folder to write)" in error


HOSTILE = {
    "yaml_tag": ("!!python/object/apply:os.system ['touch TRACE']", "expected plain YAML"),
    "foreign_class": (
        {"_target_": "subprocess.Popen", "config": {"_target_": "nemo.collections.llm.GPTConfig"}},
        "names 'subprocess.Popen'",
    ),
    "function": (
        {"_target_": "nemo.collections.llm.api.os.system", "config": {"_target_": "nemo.collections.llm.GPTConfig"}},
        "names 'nemo.collections.llm.api.os.system'",
    ),
    "not_a_model": (
        {"_target_": "nemo.collections.llm.GPTModel", "config": {"_target_": "nemo.collections.llm.api.train"}},
        "names 'nemo.collections.llm.api.train'",
    ),
    "outside": (
        {
            "_target_": "nemo.collections.llm.GPTModel",
            "config": {"_target_": "nemo.collections.llm.GPTConfig"},
            "tokenizer": {"pretrained_model_name": "../../secret"},
        },
        "expected a folder in context/, found ../../secret",
    ),
    "not_a_number": (
        {
            "_target_": "nemo.collections.llm.GPTModel",
            "config": {"_target_": "nemo.collections.llm.GPTConfig", "num_layers": {"_target_": "os.system"}},
        },
        "config.num_layers: expected a number",
    ),
    "lost_in_export": (
        {
            "_target_": "nemo.collections.llm.GPTModel",
            "config": {"_target_": "nemo.collections.llm.Qwen3Config", "rotary_percent": 0.5},
        },
        "config.rotary_percent is 0.5",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_model_description_that_is_refused(tmp_path: Path, case: str) -> None:
    content, message = HOSTILE[case]
    trace = tmp_path / "trace"
    (tmp_path / "context").mkdir()
    text = content.replace("TRACE", str(trace)) if isinstance(content, str) else yaml.safe_dump(content)
    (tmp_path / "context/model.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_context(tmp_path)
    assert not trace.exists()
