"""What every run can be asked for."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxprune.schedule import Part, Training

C = TypeVar("C", bound="Common")


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every experiment has: where the run is, its data, its model."""

    preset: str = "digits"
    """Settings to start from, a name among the presets; every other flag overrides it."""
    name: str = "run"
    """Name of the run; a name that is taken gets a number."""
    root: Path = Path("runs")
    """Directory of the runs."""
    overwrite: bool = False
    """Replace the run of that name."""
    resume: bool = False
    """Go on with the run of that name, or start it; it ends as if it had never been interrupted."""
    checkpoint_every: int = 1
    """Epochs between two checkpoints of a training."""
    seed: int = 0
    """Of the initial weights, of the order of the images and of their augmentation."""
    scale: float = 1.0
    """Factor on all epochs, for a small machine; every training keeps at least one."""

    dataset: str = "digits"
    """Data set, a name in experiments/data."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets has prepared it, or the folder of those that are read as they are
    published; of the text, a file or a folder of *.txt."""
    workers: int = 0
    """Processes that decode a stream, of ImageNet or birds, best one for each core; none decodes in
    four threads."""
    limit: int | None = None
    """At most so many training images."""
    mobile: bool = False
    """Training images of ImageNet as for mobile networks: larger crops, other colors."""
    model: str = "convnet"
    """Model, a name in experiments/models."""
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of every stage of the model; none: those of the model itself."""

    batch_size: int = 64
    """Images in a step."""

    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """What the steps of a training compute in. With bfloat16 weights, scores and statistics stay
    float32; float64 is for all of it, to compare runs on different devices."""
    mesh: str = ""
    """Devices by axis: data=8 divides every batch over eight, data=2,model=4 the weights too. One
    device by default. The numbers are those of one device, but for the order of sums."""
    distributed: bool = False
    """One of several processes, each of which is given the same command; JAX finds the others on
    Cloud TPU, under Slurm, Open MPI and Kubernetes. Without a mesh all devices are along data."""
    coordinator: str | None = None
    """Host and port of process 0, where JAX does not know the cluster."""
    processes: int | None = None
    """How many there are, there."""
    process: int | None = None
    """The number of this one, from 0, there."""
    heartbeat: int = 100
    """Seconds without a sign of life after which a process is lost and all others end."""

    def scaled(self, epochs: float) -> int:
        """Returns the number of epochs at this scale."""
        return max(1, int(self.scale * epochs + 1e-6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slim(Common):
    """What every experiment with slimmable networks has."""

    batch_size: int = 128
    """Images in a step."""
    divisor: int = 8
    """What numbers of channels are multiples of."""
    protect: tuple[str, ...] = ()
    """Patterns of groups that stay whole."""
    expansion: tuple[tuple[str, int], ...] = ()
    """(pattern of groups, t): their numbers of channels are t times a multiple of the divisor."""

    def rounding(self, supernet: float = 1.0) -> dict[str, Any]:
        """Returns the options of `jaxprune.slimmable.prefix`."""
        return {
            "divisor": self.divisor,
            "protect": self.protect,
            "expansion": dict(self.expansion),
            "supernet": supernet,
        }


def check(config: Common, problems: Iterable[str], *, positive: Iterable[str] = ()) -> None:
    """Raises ValueError for these problems, and for those that any configuration can have.

    Args:
      config: what is checked.
      problems: what was found already.
      positive: fields that must be above 0, beside those of every experiment.
    """
    low = [
        f"{name}={getattr(config, name)} must be above 0"
        for name in (*positive, "batch_size", "checkpoint_every", "scale", "heartbeat")
        if not getattr(config, name) > 0
    ]
    problems = [*problems, *_unmeshed(config)]
    both = ["overwrite replaces a run and resume goes on with it"]
    unread = _unread(config) if isinstance(config, Slim) else []
    failures = [*low, *problems, *unread, *(both if config.overwrite and config.resume else [])]
    if failures:
        raise ValueError("\n".join([*failures, "Fix: see --help for what goes together."]))


def axes(mesh: str) -> tuple[int, int] | None:
    """Returns the devices along data and model of `data=2,model=4`; None if it reads otherwise."""
    found = re.fullmatch(r"data=([1-9]\d*)(?:,model=([1-9]\d*))?", mesh)
    return found and (int(found[1]), int(found[2] or 1))


def undivided(config: Common, count: int) -> Iterator[str]:
    """Yields the sizes of batches that so many devices do not divide."""
    for name in (field.name for field in fields(config) if field.name.endswith("batch_size")):
        if (size := getattr(config, name)) and size % count:
            yield f"{name}={size} is not a multiple of the {count} devices along data"


def _unmeshed(config: Common) -> Iterator[str]:
    if config.mesh:
        if (sizes := axes(config.mesh)) is None:
            yield f"mesh={config.mesh!r} is not of the form data=8 or data=2,model=4"
        else:
            yield from undivided(config, sizes[0])
    places = (config.coordinator, config.processes, config.process)
    if (given := sum(place is not None for place in places)) and not config.distributed:
        yield "coordinator, processes and process are for --distributed"
    elif given not in (0, len(places)):
        yield "coordinator, processes and process go together"


def _unread(config: Slim) -> Iterator[str]:
    """Yields what is set in a training and that training at several widths does not know."""
    plain = Training(epochs=1, rates=((0.0, 0.0),))
    for field in fields(config):
        if isinstance(how := getattr(config, field.name), Training):
            for name in ("part", "strength", "data"):
                if (value := getattr(how, name)) != getattr(plain, name):
                    yield f"{field.name}.{name}={value} is not for slimmable networks"


def to_json(config: Common) -> dict[str, Any]:
    """Returns the JSON value of a configuration."""
    return json.loads(json.dumps(asdict(config), default=str))


def from_json(value: Mapping[str, Any], kind: type[C]) -> C:
    """Returns the configuration of a JSON value.

    Args:
      value: what `to_json` returned.
      kind: the class of the configuration.

    Raises:
      ValueError: it has a field that is none.
    """
    known = {field.name for field in fields(kind)}
    if unknown := sorted(value.keys() - known):
        raise ValueError(
            f"the configuration has no field {unknown}.\nFix: use the version that wrote the run."
        )
    return kind(**{name: _typed(name, entry) for name, entry in value.items()})


def _typed(name: str, entry: Any) -> Any:
    if name in ("root", "data_dir") and entry is not None:
        return Path(entry)
    if isinstance(entry, Mapping):
        return Training(**{key: _typed(key, each) for key, each in entry.items()})
    if name == "part":
        return Part(entry)
    return tuple(_typed("", each) for each in entry) if isinstance(entry, list) else entry
