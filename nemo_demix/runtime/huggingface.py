"""NeMo's Hugging Face exporters and importers, with the parts replaced that would lose or run something.

NeMo's connectors translate names, layouts and configurations; that is used as it is. Replaced are:

- reading and building: an exporter is handed the checkpoint's tensors under the names it expects, read by our
  restricted reader, so no Megatron model, no process group and no unpickling is needed;
- the context: see `runtime/context.py`;
- the tokenizer: NeMo loads an importer's with `trust_remote_code=True` by way of one folder in /tmp for all users;
- the end of text: NeMo writes one id, of the tokenizer or of the published model (`runtime/generation.py`);
- silence: NeMo leaves a tensor it finds no source for as it happens to be in memory. Here every tensor is accounted
  for.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from nemo_demix.checkpoints.reader import CheckpointReader
from nemo_demix.errors import CheckpointError, ConfigError
from nemo_demix.runtime.as_saved import AsSaved
from nemo_demix.runtime.connector_names import unstacked
from nemo_demix.runtime.context import ModelContext, write_context
from nemo_demix.runtime.generation import read_generation
from nemo_demix.runtime.nemo.recipe import without_kernels
from nemo_demix.runtime.saving import hand_over_in_process
from nemo_demix.tokenizer import num_ids

logger = logging.getLogger(__name__)

VOCABULARY = "embedding.word_embeddings.weight"


@dataclass(frozen=True)
class SourceFolder:
    """A Hugging Face folder to import, as far as no back end is needed to know it.

    Attributes:
        config: What its config.json says.
        files: The safetensors file of each tensor, by the tensor's name.
        dtype: The one that holds the values of all tensors.
        num_rows: Rows of the embedding.
        tokenizer: A transformers tokenizer.
        generation: How text is generated with it, kept beside the tokenizer; None: nothing is.
    """

    path: Path
    config: Mapping[str, Any]
    files: Mapping[str, Path]
    dtype: torch.dtype
    num_rows: int
    tokenizer: Any
    generation: Any


def read_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint's tensors by the connectors' names, see `unstacked` for their shapes; in their stored dtype.

    A Hugging Face model has one dtype. Where a checkpoint has several, it is the one that holds the values of all.

    Raises:
        CheckpointError: if a tensor is damaged.
    Memory: the whole model.
    """
    reader = CheckpointReader(checkpoint)
    state = unstacked({name: reader.read_tensor(name) for name in reader})
    if VOCABULARY not in state:
        raise CheckpointError(f"{checkpoint}: has no tensor module.{VOCABULARY}; expected a GPT model")
    dtypes = sorted({tensor.dtype for tensor in state.values()}, key=str)
    if len(dtypes) > 1:
        widest = functools.reduce(torch.promote_types, dtypes)
        logger.info("%s: holds %s; written as %s, which keeps all values", checkpoint, dtypes, widest)
        state = {name: tensor.to(widest) for name, tensor in state.items()}
    return state


def dtype_settings(dtype: torch.dtype) -> dict[str, Any]:
    """Return how a NeMo model configuration says its weights' dtype."""
    return {"params_dtype": dtype, "bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16}


def load_tokenizer_folder(folder: Path) -> Any:
    """Return the transformers tokenizer in a folder; code that the folder brings is not run.

    Raises:
        CheckpointError: if there is none, or it is damaged or needs its own code.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: expected a Hugging Face tokenizer, found: {reason}") from None


def load_config_folder(folder: Path) -> Any:
    """Return the transformers configuration in a folder; code that the folder brings is not run.

    Raises:
        CheckpointError: if transformers cannot make sense of its config.json.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each class of transformers checks its values in its own way, or not at all
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CheckpointError(
            f"{folder / 'config.json'}: expected what transformers can read, found: {reason}; copy the model again"
        ) from None


def tokenizer_beside(checkpoint: Path, found: Path | None, given: str | None) -> Path:
    """Return the folder of the tokenizer to put beside an exported model: the checkpoint's own, else the recipe's.

    Args:
        found: The checkpoint's, where it has one of Hugging Face's format.
        given: The recipe's, see `TokenizerConfig.huggingface_path`.
    Raises:
        CheckpointError: if there is neither.
    """
    if found is None and given is None:
        raise CheckpointError(
            f"{checkpoint}: has no tokenizer of Hugging Face's format; set tokenizer.kind=huggingface "
            "tokenizer.path=FOLDER to the one to put beside the model"
        )
    return found or Path(str(given))


def check_rows(checkpoint: Path, num_rows: int, tokenizer: Any) -> None:
    """Refuse a model whose embedding has no row for a token of its tokenizer.

    Raises:
        CheckpointError: with both numbers.
    """
    if (needed := num_ids(tokenizer)) > num_rows:
        raise CheckpointError(
            f"{checkpoint}: its embedding has {num_rows} rows, the tokenizer {needed} tokens; give the "
            "tokenizer that the model was trained with (tokenizer.kind=huggingface tokenizer.path=FOLDER)"
        )


def export_checkpoint(checkpoint: Path, context: ModelContext, tokenizer_folder: Path, folder: Path) -> Path:
    """Write a checkpoint as a Hugging Face model and tokenizer, bit for bit in its dtype.

    Args:
        tokenizer_folder: A transformers tokenizer, and how text is generated, where it says so.
        folder: An empty folder for NeMo's and our files; the model is written below it.
    Returns:
        The model's folder.
    Raises:
        CheckpointError: if the tensors are not those of the model that the context describes.
    Memory: the model twice.
    """
    tokenizer = load_tokenizer_folder(tokenizer_folder)
    state = read_state(checkpoint)
    embedding = state[VOCABULARY]
    check_rows(checkpoint, len(embedding), tokenizer)
    import fiddle as fdl
    from nemo.collections import llm
    from nemo.lightning.io.state import _ModelState

    settings = fdl.Config(
        context.config_class, **context.values, vocab_size=embedding.shape[0], **dtype_settings(embedding.dtype)
    )
    without_kernels(settings)
    source = _ModelState(state, fdl.build(settings))
    write_context(folder / "source", context.model_class, settings)
    root = checkpoint if tokenizer_folder.is_relative_to(checkpoint) else None
    generation = read_generation(tokenizer_folder, len(embedding), root=root)
    named = NamedTokenizer(tokenizer, len(embedding), generation)
    exporter = _exporter_class(context.model_class, checkpoint, source, named)
    # A target NeMo does not know goes straight to our connector; "hf" would load the model twice, through pickle.
    made = llm.export_ckpt(
        folder / "source", "nemo-demix", folder / "model", load_connector=lambda path, target: exporter(str(path))
    )
    tokenizer.save_pretrained(made)  # some of NeMo's exporters only warn where this fails
    return made


def expected_config(model_class: type, model_config: Any, tokenizer: Any, folder: Path) -> Any:
    """Return the Hugging Face configuration that NeMo's exporter makes of a model configuration (a `fiddle.Config`)."""
    write_context(folder, model_class, model_config)
    named = NamedTokenizer(tokenizer, model_config.vocab_size, None)
    return _exporter_class(model_class, folder, None, named)(str(folder)).config


def expected_tensors(hf_config: Any) -> set[str]:
    """Return the names of the tensors that a model of a Hugging Face configuration is saved with; nothing is
    allocated.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config, trust_remote_code=False)
    state = model.state_dict()
    if find_spec("transformers.core_model_loading") is not None:  # from transformers 5 on experts are one in memory
        from transformers.core_model_loading import revert_weight_conversion

        state = revert_weight_conversion(model, state)
    return set(state) - ({"lm_head.weight"} if hf_config.tie_word_embeddings else set())


def _connector_class(model_class: type, kind: str) -> Any:
    try:
        return type(model_class._get_connector("hf", "unused", importer=kind == "importer"))  # type: ignore[attr-defined]
    except ValueError:
        raise ConfigError(f"{model_class.__name__}: NeMo has no Hugging Face {kind} for it") from None


class NamedTokenizer:
    """A transformers tokenizer, under the names of NeMo's too: some exporters use the one, some the other.

    Attributes:
        vocab_size: The rows of the embedding; a tokenizer's own number leaves out padding, and tokens added later.
        generation: A `transformers.GenerationConfig`, or None.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, generation: Any) -> None:
        self.tokenizer, self.vocab_size, self.generation = tokenizer, vocab_size, generation
        self.bos_id, self.eos_id = tokenizer.bos_token_id, tokenizer.eos_token_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def _exporter_class(model_class: type, checkpoint: Path, source: Any, named: NamedTokenizer) -> Any:
    base = _connector_class(model_class, "exporter")

    class Exporter(base):  # type: ignore[misc,valid-type]
        def nemo_load(self, path: Any, trainer: Any = None, cpu: bool = True) -> tuple[Any, Any]:
            return source, None

        def apply(self, output_path: Path) -> Path:
            return super().apply(output_path, **_no_code(super().apply))  # type: ignore[no-any-return]

        @property
        def tokenizer(self) -> Any:
            return named

        @property
        def config(self) -> Any:
            found = super().config
            found.vocab_size = named.vocab_size
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # NeMo writes the published model's
                own = getattr(named.generation, name, None)
                setattr(found, name, getattr(named.tokenizer, name) if own is None else own)
            return found

        def init(self, dtype: torch.dtype) -> Any:
            target = super().init(dtype)
            for parameter in target.parameters():
                parameter.data.fill_(torch.nan)  # what stays so was not converted
            return target

        def convert_state(self, source: Any, target: Any, *more: Any) -> Any:
            tensors = source.state_dict()
            if named.generation is not None:
                target.generation_config = named.generation
            try:
                target = super().convert_state(source, target, *more)
            except (ValueError, RuntimeError, LookupError) as error:
                raise CheckpointError(f"{checkpoint}: its tensors are not its context's model: {error}") from None
            target.tie_weights()
            given, made = _count(tensors), _count(dict(target.named_parameters()))
            if given != made:
                raise CheckpointError(
                    f"{checkpoint}: has {given[0]} weights ({given[1]} NaN), its Hugging Face model {made[0]} "
                    f"({made[1]} not filled); its tensors are not those of the model in its context/"
                )
            return target

    return Exporter


def _no_code(apply: Callable[..., Any]) -> dict[str, bool]:
    """Return how a connector is told to run no code of a folder; those that do not take it load classes of
    transformers.
    """
    return {"trust_remote_code": False} if "trust_remote_code" in inspect.signature(apply).parameters else {}


def _count(tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return how many elements there are, and how many of them are NaN."""
    return sum(t.numel() for t in tensors.values()), sum(int(t.isnan().sum()) for t in tensors.values())


def import_model(source: SourceFolder, model: Any, model_config: Any, folder: Path) -> Path:
    """Write a Hugging Face model as a NeMo 2 checkpoint of tensor parallel size 1, bit for bit in its dtype.

    Args:
        model: The NeMo model class.
        model_config: Its configuration, built, as large as the source's model.
        folder: An empty folder for NeMo's and our files; the checkpoint is written below it.
    Returns:
        The checkpoint's folder.
    Raises:
        CheckpointError: if the tensors are not those of the model.
    Memory: the model three times.
    Collective: none; a process group of one is made where there is none.
    """
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.huggingface.auto_tokenizer import AutoTokenizer

    base = _connector_class(model, "importer")
    _start_alone()
    # NeMo copies the whole folder that a tokenizer was loaded from, so it gets one of its own.
    source.tokenizer.save_pretrained(folder / "tokenizer")
    if source.generation is not None:
        source.generation.save_pretrained(folder / "tokenizer")
    nemo_tokenizer = AutoTokenizer(str(folder / "tokenizer"))

    class Importer(base):  # type: ignore[misc,valid-type]
        config, tokenizer = model_config, nemo_tokenizer

        def apply(self, output_path: Path) -> Path:
            return super().apply(output_path, **_no_code(super().apply))  # type: ignore[no-any-return]

        def nemo_setup(self, target: Any, trainer: Any = None, *args: Any, **kwargs: Any) -> Any:
            return super().nemo_setup(target, trainer, *args, ckpt_async_save=False, **kwargs)

        def convert_state(self, hf_model: Any, target: Any) -> Any:
            target.module.to(model_config.params_dtype)  # Megatron's local norms are fp32 until it trains
            named = AsSaved(target.module, model_config)
            super().convert_state(hf_model, named)
            given = sum(parameter.numel() for parameter in hf_model.parameters())
            made = sum(parameter.numel() for parameter in named.parameters())
            if given != made:
                raise CheckpointError(f"{source.path}: has {given} weights, the recipe's model {made}")
            named.write()
            return target

    instance = model(model_config)
    instance.importer = lambda path: Importer(str(source.path))  # where NeMo asks which importer to use
    hand_over_in_process()
    return llm.import_ckpt(instance, f"hf://{source.path}", folder / "checkpoint")


def _start_alone() -> None:
    """Start a process group of this process only, with Megatron's groups; NeMo's strategy finds and keeps them."""
    from megatron.core import parallel_state

    if not torch.cuda.is_available():
        from nemo_demix.runtime import cpu_alias

        cpu_alias.install()
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        parallel_state.initialize_model_parallel()
