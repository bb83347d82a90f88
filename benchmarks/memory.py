"""Run code in a separate process and measure its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import psutil

INTERVAL = 0.005
"""Seconds between two memory samples. A sample costs this process 20 µs and does not slow the measured one."""

SERVE = """
import json, sys
replies, sys.stdout = sys.stdout, sys.stderr  # output of the code must not mix with replies
for line in sys.stdin:
    exec(json.loads(line))
    print(json.dumps(answer), file=replies, flush=True)
"""


class OwnProcess:
    """A contestant of `race` that runs in a new process in each round.

    Time, memory and the answer come from the same run.

    setup: code that runs first. It is neither timed nor included in the memory.
    work: code that is timed and whose memory is measured.
    conclude: code that runs last. It sees the names of `work` and sets `answer` to a value that JSON can represent.

    The attribute `memory` holds the peak of each round above the resident memory after `setup`, in MiB.
    """

    def __init__(self, setup: str, work: str, conclude: str = "") -> None:
        self.setup, self.work, self.conclude = setup, work, conclude
        self.memory: list[float] = []

    def prepare(self) -> None:
        """Start a new process and run `setup`."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._do(f"{self.setup}\nanswer = None")

    def __call__(self) -> None:
        """Run `work` and record its peak memory."""
        watched = psutil.Process(self.process.pid)
        base = peak = watched.memory_info().rss
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(INTERVAL):
                peak = max(peak, watched.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            self._do(f"{self.work}\nanswer = None")
        finally:
            done.set()
            watcher.join()
        self.memory.append((peak - base) / 2**20)

    def finish(self) -> Any:
        """Run `conclude`, end the process and return the answer."""
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
            raise RuntimeError(f"the process exited with status {self.process.returncode}; its error is shown above")
        return json.loads(line)
