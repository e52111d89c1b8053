"""Images of classes: which of them is it. Or bytes of a text: which comes next.

A byte is one of 256 classes, and the mean loss is in nats per byte.
"""

from types import MappingProxyType

from experiments import data, models
from experiments.runner import training
from experiments.runner.config import C, Slim
from experiments.runner.task import Task
from jaxprune.schedule import Training, stepped

BIRDS = MappingProxyType(
    {
        "dataset": "caltech_birds2011",
        "batch_size": 32,
        "dense": Training(epochs=60, rates=stepped(0.01), weight_decay=1e-4),
    }
)
"""How a network is transferred to birds; ours and not tuned."""


def task(config: C) -> Task[C]:
    """Returns the data, the unpruned model and its channel graph.

    Raises:
      ValueError: the model does not read such data.
    """
    if (config.dataset == "text") != (config.model == "decoder"):
        raise ValueError(
            f"model={config.model!r} does not read dataset={config.dataset!r}.\n"
            "Fix: the decoder is for the text, all others for images."
        )
    dataset = data.load(
        config.dataset,
        data_dir=config.data_dir,
        limit=config.limit,
        workers=config.workers,
        mobile=config.mobile,
    )
    fields = {"widths": config.widths} if config.widths else {}
    model = models.build(config.model, classes=dataset.classes, **fields)
    slim = isinstance(config, Slim)  # widths are of streams, and all readers have these
    graph = training.channel_graph(model, dataset.image_shape, select_inputs=not slim)
    return Task(config, dataset, model, graph)
