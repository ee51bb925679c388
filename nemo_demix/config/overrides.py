"""`key=value` as people write it: on the command line, and in `launch.jobs.<stage>.overrides`."""

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_demix.config.launch import LaunchJobConfig
from nemo_demix.config.run import DemixConfig, to_dataclasses
from nemo_demix.config.values import fitted, is_count, is_section
from nemo_demix.errors import ConfigError, DemixError

STAGES_WITH_JOBS = ("prepare", "base", "components", "references", "verify", "search", "final")


def read_overrides(texts: Sequence[str], errors: list[DemixError]) -> tuple[list[str], set[str]]:
    """Overrides as Hydra is to get them, counts as numbers, and the groups that they choose from.

    Args:
        errors: Gets one for each that the schema has no place for; Hydra does not get that one.
    """
    kept, groups = [], set()
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            kept.append(text)  # Hydra's to refuse
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
            errors += found
            continue
        for part in key.split("."):
            content = content[part]
        kept.append(f"{text.partition('=')[0]}={content}" if is_count(key) and content != value else text)
    return kept, groups


def stage_config(config: DemixConfig, stage: str) -> DemixConfig:
    """The configuration that a stage's jobs run with.

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
    """Overrides of the stages' jobs that cannot be applied."""
    for stage in STAGES_WITH_JOBS:
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
        override = OverridesParser.create().parse_override(read[0])
        if override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{where}: {text}: expected key=value")
        OmegaConf.update(config, override.key_or_group, override.value(), force_add=override.is_add())
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: {text}: {' '.join(str(error).split())}") from None
