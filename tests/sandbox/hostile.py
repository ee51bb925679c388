"""Programs that try to do harm; each passes if it succeeds. What stands outside, for them to harm, is a `Target`.

Where the sandbox is broken they do it: so they go for what the test has made, or only look whether they could.

A program that failed proves nothing unless it came to its attack. So each says how it has to end: mostly with what the
kernel answered. Where others may end in that way too, such as by a time limit, its `arrival` is among the samples.
"""

import ast
from dataclasses import dataclass, replace

SECRET = "the caller's secret"


@dataclass(frozen=True)
class Target:
    """What a program is told about its caller, more than a model could know.

    Attributes:
        caller, neighbour: Process ids, of the caller and of another one of its user.
        folder: Of the caller, with `secret.txt` in it.
        port, abstract, datagrams: Where the caller listens: on TCP, on a Unix socket without a file, on another
            for datagrams.
        address: Of the secret in the caller's memory.
    """

    caller: int
    neighbour: int
    folder: str
    port: int
    abstract: str
    datagrams: str
    address: int


# How programs end, as `status: detail`: regular expressions of all of it.
_ANSWERS = "PermissionError|FileNotFoundError|ProcessLookupError|NotADirectoryError|OSError|gaierror"
REFUSED = rf"failed: (\w+: (<urlopen error )?\[Errno \d+\] .*|AssertionError: \{{('({_ANSWERS})'(, )?)+\}})"
TIMED_OUT = "timed out: ran for 1 s"
OUT_OF_MEMORY = "out of memory: MemoryError"
OVERFLOWN = "killed: SIGSEGV"
LEFT = "failed: ended with code 0 before its end"
ARRIVED = "failed: AssertionError: at its attack"
_SAID_BY_OTHERS = (TIMED_OUT, OUT_OF_MEMORY, "killed: ", "failed: ended with code 1 ")


@dataclass(frozen=True)
class Sample:
    """One attack: its kind, what it tries, and the program, in which `target` is known.

    Attributes:
        ends: How it ends where it does not succeed.
        steps: Statements before its attack; -1: all but the last.
        reads: It looks at what only namespaces or Landlock hide.
        succeeds: It is made for this very sandbox, which cannot keep it from passing.
        harmless: It may be run without a sandbox, where it succeeds.
    """

    kind: str
    tries: str
    program: str
    ends: str = REFUSED
    steps: int = -1
    reads: bool = False
    succeeds: bool = False
    harmless: bool = False

    def arrival(self) -> "Sample":
        """The same program up to its attack, in place of which it says that it has come there."""
        statements = ast.parse(self.program).body[: self.steps]
        program = "\n".join([*map(ast.unparse, statements), "raise AssertionError('at its attack')"])
        return replace(self, kind="arrival", program=program, ends=ARRIVED, reads=False, harmless=False)

    def source(self, target: Target) -> str:
        """The program, told about the target."""
        return f"class target:\n    vars().update({vars(target)!r})\n{self.program}"


_ANY = """
worked, refused = [], set()
def absent():
    raise ProcessLookupError
def attempt(action):
    try:
        worked.append(action())
    except Exception as error:
        refused.add(type(error).__name__)
"""
_LIBC = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return result
"""

SAMPLES = [
    Sample("processes", "fork bomb", "import os\nwhile True:\n    os.fork()"),
    Sample(
        "processes",
        "fork bomb that minds no errors",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except BaseException: pass",
        ends=TIMED_OUT,
    ),
    Sample(
        "processes",
        "subprocess",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''], check=True)",
        harmless=True,
    ),
    Sample(
        "processes",
        "os.system",
        "import os\ncode = os.system('true')\nassert code == 0, code",
        ends="failed: AssertionError: (-1|32512)",
        harmless=True,
    ),
    Sample("processes", "posix_spawn", "import os\nos.posix_spawn('/bin/sh', ['sh', '-c', 'true'], {})", harmless=True),
    Sample("processes", "exec of another program", "import os\nos.execv('/bin/true', ['true'])"),
    Sample(
        "processes",
        "fork, vfork, clone and clone3 by number",
        _ANY + _LIBC + "import platform\nx86 = platform.machine() == 'x86_64'\n"
        "for number, first in (((57, 0), (58, 0), (56, 17)) if x86 else ((220, 17),)):\n"
        "    attempt(lambda: call(number, ctypes.c_long(first), None, None, None, None) or libc._exit(9))\n"
        "attempt(lambda: call(435, b'\\0' * 32 + (17).to_bytes(8, 'little') + b'\\0' * 24, 64) or libc._exit(9))\n"
        "assert worked, refused",
    ),
    Sample(
        "processes",
        "daemon that outlives the program",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        while True: time.sleep(1)\n    os._exit(0)",
    ),
    Sample(
        "processes",
        "5000 threads",
        "import threading, time\nthreading.stack_size(32768)\n"
        "for _ in range(5000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
        ends="failed: RuntimeError: can't start new thread",
    ),
    Sample("time", "infinite loop", "while True: pass", ends=TIMED_OUT),
    Sample(
        "time",
        "infinite loop that minds no signals and no errors",
        "import signal, contextlib\nfor number in signal.valid_signals():\n"
        "    with contextlib.suppress(OSError): signal.signal(number, signal.SIG_IGN)\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        ends=TIMED_OUT,
    ),
    Sample("time", "sleep", "import time\ntime.sleep(1000)", ends=TIMED_OUT),
    Sample("time", "infinite loop in C", "import re\nre.match('(a*)*b', 'a' * 64)", ends=TIMED_OUT),
    Sample(
        "time",
        "closes every descriptor, and goes on",
        "import os\nos.closerange(0, 4096)\nwhile True: pass",
        ends=TIMED_OUT,
        steps=1,
    ),
    Sample("memory", "4 GiB at once", "block = bytearray(4 << 30)", ends=OUT_OF_MEMORY),
    Sample(
        "memory",
        "4 GiB bit by bit",
        "blocks = [bytearray(1 << 20) for _ in range(4096)]",
        ends=f"{OUT_OF_MEMORY}|{TIMED_OUT}",
    ),
    Sample("memory", "an integer of 10^11 digits", "number = 10 ** 10 ** 11", ends=f"{TIMED_OUT}|{OUT_OF_MEMORY}"),
    Sample(
        "memory",
        "4 GiB of anonymous files",
        "import os\nfiles = [os.memfd_create(str(n)) for n in range(300)]\n"
        "for file in files: os.write(file, bytes(14 << 20))",
    ),
    Sample(
        "memory",
        "4 GiB of shared memory",
        "import mmap\nblock = mmap.mmap(-1, 4 << 30)\nblock[::4096] = b'x' * (1 << 20)",
    ),
    Sample(
        "memory",
        "raising its own limits",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)",
        ends="failed: ValueError: not allowed to raise maximum limit",
    ),
    Sample(
        "memory",
        "stack overflow in C",
        "import sys\nsys.setrecursionlimit(10**8)\nf = lambda n: [n].sort(key=f)\nf(1)",
        ends=OVERFLOWN,
    ),
    Sample(
        "disk",
        "a file of 64 GiB",
        "with open('file', 'wb') as stream:\n    for _ in range(4096): stream.write(bytes(16 << 20))",
    ),
    Sample(
        "disk",
        "10,000 files of 1 MiB",
        "for n in range(10_000):\n    with open(str(n), 'wb') as stream: stream.write(bytes(1 << 20))",
    ),
    Sample("disk", "a million empty files", "for n in range(1_000_000): open(str(n), 'w').close()"),
    Sample("disk", "a hole of 1 TiB", "with open('file', 'wb') as stream: stream.truncate(1 << 40)"),
    Sample("output", "endless output", "while True: print('x' * 100_000)", ends=TIMED_OUT),
    Sample(
        "output",
        "an error of 100 MiB",
        "raise ValueError('x' * (100 << 20))",
        ends=f"{TIMED_OUT}|failed: ValueError: x{{188}}",
    ),
    Sample(
        "output",
        "4 GiB into every descriptor",
        "import os\nwhile True:\n    for number in range(64):\n"
        "        try: os.write(number, bytes(1 << 20))\n        except OSError: pass",
        ends=TIMED_OUT,
    ),
    Sample(
        "files",
        "deleting the caller's folder",
        "import os, shutil\nassert os.path.exists(target.folder), 'it is not there'\nshutil.rmtree(target.folder)",
        ends=f"{REFUSED}|failed: AssertionError: it is not there",
        harmless=True,
    ),
    Sample(
        "files",
        "deleting one of the caller's files",
        "import os\nos.remove(target.folder + '/secret.txt')",
        harmless=True,
    ),
    Sample(
        "files", "emptying one of the caller's files", "open(target.folder + '/secret.txt', 'w').close()", harmless=True
    ),
    Sample(
        "files",
        "os.truncate and os.rename",
        _ANY + "import os\nfile = target.folder + '/secret.txt'\n"
        "attempt(lambda: os.truncate(file, 0) or 1)\nattempt(lambda: os.rename(file, file + '2') or 1)\n"
        "attempt(lambda: os.chmod(file, 0) or 1)\nattempt(lambda: os.link(file, file + '3') or 1)\n"
        "assert worked, refused",
        harmless=True,
    ),
    Sample(
        "files",
        "reading one of the caller's files",
        "assert open(target.folder + '/secret.txt').read()",
        reads=True,
        harmless=True,
    ),
    Sample(
        "files",
        "reading /etc/shadow and /etc/passwd",
        _ANY
        + "for file in ('/etc/shadow', '/etc/passwd'):\n    attempt(lambda: open(file).read())\nassert worked, refused",
        reads=True,
        harmless=True,
    ),
    Sample(
        "files",
        "writing beside Python's modules",
        _ANY + "import os, random\nfolder = os.path.dirname(random.__file__)\n"
        "attempt(lambda: open(folder + '/evil.py', 'w').close() or 1)\n"
        "attempt(lambda: open(random.__file__, 'r+').close() or 1)\n"
        "attempt(lambda: os.utime(random.__file__) or 1)\nassert worked, refused",
    ),
    Sample(
        "files",
        "out of the scratch folder by links and dots",
        _ANY + "import os\n"
        "ways = ['link' + target.folder, '../' * 9 + target.folder[1:], '/proc/self/root' + target.folder,\n"
        "        '/proc/1/root' + target.folder, '/old_root' + target.folder, '/dev/fd/3/../../' + target.folder]\n"
        "attempt(lambda: os.symlink('/', 'link'))\n"
        "for way in ways:\n    attempt(lambda: open(way + '/secret.txt').read())\n"
        "worked = [text for text in worked if text]\nassert worked, refused",
        reads=True,
        harmless=True,
    ),
    Sample(
        "files",
        "out of the root by descriptors",
        _ANY + "import os\nfor number in range(3, 1024):\n"
        "    for way in ('.', '..', '../../../..'):\n"
        "        attempt(lambda: os.listdir(os.open(way, os.O_RDONLY, dir_fd=number)))\nassert worked, refused",
        harmless=True,
    ),
    Sample(
        "files",
        "mounting, chroot, unshare",
        _ANY + _LIBC + "import os\nattempt(lambda: os.chroot('/') or 1)\n"
        "for action in (lambda: libc.unshare(0x10000000), lambda: libc.unshare(0x20000),\n"
        "               lambda: libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None), lambda: libc.umount2(b'/tmp', 2)):\n"
        "    worked += [1] if action() == 0 else []\nassert worked, refused",
    ),
    Sample(
        "files",
        "what an earlier program left in the scratch folder",
        "import os\nfound = os.listdir('.')\nassert 'left' in found, found",
        ends=rf"{REFUSED}|failed: AssertionError: \[.*",
        harmless=True,
    ),
    Sample(
        "network",
        "the caller's TCP port",
        "import socket\nsocket.create_connection(('127.0.0.1', target.port), 1).send(b'x')",
        harmless=True,
    ),
    Sample(
        "network",
        "the caller's Unix socket",
        "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0' + target.abstract)",
        harmless=True,
    ),
    Sample(
        "network",
        "the caller's Unix socket, by datagrams of a pair",
        "import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', '\\0' + target.datagrams)",
        harmless=True,
    ),
    Sample(
        "network",
        "a descriptor into the caller's Unix socket",
        "import array, socket\nfile = array.array('i', [0])\n"
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendmsg(\n"
        "    [b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, file)], 0, '\\0' + target.datagrams)",
        harmless=True,
    ),
    Sample(
        "network",
        "a server of the internet",
        "import urllib.request\nurllib.request.urlopen('http://1.1.1.1/', timeout=1)",
    ),
    Sample(
        "network",
        "a name, UDP, raw and netlink sockets",
        _ANY + "import socket\n"
        "attempt(lambda: socket.getaddrinfo('example.org', 80))\n"
        "for family, kind in ((2, 2), (2, 3), (10, 1), (16, 3), (17, 3), (38, 5)):\n"
        "    attempt(lambda: socket.socket(family, kind))\nassert worked, refused",
    ),
    Sample(
        "environment",
        "os.environ, /proc/self/environ",
        _ANY + "import os\n"
        "attempt(lambda: os.environ.get('DEMIX_SECRET') or absent())\n"
        "for number in ('self', target.caller, os.getppid()):\n"
        "    attempt(lambda: 'DEMIX_SECRET' in open(f'/proc/{number}/environ').read() or absent())\n"
        "assert worked, refused",
        harmless=True,
    ),
    Sample(
        "environment",
        "the commands of other processes",
        "import os\nassert [n for n in os.listdir('/proc') if n.isdigit()], 'none'",
        reads=True,
        ends=f"{REFUSED}|failed: AssertionError: none",
        harmless=True,
    ),
    Sample(
        "environment",
        "descriptors of the caller",
        _ANY
        + "import os\nfor number in range(4, 1024):\n    attempt(lambda: os.fstat(number))\nassert worked, refused",
        harmless=True,
    ),
    Sample(
        "caller",
        "reading its memory",
        _ANY + _LIBC + "import os, struct\n"
        "def read():\n    with open(f'/proc/{target.caller}/mem', 'rb') as stream:\n"
        "        stream.seek(target.address)\n        return stream.read(8)\nattempt(read)\n"
        "buffer = ctypes.create_string_buffer(8)\nmine = struct.pack('PP', ctypes.addressof(buffer), 8)\n"
        "theirs = struct.pack('PP', target.address, 8)\n"
        "worked += [1] if libc.process_vm_readv(target.caller, mine, 1, theirs, 1, 0) > 0 else []\n"
        "worked += [1] if libc.ptrace(16, target.caller, None, None) == 0 else []\nassert worked, refused",
        reads=True,
        harmless=True,
    ),
    Sample(
        "caller",
        "killing it",
        _ANY + "import os, signal\nfor number in (target.caller, target.neighbour, os.getppid()):\n"
        "    attempt(lambda: number and (os.kill(number, signal.SIGKILL) or 1) or absent())\nassert worked, refused",
        harmless=True,
    ),
    Sample(
        "caller",
        "whether it exists",
        _ANY + "import os\nfor ask in (os.getpgid, os.getsid, os.sched_getaffinity, os.sched_getscheduler):\n"
        "    attempt(lambda: ask(target.caller) is not None)\nassert worked, refused",
        harmless=True,
    ),
    Sample("caller", "a signal to every process", "import os\nos.kill(-1, 0)", harmless=True),
    # The group is to be its own; that of the caller would end with this test.
    Sample(
        "caller",
        "killing its process group",
        "import os, signal\nos.killpg(0, signal.SIGKILL)\nraise SystemExit(1)",
        ends=f"{REFUSED}|failed: SystemExit: 1",
    ),
    Sample(
        "caller",
        "a signal to any process by number",
        _ANY + "import os\nfor number in range(2, 100_000):\n"
        "    if number != os.getpid(): attempt(lambda: os.kill(number, 0) or number)\nassert worked, refused",
        ends=f"{TIMED_OUT}|{REFUSED}",
        steps=-2,
        harmless=True,
    ),
    Sample(
        "caller",
        "a signal by way of a descriptor's owner",
        "import fcntl, os\nreading, writing = os.pipe()\n"
        "fcntl.fcntl(reading, 10, 9)\nfcntl.fcntl(reading, fcntl.F_SETOWN, target.neighbour)\n"
        "fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)\nos.write(writing, b'x')",
        harmless=True,
    ),
    Sample(
        "caller",
        "its limits and its priority",
        _ANY + "import os, resource\n"
        "attempt(lambda: resource.prlimit(target.caller, resource.RLIMIT_NOFILE, (8, 8)))\n"
        "attempt(lambda: os.setpriority(os.PRIO_PROCESS, target.caller, 19) or 1)\nassert worked, refused",
        harmless=True,
    ),
    Sample(
        "kernel",
        "becoming root again",
        _ANY
        + "import os\nattempt(lambda: os.setuid(0) or 1)\nattempt(lambda: os.setgid(0) or 1)\nassert worked, refused",
    ),
    Sample(
        "kernel",
        "bpf, keyctl, perf, userfaultfd, io_uring, kexec, modules, swap, reboot, clocks",
        _ANY + _LIBC + "import platform\nx86 = platform.machine() == 'x86_64'\n"
        "numbers = (321, 250, 298, 323, 425, 246, 175, 313, 167, 169, 227, 164, 135, 317, 272, 308, 310, 155\n"
        ") if x86 else (280, 219, 241, 282, 425, 104, 105, 273, 224, 142, 112, 170, 92, 277, 97, 268, 270, 41)\n"
        "for number in numbers:\n    attempt(lambda: call(number, 0, 0, 0, 0, 0))\nassert worked, refused",
    ),
    Sample(
        "kernel",
        "calls of a 32-bit program, past the filter",
        _LIBC + "import mmap, platform\n"
        "assert platform.machine() == 'x86_64', 'another processor'\n"
        "code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "code.write(bytes.fromhex('b814000000cd80c3'))  # getpid through int 0x80\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()",
        ends="killed: SIG(SYS|SEGV)|failed: AssertionError: another processor",
    ),
    Sample("kernel", "crash of the interpreter", "import ctypes\nctypes.string_at(0)", ends=OVERFLOWN),
    Sample("tests", "sys.exit(0)", "import sys\nsys.exit(0)\nassert False", ends="failed: SystemExit: 0"),
    Sample("tests", "os._exit(0)", "import os\nos._exit(0)\nassert False", ends=LEFT),
    Sample("tests", "_exit of the C library", "import ctypes\nctypes.CDLL(None)._exit(0)\nassert False", ends=LEFT),
    Sample(
        "tests",
        "exit handlers that leave with 0",
        "import atexit, os\natexit.register(os._exit, 0)\nassert False, 'its test'",
        ends="failed: AssertionError: its test",
    ),
    Sample(
        "tests",
        "an excepthook that leaves with 0",
        "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\nassert False, 'its test'",
        ends="failed: AssertionError: its test",
    ),
    Sample(
        "tests",
        "other functions in place of the harness's",
        "import builtins, os\nbuiltins.isinstance = lambda *_: True\n"
        "builtins.BaseException = int\nos._exit = lambda code: None\nos.write = lambda *_: 0\nassert False",
        ends="failed: ended with code 1 before its end",
        steps=1,
    ),
    Sample(
        "tests",
        "a report of its own, into every descriptor",
        "import os\nfor number in range(3, 64):\n"
        "    for text in (b'passed', b'passed\\n', b'{\"status\": \"passed\"}\\n'):\n"
        "        try: os.write(number, text)\n        except OSError: pass\nos._exit(0)",
        ends=LEFT,
    ),
    Sample(
        "tests",
        "a verdict that nobody could read, with the harness's own password",
        "import os, sys\nframe = sys._getframe()\nwhile 'password' not in frame.f_locals: frame = frame.f_back\n"
        "for text in (b'\\nno room', b'\\xff' * 5000): os.write(3, frame.f_locals['password'] + text)\nos._exit(1)",
        ends="failed: ended with code 1 before its end",
        steps=3,
    ),
    Sample(
        "tests",
        "the harness's own password, out of its frame",
        "import os, sys\nframe = sys._getframe()\nwhile 'password' not in frame.f_locals: frame = frame.f_back\n"
        "os.write(3, frame.f_locals['password'])\nos._exit(0)",
        succeeds=True,
    ),
]
SAMPLES += [sample.arrival() for sample in SAMPLES if any(end in sample.ends for end in _SAID_BY_OTHERS)]
