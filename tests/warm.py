"""Processes that start warm: forked from one that has imported what commands import, which takes seconds.

They are what a new process of Python is otherwise: own arguments, environment, folder, streams and signals,
and the interpreter's own end. What a test says of imports, of memory, of a limit of the system, or of
processes that agree whatever their hash seeds needs a cold one, as ``subprocess`` starts it.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

IMPORTED = (
    "geopandas",
    "landuse.model.predict_pixels",
    "landuse.pipeline.search.stac_http",
    "landuse.workflows.change",
    "landuse.workflows.demo.run_demo",
    "landuse.workflows.imagery.one_step",
    "landuse.workflows.mapping.from_python",
    "landuse.workflows.model_card",
    "landuse.workflows.training.train",
    "matplotlib.backends.backend_agg",
    "mpl_toolkits.axes_grid1.anchored_artists",
    "pystac",
)
"""What most of them need. Nothing of it looks at the environment or at a stream as it is imported."""

LARGEST = 1 << 20
"""Bytes of a request; an environment is the longest part."""


class Warm:
    """A process that was started, with the part of ``subprocess.Popen`` that tests use; its pipes are text.

    Args:
        arguments: as after ``python``: a script, ``-c`` and code, or ``-m`` and a module; then its own.
        env: its environment, this one's by default.
        cwd: its folder, this one's by default.
        stdin: ``subprocess.PIPE``, or nothing to read.
        stdout: a number of an open file; a pipe by default.
        stderr: the same.
        needs: modules to import before, for this process and later ones.
    """

    def __init__(self, arguments, *, env=None, cwd=None, stdin=None, stdout=None, stderr=None, needs=()):
        self.returncode = None
        self._replies, reply = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        job = {
            "arguments": [str(argument) for argument in arguments],
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
            "needs": list(needs),
        }
        with contextlib.ExitStack() as handed:
            handed.callback(reply.close)
            self.stdin, theirs = None, os.open(os.devnull, os.O_RDONLY)
            if stdin is not None:
                os.close(theirs)
                theirs, ours = os.pipe()
                self.stdin = os.fdopen(ours, "w", encoding="utf-8")
            handed.callback(os.close, theirs)
            files = [theirs]
            for name, given in (("stdout", stdout), ("stderr", stderr)):
                setattr(self, name, None)
                if given is None:
                    ours, given = os.pipe()
                    setattr(self, name, os.fdopen(ours, encoding="utf-8"))
                    handed.callback(os.close, given)
                files.append(given)
            socket.send_fds(_server(), [json.dumps(job).encode()], [*files, reply.fileno()])
        self.pid = self._told(None)

    def _told(self, timeout):
        """The next number that the server says, None if that takes longer."""
        self._replies.settimeout(timeout)
        try:
            said = self._replies.recv(8)
        except (TimeoutError, BlockingIOError):
            return None
        assert said, "the process that starts others has ended"
        return struct.unpack("q", said)[0]

    def poll(self):
        if self.returncode is None:
            self.returncode = self._told(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = self._told(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, input="", timeout=300):
        """What it writes until it ends: two texts, empty where that goes elsewhere."""
        said = {}

        def read(name):
            said[name] = getattr(self, name).read()

        readers = [threading.Thread(target=read, args=[name]) for name in ("stdout", "stderr")]
        readers = [reader for reader, pipe in zip(readers, (self.stdout, self.stderr), strict=True) if pipe]
        for reader in readers:
            reader.start()
        if self.stdin:
            with contextlib.suppress(BrokenPipeError):  # it may end without reading
                self.stdin.write(input)
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return said.get("stdout", ""), said.get("stderr", "")

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.wait()
        self._replies.close()


def run(arguments, *, input=None, timeout=300, **options):
    """A process to its end, as ``subprocess.run`` with its output captured as text."""
    stdin = None if input is None else subprocess.PIPE
    with Warm(arguments, stdin=stdin, **options) as process:
        try:
            out, err = process.communicate(input or "", timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@contextlib.contextmanager
def python_of_others(folder):
    """A program that others may start in the place of Python: what it is to run starts warm.

    It hands on SIGINT and SIGTERM, and ends as the process does that it stands for.

    Args:
        folder: where the program and its socket lie.
    """
    place, program = folder / "warm.socket", folder / "python"
    program.write_text(f"#!{sys.executable} -IS\n{_STANDS_FOR_PYTHON.format(place=str(place))}")
    program.chmod(0o755)

    def hand_on():
        with contextlib.suppress(OSError):  # it is closed
            while True:
                asking, _ = listening.accept()
                with asking:
                    asked, files, _, _ = socket.recv_fds(asking, LARGEST, 3)
                    socket.send_fds(_server(), [asked], [*files, asking.fileno()])
                    for file in files:
                        os.close(file)

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(place))
        listening.listen()
        thread = threading.Thread(target=hand_on, daemon=True)
        thread.start()
        try:
            yield program
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


_STANDS_FOR_PYTHON = """
import json, os, signal, socket, struct, sys
job = {{
    "arguments": [argument for argument in sys.argv[1:] if argument != "-u"],
    "env": dict(os.environ),
    "cwd": os.getcwd(),
    "needs": [],
}}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    asking.connect({place!r})
    socket.send_fds(asking, [json.dumps(job).encode()], [0, 1, 2])
    (pid,) = struct.unpack("q", asking.recv(8))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(pid, number))
    (code,) = struct.unpack("q", asking.recv(8))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@cache
def _server():
    """Where requests go. Its process is started with the first, and ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    theirs.close()

    def end():
        ours.shutdown(socket.SHUT_RDWR)  # whoever else has it open, by a fork of this process
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(requests):
    """Fork a process for each request; return only in those, with what they are to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of the tests: they end, and this one with them
    sys.path.pop(0)  # the folder of this file
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    started = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fd != requests.fileno():
                    pid, reply = started.pop(key.fd)
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    with contextlib.suppress(OSError):  # whoever asked may be gone
                        os.write(reply, struct.pack("q", status))
                    os.close(reply)
                    continue
                asked, files, _, _ = socket.recv_fds(requests, LARGEST, 4)
                if not asked:
                    sys.exit()
                *streams, reply = files
                job = json.loads(asked)
                for name in job["needs"]:
                    importlib.import_module(name)
                pid = os.fork()
                if not pid:
                    for pidfd, (_, other) in started.items():
                        os.close(pidfd)
                        os.close(other)
                    os.close(reply)
                    requests.close()
                    return job, streams
                for stream in streams:
                    os.close(stream)
                pidfd = os.pidfd_open(pid)
                started[pidfd] = pid, reply
                waiting.register(pidfd, selectors.EVENT_READ)
                os.write(reply, struct.pack("q", pid))


def become(job, streams):
    """Make this process what a new one would be as it begins with the request."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False)
    for path in reversed(job["env"].get("PYTHONPATH", "").split(os.pathsep)):
        if path and path not in sys.path:
            sys.path.insert(0, path)
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if (threads := os.environ.get("OMP_NUM_THREADS")) and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(threads))


def begin(arguments):
    """What ``python`` does with the arguments."""
    kind, *rest = arguments
    if kind == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        sys.path.insert(0, "")
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = list(rest)
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    work = serve(socket.socket(fileno=int(sys.argv[1])))
    become(*work)
    begin(work[0]["arguments"])
