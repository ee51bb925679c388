"""`init FOLDER... [--output FILE]`: a commented recipe for folders of text, with what was guessed written beside it."""

import argparse
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_demix.artifacts import write_text
from nemo_demix.datasets.files import PACKED
from nemo_demix.datasets.readers import ROWS, SUFFIXES, TEXT, first_row
from nemo_demix.errors import ConfigError, DatasetError, DemixError

_CODE = (".py", ".c", ".cc", ".cpp", ".h", ".hpp", ".cu", ".rs", ".go", ".java", ".js", ".ts", ".rb", ".jl", ".sh")
_TEXT_FIELDS = ("text", "content", "body", "document", "raw_content", "markdown")
# Words of folders' names, by what they usually hold.
_WORDS = {
    "math": "math maths algebra geometry calculus theorem proof arxiv gsm",
    "code": "code src source sources repo repos repositories python java github stack programs scripts",
}
_MANY = 100_000  # files, after which nobody waits for a guess
# Bytes of text for each stored one, about: docs/first_hour.md has 3.3 and 2.4.
_UNPACKED = {**dict.fromkeys(PACKED, 3.0), ".parquet": 2.5}
_BETA = 0.25  # the quickstart's


@dataclass(frozen=True)
class Guess:
    """A dataset as a folder suggests it, and why."""

    name: str
    capability: str
    source: str  # as YAML
    why: str
    num_bytes: float  # of text, about


def init_command(arguments: Sequence[str]) -> None:
    """Write the recipe; nothing is overwritten.

    Raises:
        DatasetError: if a folder holds nothing that can be read.
        ConfigError: if the file is there already.
    """
    parser = argparse.ArgumentParser(prog="nemo-demix init", description=__doc__, exit_on_error=False)
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    parser.add_argument("--output", default="mine.yaml", metavar="FILE")
    try:
        given = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(f"init: {error}") from None
    output = Path(given.output)
    if not given.folders:
        raise ConfigError("init: expected folders of text, one a dataset, as in `nemo-demix init data/web data/math`")
    if output.suffix != ".yaml":
        raise ConfigError(f"init: --output={output}: expected a name ending in .yaml")
    if output.exists():
        raise ConfigError(f"init: {output} exists already, and nothing is overwritten; set --output to another name")
    guesses: list[Guess] = []
    for folder in given.folders:
        guesses.append(guess(Path(folder), {one.name for one in guesses}))
    general = general_of(guesses)
    share = next(one.num_bytes for one in guesses if one.name == general) / (sum(one.num_bytes for one in guesses) or 1)
    write_text(output, recipe_text(output.stem, guesses, general, share))
    for one in guesses:
        print(f"{one.name}: capability {one.capability}, {one.source}\n    {one.why}")
    print(f"general dataset, mixed into every component: {general}, about {100 * share:.0f} % of all text")
    print(f"{output}: read it, then `nemo-demix check --config-name {output}`")


def guess(folder: Path, taken: set[str]) -> Guess:
    """Return what a folder seems to hold.

    Args:
        taken: Names of other datasets.
    Raises:
        DatasetError: if it is no folder, or holds no file of a known kind.
    """
    if not folder.is_dir():
        raise DatasetError(f"init: {folder}: expected a folder, found none; correct the path")
    suffixes: Counter[str] = Counter()
    first: dict[str, Path] = {}
    deepest = 0
    for number, path in enumerate(folder.rglob("*")):
        if number >= _MANY:
            break
        suffix = next((one for one in (*SUFFIXES, *_CODE) if path.name.lower().endswith(one)), None)
        if suffix is not None and path.is_file():
            suffixes[suffix] += path.stat().st_size
            first.setdefault(suffix, path)
            deepest = max(deepest, len(path.relative_to(folder).parts))
    if len(suffixes) > 1:  # settings, more often than text
        del suffixes[".json"]
    if not suffixes:
        raise DatasetError(
            f"init: {folder}: found no file ending in {', '.join((*TEXT, *ROWS, '.parquet', *_CODE))}; convert the "
            "text, or name a folder that holds some"
        )
    biggest = suffixes.most_common(1)[0][0]
    name = _name(folder, taken)
    by_name = _by_name(folder)
    if biggest in _CODE:
        kinds = [one for one, _ in suffixes.most_common() if one in _CODE]
        source = f"{{code: {_quoted(str(folder))}, code_suffixes: [{', '.join(kinds)}]}}"
        why = f"most bytes are in {biggest} files; code_suffixes: those found"
        return Guess(name, by_name or "code", source, why, sum(suffixes[one] for one in kinds))
    pattern = str(folder / ("**/*" if deepest > 1 else "*")) + biggest
    field, why = _text_field(first[biggest], biggest)
    more = [one for one in suffixes if one != biggest]
    left_out = f"; {', '.join(more)} files are left out: name another source for them" if more else ""
    source = f"{{path: {_quoted(pattern)}{field}}}"
    reason = f"most bytes are in {biggest} files{why}{left_out}"
    said = "its name says" if by_name else "nothing in its name says"
    num_bytes = suffixes[biggest] * next((more for end, more in _UNPACKED.items() if biggest.endswith(end)), 1.0)
    return Guess(name, by_name or "general", source, f"{reason}; {said} {by_name or 'another capability'}", num_bytes)


def _text_field(path: Path, suffix: str) -> tuple[str, str]:
    """Return the field of a row that holds its text, as YAML, and how it was found."""
    if suffix.startswith(TEXT):
        return "", ", each one document"
    try:
        row = first_row(str(path))
    except DemixError as error:
        return "", f"; its first row cannot be read ({error})"
    strings = {key: value for key, value in row.items() if isinstance(value, str)}
    found = next((one for one in _TEXT_FIELDS if one in strings), None)
    why = "as it is called"
    if found is None and strings:
        found, why = max(strings, key=lambda key: len(strings[key])), "the longest text of the first row"
    if found is None:
        return "", f"; its rows have no text, only {sorted(row)}: name text_field"
    return f", text_field: {_quoted(found)}", f"; text_field {found}: {why}"


def general_of(guesses: Sequence[Guess]) -> str:
    """Return the dataset that the others are mixed with: the first that is general, else the first."""
    return next((one.name for one in guesses if one.capability == "general"), guesses[0].name)


def _by_name(folder: Path) -> str | None:
    words = set(re.split(r"[^a-z]+", folder.resolve().name.lower()))
    return next((capability for capability, known in _WORDS.items() if words & set(known.split())), None)


def _name(folder: Path, taken: set[str]) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", folder.resolve().name).strip("_.-") or "dataset"
    names = [plain, *(f"{plain}_{number}" for number in range(2, len(taken) + 3))]
    return next(one for one in names if one not in taken)


def _quoted(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_./-]+", text) else json.dumps(text, ensure_ascii=False)


def recipe_text(name: str, guesses: Sequence[Guess], general: str, share: float) -> str:
    """Return the recipe as YAML.

    Args:
        share: The general dataset's part of all text, about. A mixture may then have half as much of it.
    """
    beta = ""
    if share / 2 < _BETA:
        half, why = round(share / 2, 3), f"half of its part of all text, about {100 * share:.0f} %"
        beta = f"  beta: {half:g} # {why}; the quickstart's is {_BETA}\n"
    datasets = "".join(
        f"  {one.name}: # {one.why}\n    capability: {one.capability}\n    sources: [{one.source}]\n" for one in guesses
    )
    return f"""\
# Written by `nemo-demix init`; what it guessed is said beside it. The block of datasets replaces the quickstart's.
# Everything else is the quickstart's: a tiny model on two CPU cores, to see every part work on your text.
#   nemo-demix check --config-name {name}.yaml     # what was understood, and what is wrong
#   nemo-demix run --config-name {name}.yaml
defaults: [quickstart, _self_]
name: {name}

# capability: which benchmarks the dataset is for: general, math or code, or one that you give the suite.
datasets:
{datasets}
# Every component is trained on a share `beta` of this dataset, so no mixture has less of it.
components:
  general: {general}
{beta}base:
  blend: {{{general}: 1.0}}

# To grow: the model, its tokenizer and the tokens of each role (1B, 300M and 2.5e9 are numbers, too).
# tokenizer: {{kind: huggingface, path: Qwen/Qwen3-1.7B}}
# model: ... as in recipes/qwen3_1p7b.yaml
# base: {{num_tokens: 50B}}
"""
