"""How many threads the training of probes takes: one an operation, and several probes beside one another.

Probes are small, and threads that wait for each other after every operation cost more than they bring, a hundred times
more where other work has one of the processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for each of torch's operations, in threads begun inside too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
