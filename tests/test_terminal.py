"""What a person sees: a bar on a terminal, lines elsewhere, never nothing for long, and nothing of libraries."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, on_terminal

PROGRAM = """
import logging, os, sys, time, warnings
from pathlib import Path
from nemo_demix import terminal
from nemo_demix.progress import Progress, doing, tell
terminal.SILENCE_S = 0.2
shown = terminal.set_up(Path(sys.argv[1]) / "logs/libraries.log")
terminal.expect(lambda progress: "then final: 2 models; about 3 min in all")
log = logging.getLogger("nemo_demix.somewhere")
doing(log, "fitting the predictor")
logging.getLogger("library").warning("chatter of a library")
warnings.warn("a library's warning", FutureWarning)
with terminal.set_aside():
    os.write(2, b"printed by a library\\n")
    time.sleep(1.3)
for step, pause_s in ((100, 0), (200, 1.3), (210, 0), (400, 0)):
    facts = ("loss 3.2 nats/token", "120 tokens/s", 7.0)
    tell(log, Progress("component/math_1", step, 400, "step", *facts, is_line=step != 200))
    time.sleep(pause_s)
log.info("the end")
shown.close()
print("a result")
"""


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        cwd=REPOSITORY, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


def test_elsewhere_there_are_lines_and_libraries_go_to_a_file(tmp_path: Path) -> None:
    done = run(tmp_path)
    lines = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    assert lines[0] == "fitting the predictor"
    assert re.fullmatch(r"fitting the predictor: still at it, \d s so far", lines[1])
    told = [line for line in lines if "still at it" not in line]
    # The second is what is said after a silence; 210 comes too soon after it.
    assert told[1:] == [
        *(f"component/math_1: step {step}/400, loss 3.2 nats/token, 120 tokens/s, ETA 7 s" for step in (100, 200, 400)),
        "the end",
    ]
    assert done.stdout == "a result\n"
    kept = (tmp_path / "logs/libraries.log").read_text()
    assert all(text in kept for text in ("chatter of a library", "a library's warning", "printed by a library"))
    assert "component" not in kept


def test_all_is_seen_where_that_is_asked_for(tmp_path: Path) -> None:
    shown = run(tmp_path, NEMO_DEMIX_VERBOSE="1").stderr
    assert all(text in shown for text in ("chatter of a library", "a library's warning", "printed by a library"))
    assert shown.count("the end") == 1
    assert not (tmp_path / "logs").exists()


def test_a_terminal_has_one_bar_that_leaves_nothing_behind(tmp_path: Path) -> None:
    process, leader = on_terminal(PROGRAM, str(tmp_path), columns=100)
    seen = b""
    while True:
        try:
            seen += os.read(leader, 65536)
        except OSError:  # its end, as Linux says it
            break
    assert process.wait(30) == 0
    text = seen.decode()
    for part in ("fitting the predictor", "50 % 7 s left", "step 200/400 · loss 3.2", "then final: 2 models; about 3"):
        assert part in text
    assert not any(part in text for part in ("chatter", "warning", "printed by", "still at it"))
    left = _screen(text)
    assert [line.split(" ", 1)[1] for line in left[:-1]] == [
        "component/math_1: step 400/400, loss 3.2 nats/token, 120 tokens/s, ETA 7 s",
        "the end",
    ]
    assert left[-1] == "a result"


def _screen(text: str) -> list[str]:
    """The lines that are left on a terminal of endless height: carriage returns, lines up, erased lines."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[[?\d;]*[a-zA-Z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part.endswith("A") and part[0] == "\x1b":
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part[0] not in "\x1b\r":
            rows[row] = rows[row] + part
    return [line.rstrip() for line in rows if line.strip()]


@pytest.mark.parametrize(("seconds", "text"), [(43.4, "43 s"), (725, "12 min"), (11100, "3 h 05 min")])
def test_times_are_short(seconds: float, text: str) -> None:
    from nemo_demix.terminal import clock

    assert clock(seconds) == text
