"""The page in a real Chromium: no errors, no requests, a phone's width, the keyboard, paper."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from lxml import html

from nemo_demix.report.page import report_stage
from tests.report.runs import HOSTILE, whole_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
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
  }, "*");
});</script>"""
FRAME = """<!doctype html><meta charset="utf-8"><pre id="said"></pre><script>
addEventListener("message", event => { document.getElementById("said").textContent = JSON.stringify(event.data); });
</script><iframe src="page.html" width="360" height="780"></iframe>"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


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
