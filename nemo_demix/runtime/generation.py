"""How text is generated with a Hugging Face model: `generation_config.json`, kept beside the tokenizer.

It is what says that text may end at several tokens, of which a tokenizer names one. NeMo's checkpoints have no place
for it but the tokenizer's folder, which they carry whole.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_demix.artifacts import parse_json
from nemo_demix.checkpoints.files import read_file
from nemo_demix.errors import CheckpointError, DemixError

logger = logging.getLogger(__name__)

FILE = "generation_config.json"
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_generation(
    folder: Path, vocab_size: int, hf_config: Mapping[str, Any] | None = None, root: Path | None = None
) -> Any:
    """Return the `transformers.GenerationConfig` of a folder; where it has none, of the ids in a model's config.json.

    Args:
        folder: Folder of a model, or of a tokenizer.
        vocab_size: The rows of the model's embedding, which all ids have to be among.
        root: What no link may lead out of; None: links are followed, of which Hugging Face's cache is made.
    Returns:
        None where neither says more than a tokenizer does.
    Raises:
        CheckpointError: if the file is damaged, or names tokens that the model does not have.
    """
    from transformers import GenerationConfig

    path = folder / FILE
    try:
        place = path if root is not None else path.resolve()
        content = parse_json(read_file(root or place.parent, place), path)
    except FileNotFoundError:
        path, content = folder / "config.json", {name: (hf_config or {}).get(name) for name in _IDS}
        if not isinstance(content["eos_token_id"], list):
            return None
    except DemixError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}; copy the model again")
    for name in _IDS:
        value = content.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if odd := [one for one in ids if type(one) is not int or not 0 <= one < vocab_size]:
            raise CheckpointError(
                f"{path}: {name}: expected numbers of tokens below {vocab_size}, the rows of the embedding, found "
                f"{odd[0]!r:.40}; correct it"
            )
    try:
        found = GenerationConfig.from_dict(content)
        found.validate(strict=True)
    except Exception as error:  # of many kinds: what it holds may be anything
        reason = " ".join(str(error).split())
        logger.warning("%s: not one that transformers would write (%.200s); its token ids alone are kept", path, reason)
        found = GenerationConfig.from_dict({name: content.get(name) for name in _IDS})
    return found
