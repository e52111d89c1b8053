"""What every run, and one of Network Slimming, can be asked for."""

import json
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
    """Data set, a name in experiments/data.py."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets has prepared it."""
    workers: int = 0
    """Processes that decode ImageNet, best one for each core; none decodes in four threads."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Common):
    """Train with L1 on the BatchNorm scales, prune, recalibrate, retrain, and write it down."""

    name: str = "network_slimming"
    """Name of the run; a name that is taken gets a number."""
    weight_decay: float = 1e-4
    """L2 penalty on all parameters."""
    epochs: int = 20
    """Passes over the training images with the penalty."""
    learning_rate: float = 0.1
    """Of these epochs; it falls to a tenth at every milestone."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of a training after which the learning rate falls."""
    penalty: Literal["l1", "smooth-l1", "proximal-l1"] = "l1"
    """How the scales are drawn to zero."""
    strength: float = 0.015
    """Of the penalty. Few steps need a high one: the paper takes 1e-4 for 160 CIFAR epochs."""
    smooth_width: float = 0.01
    """Scales below this shrink in proportion to themselves, with smooth-l1."""

    passes: int = 1
    """How often to train with the penalty, prune and retrain; each pass prunes what is left."""
    prune_ratio: float = 0.75
    """Share of the channels to remove in a pass."""
    scope: Literal["global", "layer"] = "global"
    """Whether the ratio is of all channels together or of each layer."""
    target_macs: float | None = None
    """Share of the dense MACs that stays in the end; replaces the ratio."""
    rule: Literal["exact_count", "lua_author", "pytorch_author"] = "exact_count"
    """Threshold, by its name in `jp.select`: exactly the ratio, or as in the authors' two codes."""
    max_prune_ratio: float | None = None
    """What a layer loses at most in a pass: 0.5 of it with several passes, else no limit."""
    min_channels: int = 1
    """What every layer keeps."""
    method: Literal["slice", "mask"] = "slice"
    """Cut pruned channels out, or hold them at zero until the end."""
    recalibration_batches: int = 4
    """Batches of 256 training images that give the statistics of BatchNorm after pruning."""

    retrain: Literal["finetune", "scratch-e", "scratch-b", "rewind"] = "finetune"
    """After pruning go on; or train from new weights, for as many epochs or for as many MACs; or
    from the initial weights."""
    momentum: Literal["fresh", "sliced"] = "fresh"
    """Whether fine-tuning of a sliced network takes over the momentum of what stays."""
    finetune_epochs: int = 10
    """Passes over the training images in fine-tuning, without the penalty."""
    finetune_learning_rate: float = 0.02
    """Of these epochs, with the same milestones."""

    def __post_init__(self) -> None:
        """Raises ValueError where values contradict each other."""
        problems = []
        if self.method == "mask" and self.momentum == "sliced":
            problems.append("momentum=sliced is for sliced networks: with masks the old momentum")
            problems[-1] += " of a pruned channel would bring it back"
        check(self, problems, positive=("epochs", "finetune_epochs", "passes"))


def check(config: Common, problems: Iterable[str], *, positive: Iterable[str] = ()) -> None:
    """Raises ValueError for these problems, and for those that any configuration can have.

    Args:
      config: what is checked.
      problems: what was found already.
      positive: fields that must be above 0, beside those of every experiment.
    """
    low = [
        f"{name}={getattr(config, name)} must be above 0"
        for name in (*positive, "batch_size", "checkpoint_every", "scale")
        if not getattr(config, name) > 0
    ]
    both = ["overwrite replaces a run and resume goes on with it"]
    unread = _unread(config) if isinstance(config, Slim) else []
    found = [*low, *problems, *unread, *(both if config.overwrite and config.resume else [])]
    if found:
        raise ValueError("\n".join([*found, "Fix: see --help for what goes together."]))


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


def from_json(value: Mapping[str, Any], kind: type[C] = Config) -> C:
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
