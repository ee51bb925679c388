"""`key=value` as people write it: on the command line, and in `launch.jobs.<stage>.overrides`."""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_demix.config.demix import DemixConfig, to_dataclasses
from nemo_demix.config.grammar import in_yaml, parsed
from nemo_demix.config.launch import LaunchJobConfig
from nemo_demix.config.stages import STAGES
from nemo_demix.config.values import fitted, is_count, is_section, kind_at
from nemo_demix.errors import ConfigError, DemixError


def read_overrides(texts: Sequence[str], errors: list[DemixError]) -> tuple[list[str], set[str]]:
    """Return overrides as Hydra is to get them, counts as numbers, and the groups that they choose from.

    Args:
        errors: Gets one for each that the schema has no place for; Hydra does not get that one.
    """
    kept, groups = [], set()
    for text in texts:
        try:
            override = parsed(text)
        except ConfigError as error:
            errors.append(error)
            continue
        key = override.key_or_group
        if key.startswith("hydra") or "/" in key or override.is_sweep_override() or override.is_delete():
            kept.append(text)
            continue
        value = override.value()
        if isinstance(value, str) and is_section(key):
            groups.add(key)  # search=demix
            kept.append(text)
            continue
        found: list[DemixError] = []
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        content = fitted(nested, found)
        if found:
            dotted = _dotted(text, key)
            errors += [ConfigError(f"{error}{dotted}") for error in found] if dotted else found
            continue
        for part in key.split("."):
            content = content[part]
        if is_count(key) and content != value:
            text = f"{text.partition('=')[0]}={content}"
        kept.append(_added(text, key))
    return kept, groups


def _dotted(text: str, key: str) -> str:
    """Return how a name with a dot in it is written, where a key that there is not could hold one; else nothing."""
    parts = key.split(".")
    for count in range(1, len(parts) - 2):
        kind = kind_at(".".join(parts[:count]))
        if get_origin(kind) is dict and parts[-1] in getattr(get_args(kind)[1], "__dataclass_fields__", ()):
            named = [*parts[:count], ".".join(parts[count:-1]), parts[-1]]
            return f"; a name with a dot is written in the recipe: {in_yaml(named, text.partition('=')[2])}"
    return ""


def _added(text: str, key: str) -> str:
    """Return an argument that adds one of the user's own names to a mapping, in the form in which OmegaConf takes it.

    It gives a new entry no type below the mapping itself; and limits by dataset need no `+`, as there are none yet.
    """
    parts = key.split(".")
    for count in range(1, len(parts) + 1):
        kind = kind_at(".".join(parts[:count]))
        if get_origin(kind) is not dict or get_args(kind)[1] is Any:
            continue
        if count == len(parts) or not is_dataclass(get_args(kind)[1]):
            return f"++{text.lstrip('+')}"
        if not text.startswith("+"):
            return text
        value = text.partition("=")[2]
        for part in reversed(parts[count:]):
            value = f"{{{part}:{value}}}"
        return f"++{'.'.join(parts[:count])}={value}"
    return text


def stage_config(config: DemixConfig, stage: str) -> DemixConfig:
    """Return the configuration that a stage's jobs run with.

    Raises:
        ConfigError: if an override of launch.jobs.<stage> cannot be applied.
    """
    settings: LaunchJobConfig = getattr(config.launch.jobs, stage)
    if not settings.overrides:
        return config
    changed = OmegaConf.structured(config)
    for text in settings.overrides:
        apply_override(changed, text, f"launch.jobs.{stage}.overrides")
    return to_dataclasses(changed)


def override_errors(config: DemixConfig) -> Iterator[DemixError]:
    """Yield errors for overrides of the stages' jobs that cannot be applied."""
    for stage in STAGES:
        texts = getattr(config.launch.jobs, stage).overrides
        changed = OmegaConf.structured(config) if texts else None
        for text in texts:
            try:
                apply_override(changed, text, f"launch.jobs.{stage}.overrides")
            except ConfigError as error:
                yield error


def apply_override(config: Any, text: str, where: str) -> None:
    """Set one key of a composed configuration.

    Raises:
        ConfigError: if the text is no key=value, or the schema has no place for it.
    """
    errors: list[DemixError] = []
    read, _ = read_overrides([text], errors)
    if errors:
        raise ConfigError(f"{where}: {errors[0]}")
    try:
        override = parsed(read[0])
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{where}: {text}: expected key=value")
        is_new = override.is_add() or override.is_force_add()
        OmegaConf.update(config, override.key_or_group, override.value(), force_add=is_new)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: {text}: {' '.join(str(error).split())}") from None
