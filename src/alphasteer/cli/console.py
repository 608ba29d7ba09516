"""How commands speak: sentences and progress bars on standard error, results on standard output."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


class ConsoleReporter:
    """A reporter that draws progress bars with a remaining time; quiet, it says nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False, markup=False)

    def say(self, message: str) -> None:
        """Print one sentence."""
        self.console.print(message)

    def track(self, items: Iterable[tuple[T, int]], description: str, total: int) -> Iterator[T]:
        """Draw a bar that grows by each item's share; where there is no terminal, print one line when done."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(description, total=total)
            for item, share in items:
                yield item
                progress.advance(task, share)
