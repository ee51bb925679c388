"""What the quickstart takes and finds: reads a finished `runs/quickstart` (or --run DIR) that `nemo-demix run` made.

Wall times add up over the calls of `run` that it took; peak memory is the highest of them.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from _provenance import finish
from decision import verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--label", default="", help="added to the name of the result")
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity; reading takes a second")
    arguments = parser.parse_args()

    def read(path: str) -> Any:
        return json.loads((arguments.run / path).read_text())

    mixture, result, cost = (read(path) for path in ("search/mixture.json", "final/result.json", "cost.json"))
    timing = [json.loads(line) for line in (arguments.run / "timing.jsonl").read_text().splitlines()]
    rows: list[dict[str, Any]] = list(timing)
    wall_s: Counter[str] = Counter()
    for row in timing:
        wall_s[row["stage"]] += row["wall_time_s"]
    rows += [
        {
            "model": str(path.parent.relative_to(arguments.run)),
            **{k: record[k] for k in ("delta", "final_loss", "wall_time_s")},
        }
        for path in sorted(arguments.run.glob("models/*/*/record.json"))
        for record in [json.loads(path.read_text())]
    ]
    rows += [{"final": name, "capabilities": model["capabilities"]} for name, model in result["models"].items()]
    checks = mixture["cross_validation"] or {
        "rho_macro": None,
        "capability_rho": {},
    }  # nothing is fitted to predictions
    agreement = mixture["notes"].get("merges", {}).get("rho", {})
    comparison = verdict(result)
    summary = {
        "wall_s": round(sum(wall_s.values()), 1),
        **{f"wall_s_{stage}": round(seconds, 1) for stage, seconds in wall_s.items()},
        "peak_memory_gib": max(row["peak_memory_gib"] for row in timing),
        "merge_share": cost["merge_share_of_search"],
        "proxies_per_minute": cost["proxies_per_minute"],
        "cv_rho_macro": checks["rho_macro"],
        **{f"cv_rho_{name}": rho for name, rho in checks["capability_rho"].items()},
        **{f"merges_rho_{name}": rho for name, rho in agreement.items()},
        "final_minus_proportional": comparison["difference"],
        "final_minus_proportional_low": comparison["low"],
        "final_minus_proportional_high": comparison["high"],
        "verdict": comparison["verdict"],
    }
    rows.append({"mixture": mixture})
    finish(f"quickstart{arguments.label}", arguments.quick, [mixture["seed"]], rows, summary)


if __name__ == "__main__":
    main()
