"""How ``engine.py`` measures: time on the wall and of the cores, memory, and how long a network works."""

from __future__ import annotations

import os
import platform
import resource
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from landuse.model.predict import Predictor


class Timed:
    """A classifier that adds up how long it is at work; the rest of a run it waits."""

    def __init__(self, classifier: Predictor) -> None:
        self._classifier, self.seconds = classifier, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self._classifier, name)

    def cell_probabilities(self, *args: object) -> np.ndarray:
        began = time.perf_counter()
        found = self._classifier.cell_probabilities(*args)
        self.seconds += time.perf_counter() - began
        return found

    def shared_probabilities(self, *args: object, **kwargs: object) -> Iterator[tuple[int, np.ndarray]]:
        rows = self._classifier.shared_probabilities(*args, **kwargs)
        while True:
            began = time.perf_counter()
            row = next(rows, None)
            self.seconds += time.perf_counter() - began
            if row is None:
                return
            yield row


class Clock:
    """Seconds on the wall, and of all cores for this process and those it has waited for."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), sum(os.times()[:4])
        return self

    def __exit__(self, *raised: object) -> None:
        self._times = {"seconds": self.so_far(), "cpu_s": sum(os.times()[:4]) - self._cpu}

    def so_far(self) -> float:
        return time.perf_counter() - self._wall

    def times(self) -> dict[str, float]:
        return self._times


class Memory:
    """The most that this process and those below it held at one time; pages they share count for each."""

    def __enter__(self) -> Memory:
        self.peak_mb, self._ended = 0.0, threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._ended.wait(0.2):
            held = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, held / 1024**2)


def peak_rss_mb() -> float:
    """The most memory this process has held."""
    try:  # getrusage counts also what the parent held when it started this process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return held / (1024**2 if platform.system() == "Darwin" else 1024)


def warm(catalog: Path) -> None:
    """Bring the files into the system's cache."""
    for path in catalog.parent.rglob("*.tif"):
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
