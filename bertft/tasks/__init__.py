"""What an encoder can be fine-tuned on: `TASKS` names the tasks, one module each; `training` trains any of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bertft.errors import OptionError

if TYPE_CHECKING:
    from bertft.tasks.task import Task

__all__ = ["TASKS", "named_task"]

TASKS = {"mnli": "mnli", "squad": "squad", "dep": "dependency"}
"""Name of a task, the module of this package whose `TASK` it is."""


def named_task(name: str) -> Task[Any]:
    """The task of a name, imported when asked for; raises `OptionError` for one that is not in `TASKS`.

    >>> named_task("mnli").metric
    'accuracy'
    """
    if name not in TASKS:
        raise OptionError(f"unknown task {name!r}; choose one of {', '.join(TASKS)}")
    task: Task[Any] = importlib.import_module(f"bertft.tasks.{TASKS[name]}").TASK
    return task
