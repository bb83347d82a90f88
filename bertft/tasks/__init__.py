"""The tasks that an encoder can be fine-tuned on, one module each; the module `training` trains any of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertft.options import one_of

if TYPE_CHECKING:
    from bertft.tasks.task import Task

__all__ = ["TASKS", "named_task"]

TASKS = {"mnli": "mnli", "squad": "squad", "dep": "dependency"}
"""The name of each task, and the module of this package that defines it as `TASK`."""


def named_task(name: str) -> Task[Any]:
    """Import and return the task of a name; raises `OptionError` for a name that is not in `TASKS`.

    >>> named_task("mnli").metric
    'accuracy'
    """
    task: Task[Any] = importlib.import_module(f"bertft.tasks.{TASKS[one_of('task', name, TASKS)]}").TASK
    return task
