"""Work in a process of its own, where nothing else takes memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import psutil

EVERY = 0.005
"""Seconds between two looks at the memory: a look takes 20 µs of the watching process, not of the one watched."""

SERVE = """
import json, sys
replies, sys.stdout = sys.stdout, sys.stderr  # what the work prints is no reply
for line in sys.stdin:
    exec(json.loads(line))
    print(json.dumps(answer), file=replies, flush=True)
"""


class OwnProcess:
    """A contestant of `race` that works in a new process each round: time, memory and the answer are of one run.

    setup, work, conclude: code.  `setup` is neither timed nor counted; `work` is; `conclude` follows it, sees its names
    and leaves an `answer` for JSON.  `over` has the peak of each round above what was resident after `setup`, in MiB.
    """

    def __init__(self, setup: str, work: str, conclude: str = "") -> None:
        self.setup, self.work, self.conclude = setup, work, conclude
        self.over: list[float] = []

    def prepare(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._do(f"{self.setup}\nanswer = None")

    def __call__(self) -> None:
        watched = psutil.Process(self.process.pid)
        base = peak = watched.memory_info().rss
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(EVERY):
                peak = max(peak, watched.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self._do(f"{self.work}\nanswer = None")
        finally:
            done.set()
            watcher.join()
        self.over.append((peak - base) / 2**20)

    def finish(self) -> Any:
        """The answer of the round; the process is gone afterwards."""
        answer = self._do(self.conclude)
        self.process.communicate()
        return answer

    def _do(self, code: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            raise RuntimeError(f"the process ended with {self.process.returncode}; its error is above")
        return json.loads(line)
