"""What the person sees: our own lines, one moving bar on a terminal, and nothing that a library says.

`set_up` gives the package's records to the terminal and everyone else's to a file, or with -v to the terminal too.
Other processes of ours log into files; see `ranks/said.py`.
"""

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nemo_demix.progress import Progress, is_line, progress_of

if TYPE_CHECKING:
    from rich.console import RenderableType

VERBOSE = "NEMO_DEMIX_VERBOSE"  # 1: what libraries say comes to the terminal; -v sets it
SILENCE_S = 15.0  # after which a line says how far the work is, or that the same is still being done
REPEAT_S = 5.0  # two lines of one piece of work, at least
_OURS = "nemo_demix"
_FORMAT = logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
Outlook = Callable[[Progress], str]


def is_verbose() -> bool:
    """Return whether everything is to be seen."""
    return os.environ.get(VERBOSE) == "1"


def heard_verbose(arguments: list[str]) -> list[str]:
    """Return a command line without -v, which is kept in the environment: ranks see it too."""
    rest = [argument for argument in arguments if argument not in ("-v", "--verbose")]
    if len(rest) < len(arguments):
        os.environ[VERBOSE] = "1"
    return rest


def set_up(others: Path | None) -> "Terminal":
    """Send this process's records where they belong; what was set up before is closed.

    Args:
        others: The file for what libraries say, made when the first of them does; None: nowhere.
    """
    ours, root = logging.getLogger(_OURS), logging.getLogger()
    for handler in (*ours.handlers, *root.handlers):
        if isinstance(handler, Terminal):
            handler.close()
    ours.handlers = []
    terminal = Terminal()
    root.handlers = [terminal] if is_verbose() else [_file(others)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    ours.setLevel(logging.INFO)
    if terminal not in root.handlers:
        ours.addHandler(terminal)
    return terminal


def _file(path: Path | None) -> logging.Handler:
    if path is None:
        return logging.NullHandler()
    handler = _Others(path, delay=True, encoding="utf-8")
    handler.addFilter(lambda record: not record.name.startswith(_OURS))
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    return handler


class _Others(logging.FileHandler):
    """A file in a folder that may not be there yet."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()


def expect(outlook: Outlook) -> None:
    """Say below the bar what follows, as long as this process runs."""
    for handler in (*logging.getLogger(_OURS).handlers, *logging.getLogger().handlers):
        if isinstance(handler, Terminal):
            handler.outlook = outlook


@contextmanager
def set_aside() -> Iterator[None]:
    """Keep what libraries print (not log) from the terminal, while inside: it goes where their records go."""
    if is_verbose():
        yield
        return
    with tempfile.TemporaryFile() as kept:
        try:
            with output_to(kept):
                yield
        finally:
            kept.seek(0)
            if printed := kept.read().decode("utf-8", "replace").strip():
                logging.getLogger("printed").warning("%s", printed)


@contextmanager
def output_to(file: IO[bytes]) -> Iterator[None]:
    """Send everything that this process and its libraries print to a file, while inside."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    for descriptor in (1, 2):
        os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, own in zip((1, 2), before, strict=True):
            os.dup2(own, descriptor)
            os.close(own)


class Terminal(logging.Handler):
    """Shows records on stderr: a bar where that is a terminal, lines elsewhere, and never nothing for long.

    Attributes:
        outlook: What comes after the work that a bar is of, in words.
        is_living: There is a bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_FORMAT)
        self.outlook: Outlook = lambda progress: ""
        self.is_living = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._stream = os.fdopen(os.dup(2), "w", buffering=1)  # whatever is done with stderr meanwhile
        self._bar: _Bar | None = None
        self._process = os.getpid()
        self._spoke = self._began = time.monotonic()
        self._doing, self._is_counted = "", False
        self._told = ""  # what the last line was about
        self._untold = ""  # how far the work has come since, as a line
        self._over = threading.Event()
        if not self.is_living:
            threading.Thread(target=self._watch, name="demix-watch", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record; after `close` there is nothing to show it on."""
        if self._over.is_set():
            return
        progress = progress_of(record)
        if not self.is_living or os.getpid() != self._process:
            self._note(progress, record.getMessage())
            if is_line(record) and not self._is_early(progress):
                self._print(record)
        elif progress is not None and not progress.is_finished:
            if self._bar is None:
                self._bar = _Bar(self._stream)
            self._bar.show(progress, self.outlook(progress))
        elif is_line(record):
            self._take_down()
            self._print(record)

    def close(self) -> None:
        """Take the bar away."""
        self._over.set()
        self.acquire()
        try:
            self._take_down()
            self._stream.close()
        finally:
            self.release()
        super().close()

    def _take_down(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def _note(self, progress: Progress | None, text: str) -> None:
        """Keep what is being done: to be said again where nothing else is for long."""
        if progress is not None:
            doing = f"{progress.what}: finishing" if progress.is_finished else progress.what
            self._is_counted = progress.total > 0
        elif self._is_counted:  # a remark between two steps
            return
        else:
            doing = text
        if doing != self._doing:
            self._doing, self._began = doing, time.monotonic()
        self._untold = text if self._is_counted else ""

    def _is_early(self, progress: Progress | None) -> bool:
        """Return whether a line about the same, which is not its end, has only just been printed."""
        if progress is None or not progress.total or progress.is_finished or progress.what != self._told:
            return False
        return time.monotonic() - self._spoke < REPEAT_S

    def _print(self, record: logging.LogRecord) -> None:
        self._spoke, self._told, self._untold = time.monotonic(), self._doing, ""
        print(self.format(record), file=self._stream, flush=True)

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.acquire()
            try:
                now = time.monotonic()
                if not self._over.is_set() and self._doing and now - self._spoke >= SILENCE_S:
                    text = self._untold or f"{self._doing}: still at it, {now - self._began:.0f} s so far"
                    self._print(logging.LogRecord(_OURS, logging.INFO, "", 0, text, None, None))
            finally:
                self.release()


class _Bar:
    """Rows at the bottom of a terminal: how far the work is, what it gives, what follows."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._progress, self._outlook, self._since = Progress(""), "", time.monotonic()
        self._spinner = Spinner("dots")
        self._live: Live = Live(
            get_renderable=self._rows,
            console=Console(file=stream),
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
        )
        self._live.start()

    def show(self, progress: Progress, outlook: str) -> None:
        if progress.what != self._progress.what:
            self._since = time.monotonic()
        self._progress, self._outlook = progress, outlook

    def close(self) -> None:
        self._live.stop()

    def _rows(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        one, now = self._progress, time.monotonic()
        row = Table.grid(padding=(0, 1), expand=False)
        parts: list[RenderableType] = [self._spinner, Text(one.what, no_wrap=True, overflow="ellipsis")]
        if one.total:
            share = f"{100 * one.done / one.total:.0f} %"
            left = "" if one.remaining_s is None else f"{clock(one.remaining_s)} left"
            bar = ProgressBar(total=one.total, completed=one.done, width=24)
            parts += [bar, Text(" ".join(filter(None, (share, left))), no_wrap=True)]
        else:
            parts.append(Text(clock(now - self._since), no_wrap=True))
        row.add_row(*parts)
        counted = f"{one.unit} {one.done:,.0f}/{one.total:,.0f}" if one.total else ""
        below = (" · ".join(filter(None, (counted, one.facts, one.rate))), self._outlook)
        return Group(
            row, *(Text(f"  {text}", style="dim", no_wrap=True, overflow="ellipsis") for text in filter(None, below))
        )


def clock(seconds: float) -> str:
    """Return `43 s`, `12 min`, `3 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{rest} s"
