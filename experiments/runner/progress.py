"""What a training shows: a bar in a terminal, else a line for each epoch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.runner.fit import Epoch, Figures


class Shown(NamedTuple):
    """What hears of a training."""

    on_step: Callable[[int, int], None]  # (steps so far, steps in all)
    on_epoch: Callable[[Epoch, float], None]  # (the epoch, its seconds)


@contextmanager
def shown(phase: str) -> Iterator[Shown]:
    """Yields what shows the training of a phase."""
    console = Console()
    if not console.is_terminal:
        yield Shown(lambda *_: None, lambda *epoch: print(line(phase, *epoch), flush=True))
        return
    columns = (TextColumn("{task.description:>12}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(phase, total=None, visible=False, text="")

        def on_step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        def on_epoch(epoch: Epoch, seconds: float) -> None:
            del seconds
            text = f"{epoch.number}/{epoch.total}  {described(epoch.figures)}"
            bar.update(task, text=text)

        yield Shown(on_step, on_epoch)


def line(phase: str, epoch: Epoch, seconds: float) -> str:
    """Returns the line of an epoch.

    >>> line("dense", Epoch(1, 3, {"loss": 0.5}), 2.0)
    '       dense  epoch 1/3  loss 0.5000  2.0 s'
    """
    numbers = f"epoch {epoch.number}/{epoch.total}  {described(epoch.figures)}"
    return f"{phase:>12}  {numbers}  {seconds:.1f} s"


def described(figures: Figures) -> str:
    """Returns the figures of an epoch in words.

    >>> described({"train": {"loss": 1.25, "accuracy": 0.5}, "validation": {"accuracy": 0.75}})
    'loss 1.2500  validation 75.00 %'
    """
    if "train" in figures:
        loss, accuracy = figures["train"]["loss"], figures["validation"]["accuracy"]
        return f"loss {loss:.4f}  validation {accuracy:.2%}".replace("%", " %")
    return "  ".join(f"{name} {value:.4f}" for name, value in figures.items())


class Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def seconds(self) -> float:
        """Returns them."""
        last, self._last = self._last, time.perf_counter()
        return round(self._last - last, 3)


def records(phase: str, epoch: Epoch, seconds: float) -> dict[str, Any]:
    """Returns the line of an epoch in `metrics.jsonl`."""
    return {"phase": phase, "epoch": epoch.number, **epoch.figures, "seconds": seconds}
