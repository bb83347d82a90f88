"""The threads of probes: one for each operation, several probes in parallel.

Probes are small. Threads that wait for each other after every operation cost more time than they save, and a hundred
times more while other work occupies one of the processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run each operation of torch in one thread, also in threads started inside the context."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
