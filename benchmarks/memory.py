"""Memory, measured where nothing else is: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys


def peak_memory(setup: str, work: str) -> dict[str, float]:
    """Runs code in a new process: MiB resident after `setup`, peak above it during `work`, its seconds, its answer."""
    program = f"""
import json, resource, threading, time
import psutil
{setup}
process = psutil.Process()
base = process.memory_info().rss
peak, done = base, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, process.memory_info().rss)
watcher = threading.Thread(target=watch); watcher.start()
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
done.set(); watcher.join()
print(json.dumps(dict(base=base / 2**20, over=(peak - base) / 2**20, seconds=seconds, answer=float(answer))))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    found: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return found
