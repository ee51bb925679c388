"""Several conversions in one process: CONFIG FOLDER REQUESTS, a JSON list of (stage, source, output, overrides)."""

import json
import sys
from pathlib import Path

from nemo_demix.config import load_resolved
from nemo_demix.stages.convert import export_stage, import_stage


def main() -> None:
    folder = Path(sys.argv[2])
    for stage, source, output, overrides in json.loads(sys.argv[3]):
        config = load_resolved(Path(sys.argv[1]))
        config.runs_dir, config.model.overrides = str(folder / "runs"), {"model": {"config": overrides}}
        config.convert.source, config.convert.output = str(folder / source), str(folder / output)
        (export_stage if stage == "export" else import_stage)(config)
    print(json.dumps("done"), flush=True)


if __name__ == "__main__":
    main()
