import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from nemo_demix.config import DemixConfig, ModelConfig, TokenizerConfig
from nemo_demix.datasets.tokenizer_build import EOS, build_tokenizer, tokenizer_identity
from nemo_demix.errors import ConfigError, DatasetError
from nemo_demix.runtime.recipe import padded_vocab_size
from nemo_demix.tokenizer import Tokenizer, load_tokenizer, nemo_tokenizer
from tests.datasets.helpers import sentence

TEXTS = [sentence(number) for number in range(200)] + ["def f(x):\n    return x ** 2\n", "naïve — 三 ∑"]
BPE = TokenizerConfig(kind="train_bpe", vocab_size=400)


@pytest.fixture(scope="module")
def bpe_info(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return build_tokenizer(BPE, TEXTS, tmp_path_factory.mktemp("bpe") / "tokenizer")


@pytest.fixture(scope="module")
def bpe(bpe_info: dict[str, Any]) -> Tokenizer:
    return load_tokenizer(bpe_info)


def nemo_instance(info: dict[str, Any]) -> Any:
    path, arguments = nemo_tokenizer(info)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**arguments)


def write_backend(path: Path, *special: str) -> Path:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.save(str(path))
    return path


def train_sentencepiece(folder: Path, eos_id: int) -> Path:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXTS[:200]), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "sp"), vocab_size=300, eos_id=eos_id, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return folder / "sp.model"


@given(text=st.text())
def test_bytes_survive_the_round_trip(bpe: Tokenizer, text: str) -> None:
    if EOS not in text:
        ids = bpe.encode(text)
        assert bpe.decode(ids) == text
        assert all(0 <= token < bpe.vocab_size and token != bpe.eos_id for token in ids)


def test_a_batch_is_encoded_as_its_texts_are(bpe: Tokenizer) -> None:
    assert bpe.encode_batch([*TEXTS, ""]) == [bpe.encode(text) for text in [*TEXTS, ""]]


def test_the_vocabulary_is_as_large_as_asked(bpe: Tokenizer, bpe_info: dict[str, Any]) -> None:
    assert bpe.vocab_size == bpe_info["vocab_size"] == 400
    assert bpe.decode([bpe.eos_id]) == EOS
    assert set(bpe_info) == {"path", "vocab_size", "eos_id", "kind", "fingerprint"}


def test_the_same_sample_gives_the_same_bytes(tmp_path: Path, bpe_info: dict[str, Any]) -> None:
    again = build_tokenizer(BPE, TEXTS, tmp_path / "elsewhere")
    assert again["fingerprint"] == bpe_info["fingerprint"]
    for path in Path(bpe_info["path"]).iterdir():
        assert (tmp_path / "elsewhere" / path.name).read_bytes() == path.read_bytes()
    other = build_tokenizer(BPE, TEXTS[:100], tmp_path / "other")
    assert other["fingerprint"] != bpe_info["fingerprint"]


def test_nemos_own_class_agrees(bpe: Tokenizer, bpe_info: dict[str, Any]) -> None:
    nemo = nemo_instance(bpe_info)
    assert nemo.vocab_size == bpe.vocab_size
    assert nemo.eos_id == nemo.eod == bpe.eos_id
    for text in TEXTS[-5:]:
        assert nemo.text_to_ids(text) == bpe.encode(text)
        assert nemo.ids_to_text(bpe.encode(text)) == text


def test_a_hugging_face_folder_is_copied_whole(tmp_path: Path, bpe: Tokenizer, bpe_info: dict[str, Any]) -> None:
    config = TokenizerConfig(kind="huggingface", path=bpe_info["path"])
    info = build_tokenizer(config, [], tmp_path / "copy")
    assert info["path"] == str(tmp_path / "copy")
    assert load_tokenizer(info).encode_batch(TEXTS) == bpe.encode_batch(TEXTS)


def test_a_tokenizers_file_becomes_a_folder_nemo_reads(tmp_path: Path) -> None:
    path = write_backend(tmp_path / "tokenizer.json", "</s>")
    info = build_tokenizer(TokenizerConfig(kind="tokenizers", path=str(path)), [], tmp_path / "out")
    tokenizer = load_tokenizer(info)
    assert tokenizer.eos_id == Backend.from_file(str(path)).token_to_id("</s>")
    assert tokenizer.encode("the cat") == nemo_instance(info).text_to_ids("the cat")


@pytest.mark.parametrize("special", [(), ("</s>", EOS)])
def test_an_unclear_end_of_text_is_refused(tmp_path: Path, special: tuple[str, ...]) -> None:
    path = write_backend(tmp_path / "tokenizer.json", *special)
    with pytest.raises(
        DatasetError, match=r"tokenizer\.json: expected exactly one end-of-text token.*kind=huggingface"
    ):
        build_tokenizer(TokenizerConfig(kind="tokenizers", path=str(path)), [], tmp_path / "out")


def test_a_hugging_face_folder_without_eos_is_refused(tmp_path: Path, bpe_info: dict[str, Any]) -> None:
    folder = tmp_path / "no_eos"
    folder.mkdir()
    for path in Path(bpe_info["path"]).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = json.loads((folder / name).read_text())
        values.pop("eos_token")
        (folder / name).write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=r"no_eos: expected an end-of-text token, found no eos_token"):
        build_tokenizer(TokenizerConfig(kind="huggingface", path=str(folder)), [], tmp_path / "out")


def test_sentencepiece_models_agree_with_nemos_class(tmp_path: Path) -> None:
    path = train_sentencepiece(tmp_path, eos_id=2)
    info = build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)), [], tmp_path / "out")
    tokenizer, nemo = load_tokenizer(info), nemo_instance(info)
    assert tokenizer.vocab_size == nemo.vocab_size
    assert tokenizer.eos_id == nemo.eos_id == 2
    for text in TEXTS[:5]:
        assert tokenizer.encode(text) == nemo.text_to_ids(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch(TEXTS[:5]) == [tokenizer.encode(text) for text in TEXTS[:5]]


def test_a_sentencepiece_model_without_eos_is_refused(tmp_path: Path) -> None:
    path = train_sentencepiece(tmp_path, eos_id=-1)
    with pytest.raises(DatasetError, match=r"sp\.model: expected an end-of-text piece"):
        build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(path)), [], tmp_path / "out")


@pytest.mark.parametrize("kind", ["huggingface", "sentencepiece", "tokenizers"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "bad"
    if kind == "huggingface":
        bad.mkdir()
    else:
        bad.write_text("no tokenizer")
    with pytest.raises(DatasetError, match=r"tokenizer\.path: .*bad: expected a "):
        build_tokenizer(TokenizerConfig(kind=kind, path=str(bad)), [], tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TokenizerConfig(kind="gpt2"), r"tokenizer\.kind: expected one of train_bpe, .*found 'gpt2'"),
        (TokenizerConfig(kind="train_bpe"), r"tokenizer\.vocab_size: train_bpe needs at least 257"),
        (TokenizerConfig(kind="train_bpe", vocab_size=256), "found 256"),
        (TokenizerConfig(kind="huggingface"), r"tokenizer\.path: kind huggingface needs one"),
    ],
)
def test_an_incomplete_configuration_is_refused(config: TokenizerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tokenizer_identity(config)


def test_identity_follows_the_content_not_the_place(tmp_path: Path) -> None:
    first = write_backend(tmp_path / "a.json", EOS)
    (tmp_path / "b.json").write_bytes(first.read_bytes())
    same = [
        tokenizer_identity(TokenizerConfig(kind="tokenizers", path=str(tmp_path / name)))
        for name in ("a.json", "b.json")
    ]
    assert same[0] == same[1]
    with pytest.raises(DatasetError, match=r"gone\.json: expected a file for kind tokenizers"):
        tokenizer_identity(TokenizerConfig(kind="tokenizers", path=str(tmp_path / "gone.json")))


def write_with_gaps(folder: Path) -> Path:
    """A Hugging Face folder of four tokens, whose ids go up to 9."""
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.WordLevel({"a": 0, "b": 1, "</s>": 7, "c": 9}, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    return folder


def test_ids_with_gaps_have_rows_for_all_of_them(tmp_path: Path) -> None:
    path = write_with_gaps(tmp_path / "tokenizer")
    info = build_tokenizer(TokenizerConfig(kind="huggingface", path=str(path)), [], tmp_path / "out")
    assert info["vocab_size"] == 10, "its length is 4"
    assert load_tokenizer(info).encode("a b c") == [0, 1, 9]


def test_a_tokenizer_that_grew_since_it_was_prepared_is_refused(tmp_path: Path) -> None:
    path = write_with_gaps(tmp_path / "tokenizer")
    info = build_tokenizer(TokenizerConfig(kind="huggingface", path=str(path)), [], tmp_path / "out")
    content = json.loads((tmp_path / "out/tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"word{number}": number for number in range(10, 17)}
    (tmp_path / "out/tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"tokenizer\.json: has 11 tokens, 10 when it was prepared.*force=true"):
        load_tokenizer(info)


@pytest.mark.parametrize(
    ("asked", "tokens", "size"),
    [(None, 300, 384), (None, 384, 384), (None, 385, 512), (300, 300, 300), (320, 300, 320)],
)
def test_a_model_has_a_row_for_every_token(asked: int | None, tokens: int, size: int) -> None:
    assert padded_vocab_size(DemixConfig(model=ModelConfig(vocab_size=asked)), {"vocab_size": tokens}) == size


def test_a_model_that_lacks_rows_for_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.vocab_size=299: the tokenizer has 300 tokens"):
        padded_vocab_size(DemixConfig(model=ModelConfig(vocab_size=299)), {"vocab_size": 300})


def test_a_tokenizer_that_was_damaged_is_named(tmp_path: Path) -> None:
    given = write_with_gaps(tmp_path / "given")
    info = build_tokenizer(TokenizerConfig(kind="huggingface", path=str(given)), [], tmp_path / "out")
    for text in ("", "{", '{"model": 7}', "[" * 5000):
        (given / "tokenizer.json").write_text(text)
        with pytest.raises(DatasetError, match=r"tokenizer\.path: .*given: expected a Hugging Face tokenizer"):
            build_tokenizer(TokenizerConfig(kind="huggingface", path=str(given)), [], tmp_path / "other")
        (tmp_path / "out/tokenizer.json").write_text(text)
        with pytest.raises(DatasetError, match="out: expected the tokenizer, found a damaged file"):
            load_tokenizer(info)
    model = train_sentencepiece(tmp_path, eos_id=2)
    info = build_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(model)), [], tmp_path / "sp_out")
    Path(info["path"]).write_bytes(model.read_bytes()[:100])
    with pytest.raises(DatasetError, match="expected the tokenizer, found a damaged file"):
        load_tokenizer(info)


def test_code_that_a_tokenizer_brings_is_not_run_and_nobody_is_asked(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    (given / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}))
    (given / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "evil.Evil"}}))
    with pytest.raises(DatasetError, match=r"expected a Hugging Face tokenizer .*custom code"):
        build_tokenizer(TokenizerConfig(kind="huggingface", path=str(given)), [], tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_is_gone_is_named(tmp_path: Path) -> None:
    info = {"path": str(tmp_path / "gone"), "vocab_size": 1, "eos_id": 0, "kind": "train_bpe", "fingerprint": ""}
    with pytest.raises(DatasetError, match="gone: expected the tokenizer, found nothing"):
        load_tokenizer(info)
