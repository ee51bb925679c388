"""What `suite.external` asks for, checked, and what its scores depend on besides the model."""

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from nemo_demix.artifacts import file_sha256, fingerprint
from nemo_demix.config import ExternalConfig, ExternalScoreConfig, SuiteConfig
from nemo_demix.errors import ConfigError, DemixError, refuse

REVISION = 1  # raised whenever the same answer of a command comes to other scores
FORMATS = ("megatron", "huggingface")
USES = ("search", "fit", "report")
CHECKPOINT, OUTPUT, NAME = "{checkpoint}", "{output}", "{name}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def external_scores(config: SuiteConfig, uses: Collection[str] | None = None) -> dict[str, ExternalScoreConfig]:
    """Return what every number of an external command is, by score name: `external/<key>/<name>`.

    Args:
        uses: Uses of those to include; None: all.
    Raises:
        ConfigError: if a command cannot be run as it is described.
    """
    found: dict[str, ExternalScoreConfig] = {}
    for key, external in config.external.items():
        refuse(external_errors(key, external))
        found |= {f"external/{key}/{name}": score for name, score in external.scores.items()}
    return {name: score for name, score in found.items() if uses is None or score.use in uses}


def external_errors(key: str, config: ExternalConfig) -> Iterator[DemixError]:
    """Yield what of an external command could not be run."""
    where = f"suite.external.{key}"
    if not _NAME.fullmatch(key):
        yield ConfigError(f"{where}: expected a name of letters, digits, '.', '_' and '-': it names files")
    if not config.command or not any(CHECKPOINT in part for part in config.command):
        yield ConfigError(
            f"{where}.command={config.command}: expected a program and its arguments, one of which holds {CHECKPOINT}"
        )
    if config.format not in FORMATS:
        yield ConfigError(f"{where}.format={config.format}: expected one of {', '.join(FORMATS)}")
    if not config.scores:
        yield ConfigError(f"{where}.scores: expected at least one name in the command's JSON; it is empty")
    if config.timeout_s <= 0 or config.retries < 0:
        yield ConfigError(
            f"{where}: timeout_s={config.timeout_s:g}, retries={config.retries}: expected above 0 s, and at least 0 "
            "more tries"
        )
    for name, score in config.scores.items():
        if score.use not in USES:
            yield ConfigError(f"{where}.scores.{name}.use: expected one of {', '.join(USES)}, found {score.use!r}")
        if score.weight <= 0:
            yield ConfigError(f"{where}.scores.{name}.weight={score.weight:g}: expected a number above 0")


def external_fingerprints(config: SuiteConfig, uses: Collection[str] | None = None) -> dict[str, str]:
    """Fingerprint all that can change each score besides the model, by score name.

    Raises:
        ConfigError: as `external_scores`.
    """
    commands = {key: command_fingerprint(external) for key, external in config.external.items()}
    return {
        name: fingerprint(
            command=commands[name.split("/", 2)[1]],
            unit=score.unit,
            higher_is_better=score.higher_is_better,
            chance=score.chance,
        )
        for name, score in external_scores(config, uses).items()
    }


def command_fingerprint(config: ExternalConfig) -> str:
    """Fingerprint a command, the files that it names (by their content), and the format that it is given models in."""
    files = [_contents(part) for part in config.command]
    return fingerprint(revision=REVISION, command=config.command, files=files, format=config.format, env=config.env)


def _contents(part: str) -> str | None:
    """Return the hash of the file that an argument names, alone or after its first `=`; None: it names none."""
    for text in (part, part.partition("=")[2]):
        path = Path(text)
        if text and len(text) < 4096 and path.is_file():
            found = path.stat()
            return _hash(path, found.st_size, found.st_mtime_ns)
    return None


@cache
def _hash(path: Path, size: int, modified_ns: int) -> str:
    return file_sha256(path)


def filled(command: list[str], values: Mapping[str, str]) -> list[str]:
    """Return a command with its placeholders replaced; other braces stay as they are."""
    result = []
    for part in command:
        for placeholder, value in values.items():
            part = part.replace(placeholder, value)
        result.append(part)
    return result
