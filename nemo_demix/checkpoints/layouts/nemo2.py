"""NeMo 2: ROOT/weights/, ROOT/context/.

Source: NeMo nemo/lightning/ckpt_utils.py, nemo/lightning/io (`context/`).
"""

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from nemo_demix.artifacts import parse_json
from nemo_demix.checkpoints.architecture import Architecture, from_config, read_yaml, section
from nemo_demix.checkpoints.files import read_file
from nemo_demix.checkpoints.layouts.base import Layout, check_within, within
from nemo_demix.checkpoints.layouts.training_folder import has_tracker
from nemo_demix.errors import CheckpointError, DemixError

logger = logging.getLogger(__name__)


class Nemo2(Layout):
    """A checkpoint of NeMo 2."""

    kind: ClassVar[str] = "nemo2"

    @classmethod
    def root_of(cls, path: Path) -> Path:
        """Return the folder that holds `weights` and `context`, where these weights were named."""
        return path.parent if path.name == "weights" and (path.parent / "context").is_dir() else path

    @classmethod
    def matches(cls, path: Path) -> Self | None:
        """Return it where there is a folder `weights`, and no tracker of Megatron's beside it."""
        return None if has_tracker(path) or not (path / "weights").is_dir() else cls(path, path / "weights")

    def check(self) -> None:
        """Refuse what every layout refuses, and weights that are a link to elsewhere."""
        check_within(self.root, self.weights)
        super().check()

    @cached_property
    def architecture(self) -> Architecture:
        """What `context/model.yaml` says, or `context/io.json` of versions that did not write it yet."""
        context = self.root / "context"
        if (context / "model.yaml").is_file():
            model = read_yaml(context.parent, context / "model.yaml")
            return from_config(section(model, "config"), model.get("_target_"))
        if (context / "io.json").is_file():
            return _from_io_json(context / "io.json")
        return Architecture()

    @cached_property
    def companions(self) -> tuple[Path, ...]:
        """What every layout has, and `context/`."""
        return tuple(sorted({*super().companions, *self.among(within([self.root / "context"]))}))


def _from_io_json(path: Path) -> Architecture:
    """Read fiddle's graph of the model's configuration: it holds what was set, without the defaults of its classes."""
    try:
        graph = parse_json(read_file(path.parents[1], path), path)
    except CheckpointError:
        raise
    except DemixError as error:
        logger.warning("%s: not the graph NeMo writes (%r); the architecture is unknown", path, error)
        return Architecture()
    values = io_json_config(graph)
    if not values:
        logger.warning("%s: not the graph NeMo writes; the architecture is unknown", path)
    return from_config(values, values.get(_CLASS), complete=False)


_CLASS = "_target_"  # as in model.yaml


def io_json_config(graph: Any) -> dict[str, Any]:
    """Return the plain values that NeMo's `context/io.json` sets in the model's configuration, by name; empty: it is
    none.

    `_target_` is the model's class.
    """
    try:
        objects = graph["objects"]
        model = _attributes(objects, _attributes(objects, graph["root"])["model"])
        config = _attributes(objects, model["config"])
        target = model["__fn_or_cls__"]
        values = {name: value.get("value") for name, value in config.items() if value.get("type") == "leaf"}
        return {**values, _CLASS: f"{target['module']}.{target['name']}"}
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _attributes(objects: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of one object of the graph by name; the class it builds as `__fn_or_cls__`."""
    found = objects[reference["key"]]
    metadata = objects[found["metadata"]["key"]]
    return {**_named(found["items"]), "__fn_or_cls__": _named(metadata["items"])["fn_or_cls"]}


def _named(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key.removeprefix("Attr(name='").removesuffix("')"): value for key, value in items}
