"""What is said and asked before a finished model is trained again: the reason, the cost, and whether to go on."""

import logging
import os
import sys
from collections.abc import Sequence

from nemo_demix.config import DemixConfig
from nemo_demix.errors import ConfigError
from nemo_demix.training.jobs import TrainJob
from nemo_demix.training.retraining import Retraining, retrainings

logger = logging.getLogger(__name__)


def confirm_retraining(config: DemixConfig, jobs: Sequence[TrainJob]) -> None:
    """Go on where no finished model would be trained again, or somebody has said that it may be.

    A terminal is asked. A job is not: it was submitted by somebody who was.

    Raises:
        ConfigError: if the answer is no, or there is no one to ask and --yes is not given.
    """
    found = retrainings(jobs)
    if not found:
        return
    for one in found:
        logger.warning("train again: %s", one)
    logger.warning("train again: %s", cost_of(found))
    if config.yes or os.environ.get("SLURM_JOB_ID"):
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        print("Train them again? What is there is kept under models/superseded/. [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
        raise ConfigError("nothing was trained: the answer was not yes; undo what changed, or set another name=")
    names, reasons = ", ".join(one.name for one in found), "; ".join(found[0].reasons)
    raise ConfigError(
        f"{names}: trained by another configuration ({reasons} changed); --yes trains them again and keeps the old "
        "ones under models/superseded/, another name= leaves them where they are"
    )


def cost_of(found: Sequence[Retraining]) -> str:
    """Return the cost of all together: models, tokens, and time where every one has a pace to go by."""
    tokens = sum(one.num_tokens for one in found)
    times = [one.wall_time_s for one in found if one.wall_time_s is not None]
    pace = f", about {sum(times):,.0f} s at their earlier pace" if len(times) == len(found) else ""
    return f"{len(found)} model{'s' if len(found) > 1 else ''}, {tokens:,} tokens{pace}"
