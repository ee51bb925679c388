"""What the quickstart takes and finds: reads a finished `runs/quickstart` (or --run DIR) that `nemo-demix run` made.

Wall times and peak memory are of the call of `run` that wrote `timing.json`: they are whole if it was the only one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from _provenance import finish


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity; reading takes a second")
    arguments = parser.parse_args()

    def read(path: str) -> Any:
        return json.loads((arguments.run / path).read_text())

    timing, mixture, result, cost = (
        read(path) for path in ("timing.json", "search/mixture.json", "final/result.json", "cost.json")
    )
    rows = [{"stage": stage, **row} for stage, row in timing.items()]
    rows += [
        {
            "model": str(path.parent.relative_to(arguments.run)),
            **{k: record[k] for k in ("delta", "final_loss", "wall_time_s")},
        }
        for path in sorted(arguments.run.glob("models/*/*/record.json"))
        for record in [json.loads(path.read_text())]
    ]
    rows += [{"final": name, "capabilities": model["capabilities"]} for name, model in result["models"].items()]
    checks = mixture["cross_validation"]
    comparison = result["chosen_minus"]["proportional"]
    summary = {
        "wall_s": round(sum(row["wall_time_s"] for row in timing.values()), 1),
        **{f"wall_s_{stage}": row["wall_time_s"] for stage, row in timing.items()},
        "peak_memory_gib": max(row["peak_memory_gib"] for row in timing.values()),
        "merge_share": cost["merge_share_of_search"],
        "proxies_per_minute": cost["proxies_per_minute"],
        "cv_rho_macro": checks["rho_macro"],
        **{f"cv_rho_{name}": rho for name, rho in checks["capability_rho"].items()},
        "final_minus_proportional": comparison["difference"],
        "final_minus_proportional_low": comparison["low"],
        "final_minus_proportional_high": comparison["high"],
        "verdict": comparison["verdict"],
    }
    rows.append({"mixture": mixture})
    finish("quickstart", arguments.quick, [mixture["seed"]], rows, summary)


if __name__ == "__main__":
    main()
