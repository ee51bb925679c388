"""What a run's folder says of itself: the configuration of its last command, and where that was started."""

import os
from pathlib import Path
from typing import Any

from nemo_demix.errors import ConfigError
from nemo_demix.plain_yaml import parse_yaml

# Keys of earlier releases, and the value by which they asked for nothing. Every folder of theirs records them all.
RETIRED: dict[str, Any] = {"merge.reuse_slots": 0}


def drop_retired(content: dict[Any, Any]) -> None:
    """Take from a configuration the retired keys that ask for nothing; one that does is the schema's to refuse."""
    for key, idle in RETIRED.items():
        *sections, name = key.split(".")
        found: Any = content
        for section in sections:
            found = found.get(section) if isinstance(found, dict) else None
        if isinstance(found, dict) and found.get(name, object()) == idle:
            del found[name]


def recorded_recipe(folder: Path) -> Path | None:
    """Return the run's configuration, whole: of its jobs where there are such, else of the last command;
    None: no run.
    """
    for name in ("launch/recipe.yaml", "config.yaml"):
        if (folder / name).is_file():
            return folder / name
    return None


def recorded_place(folder: Path) -> Path | None:
    """Return the folder that the run's last command was started in, to which relative paths belong; None where it is
    gone.

    Raises:
        ConfigError: if the record of it is damaged.
    """
    record = folder / "logs" / "hydra" / ".hydra" / "hydra.yaml"
    if not record.is_file():
        return None
    try:
        content = parse_yaml(record.read_bytes())
        place = Path(str(content["hydra"]["runtime"]["cwd"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{record}: expected hydra.runtime.cwd, where the run was started, found {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; delete the file, and start this command where the run was started"
        ) from None
    return place if place.is_absolute() and os.path.isdir(place) else None  # Path.is_dir trips over a long name
