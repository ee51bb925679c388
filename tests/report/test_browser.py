"""The page in a real Chromium: no errors, no requests, a phone's width, the keyboard, paper."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lxml import html

from nemo_demix.artifacts import canonical_json
from nemo_demix.config import PredictorConfig
from nemo_demix.config.grammar import parsed
from nemo_demix.prediction.portable import packed, portable
from nemo_demix.prediction.predictors import FittedPredictor, fit_predictor, refits
from nemo_demix.report.page import report_stage
from nemo_demix.search.ranking import Ranking
from nemo_demix.search.slices import INTERVAL
from tests.report.runs import HOSTILE, Run, whole_run
from tests.search.test_recommended import GROUPS, TokenScreen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr"
).split()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")

EARLY = """<script>window.wrong = [];
addEventListener("error", event => wrong.push(event.message));
addEventListener("securitypolicyviolation", event => wrong.push(event.blockedURI));</script>"""
LATE = """<script>addEventListener("load", () => {
  const first = document.querySelector(".picks input");
  first.focus(); first.click();
  const zoomed = [...document.querySelectorAll("svg text")].map(one => one.getBoundingClientRect().height);
  dispatchEvent(new Event("beforeprint"));
  const closed = document.querySelectorAll("details:not([open])").length;
  dispatchEvent(new Event("afterprint"));
  parent.postMessage({
    wrong, closed, alerted: window.alerted || 0,
    requests: performance.getEntriesByType("resource").length,
    width: document.documentElement.clientWidth, needed: document.documentElement.scrollWidth,
    picked: document.querySelectorAll("svg .mark.picked").length,
    rows: document.querySelectorAll("tr.picked").length,
    drawings: [...document.querySelectorAll("figure svg")].map(one => one.getBoundingClientRect().width),
    smallest: Math.min(...zoomed),
    open: document.querySelectorAll("details[open]").length,
    focus: document.activeElement === first,
    crowded: [...document.querySelectorAll("figure svg")].filter(svg => {
      const ticks = [...svg.querySelectorAll('[id*="-xtick_"] text')].map(one => one.getBoundingClientRect());
      ticks.sort((one, other) => one.left - other.left);
      return ticks.some((one, place) => place && one.left < ticks[place - 1].right);
    }).map(svg => svg.getAttribute("aria-labelledby")),
  }, "*");
});</script>"""
FRAME = """<!doctype html><meta charset="utf-8"><pre id="said"></pre><script>
addEventListener("message", event => { document.getElementById("said").textContent = JSON.stringify(event.data); });
</script><iframe src="page.html" width="360" height="780"></iframe>"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it on a page that has nothing to say on the console: no error, no refused request, no warning."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done


def test_a_phone_shows_all_of_it_without_errors_or_requests(tmp_path: Path) -> None:
    path = report_stage(whole_run(tmp_path, HOSTILE).config)
    page = (
        path.read_text(encoding="utf-8").replace("alert(", "window.alerted = (").replace("<head>", f"<head>{EARLY}", 1)
    )
    page = page.replace("</body>", f"{LATE}</body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME, encoding="utf-8")
    shown = chromium(tmp_path, "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path}/frame.html").stdout
    said = json.loads(html.document_fromstring(shown).get_element_by_id("said").text_content())
    assert (said["wrong"], said["requests"], said["alerted"]) == ([], 0, 0)
    assert said["needed"] <= said["width"] <= 360
    assert len(said["drawings"]) > 8
    assert all(250 < width <= 360 for width in said["drawings"])
    assert said["smallest"] > 8  # pixels
    assert said["crowded"] == []  # numbers along an axis stand apart
    assert said["focus"]
    assert said["rows"] == 1
    assert said["picked"] == 3  # in each pair of capabilities
    assert (said["closed"], said["open"] > 5) == (0, True)


def test_paper_has_every_section(tmp_path: Path) -> None:
    path = report_stage(whole_run(tmp_path).config)
    pdf = tmp_path / "page.pdf"
    chromium(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", f"file://{path}")
    pages = re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())
    assert 4 <= len(pages) <= 30


SLIDE = """<script>addEventListener("load", () => {
  const slide = (place, value) => {
    const slider = document.querySelectorAll("#what-if input[type=range]")[place];
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    const values = (query, key) => [...document.querySelectorAll(query)].map(one => Number(one.dataset[key]));
    return {
      said: document.querySelector("#what-if .said").textContent,
      shares: values("#what-if-shares output", "value"),
      scores: values("#what-if-scores td:nth-child(2)", "value"),
      low: values("#what-if-scores td:nth-child(4)", "low"), high: values("#what-if-scores td:nth-child(4)", "high"),
      copied: document.querySelector("#what-if textarea").value,
    };
  };
  const moved = slide(0, 50);
  document.querySelectorAll("#what-if input[type=checkbox]")[0].click();
  const stopped = slide(1, 90);
  const others = OTHERS.map(([data, points]) => points.map(point => whatIf.predictor(data)(point)));
  const said = document.createElement("pre");
  said.id = "said";
  said.textContent = JSON.stringify({ wrong, moved, stopped, others });
  document.body.append(said);
});</script>"""


def test_sliders_predict_what_python_does(tmp_path: Path) -> None:
    run = Run(tmp_path).prepared().trained().scored()
    run.config.search.constraints.max = {"math_1": 0.4}
    path = report_stage(run.searched().config)
    page = path.read_text(encoding="utf-8").replace("<head>", f"<head>{EARLY}", 1)
    others = [_every_kind(), _tokens()]
    given = canonical_json([[data, points.tolist()] for data, points, _ in others])
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{SLIDE.replace('OTHERS', given)}</body>"))
    shown = chromium(tmp_path, "--virtual-time-budget=5000", "--dump-dom", f"file://{tmp_path}/page.html").stdout
    said = json.loads(html.document_fromstring(shown).get_element_by_id("said").text_content())
    assert said["wrong"] == []
    moved, stopped = said["moved"], said["stopped"]
    assert (moved["said"], stopped["said"]) == ("", "Stopped by search.constraints.max.math_1=0.4.")
    assert moved["shares"][0] == pytest.approx(0.5)
    assert stopped["shares"][:2] == pytest.approx([0.5, 0.4])  # the first is locked
    chosen = list(run.mixture["data_shares"].values())
    assert moved["shares"][1] / moved["shares"][2] == pytest.approx(chosen[1] / chosen[2])
    (override,) = shlex.split(stopped["copied"])
    assert parsed(override).value() == pytest.approx(dict(zip(run.names, stopped["shares"], strict=True)), abs=1e-8)
    assert parsed(override).key_or_group == "search.heuristic"

    ranking = Ranking(run.config.search, run.space, [row for row in run.rows if row.is_ok], 0)
    scored = ranking.scored
    predictors = [ranking.predictor, *refits(run.config.search.predictor, scored.weights_MC, scored.columns, 0, 3)]
    for one in (moved, stopped):
        shares = [dict(zip(run.names, values, strict=True)) for values in (one["shares"], chosen)]
        weights_2C = np.array([run.space.as_array(run.blend.merge_weights_for(given)[0]) for given in shares])
        found = [ranking.over_capabilities(predictor.predict(weights_2C)) for predictor in predictors]
        values = np.array([[*averages.values(), ranking.objective(averages)] for averages in found])
        assert one["scores"] == pytest.approx(values[0, :, 0], abs=1e-6)
        bounds = np.percentile(values[1:, :, 0] - values[1:, :, 1], INTERVAL, axis=0)
        assert [one["low"], one["high"]] == [pytest.approx(bounds[0], abs=1e-6), pytest.approx(bounds[1], abs=1e-6)]
    for (_, _, expected), got in zip(others, said["others"], strict=True):
        for number, draws in enumerate(expected):
            for name, values in draws.items():
                assert [point[number]["averages"][name] for point in got] == pytest.approx(values, abs=1e-6), name


def _every_kind() -> tuple[dict[str, object], np.ndarray, list[dict[str, np.ndarray]]]:
    """A predictor of each kind, points, and what it gives at them."""
    rng = np.random.default_rng(3)
    weights_MC, points = rng.dirichlet(np.ones(3), 24), rng.dirichlet(np.ones(3), 4)
    smooth_M = 3 - weights_MC[:, 0] + weights_MC[:, 1] ** 2 + 0.01 * rng.normal(size=24)
    columns = {"smooth": smooth_M, "bent": np.sqrt(weights_MC[:, 2])}
    models, expected = {}, {}
    for kind in ("lightgbm", "ridge", "log_linear", "gaussian_process", "stacked"):
        settings = replace(PredictorConfig(), kind=kind, num_rounds=20)
        predictor = fit_predictor(settings, weights_MC, columns, 0)
        assert isinstance(predictor, FittedPredictor)
        for name, model in predictor.models.items():
            models[f"{kind} {name}"] = portable(model, weights_MC)
            expected[f"{kind} {name}"] = model.predict(points)
    predictor_ = {"kind": "fitted", "rows": packed(weights_MC), "models": models, "refits": []}
    data = {"components": [1, 2, 3], "capabilities": {name: {name: 1.0} for name in models}, "objective": None}
    return data | {"predictor": predictor_}, points, [expected]


def _tokens() -> tuple[dict[str, object], np.ndarray, list[dict[str, np.ndarray]]]:
    """Mixed predictions with two resamples; a component of weight 0 is among the points."""
    rng = np.random.default_rng(4)
    screen = TokenScreen.drawn()
    screens = [screen, screen.resampled(rng), screen.resampled(rng)]
    points = np.vstack([rng.dirichlet(np.ones(3), 3), [0.0, 0.25, 0.75]])
    data = {"components": [1, 2, 3], "capabilities": {name: {name: 1.0} for name in GROUPS}, "objective": None}
    tokens = {"kind": "tokens", **screen.portable(GROUPS, screens[1:])}
    return data | {"predictor": tokens}, points, [one.scores_MB(points, GROUPS) for one in screens]
