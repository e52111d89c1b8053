"""Torch-Pruning on one network, twice in one process; prints a line of JSON.

Command: python benchmarks/against/torch_side.py NETWORK, in an environment with torch, torchvision,
transformers and torch-pruning. It imports nothing of this repository.
"""

import time

START = time.perf_counter()

import json
import resource
import sys
import warnings
from functools import partial

import torch
import torch_pruning as tp
import torchvision

IMPORTED = time.perf_counter()
warnings.simplefilter("ignore")


class Block(torch.nn.Module):
    """Two convolutions around a shortcut, which is projected where the stride is two."""

    def __init__(self, before, width, stride):
        super().__init__()
        conv, norm = partial(torch.nn.Conv2d, bias=False), torch.nn.BatchNorm2d
        self.body = torch.nn.Sequential(
            conv(before, width, 3, stride, 1), norm(width), torch.nn.ReLU(),
            conv(width, width, 3, 1, 1), norm(width),
        )  # fmt: skip
        self.shortcut = torch.nn.Sequential()
        if stride > 1:
            self.shortcut = torch.nn.Sequential(conv(before, width, 1, stride), norm(width))

    def forward(self, x):
        """Returns the images of the block."""
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(torch.nn.Module):
    """`count` blocks for each width."""

    def __init__(self, count, widths):
        super().__init__()
        first = widths[0]
        layers = [torch.nn.Conv2d(3, first, 3, 1, 1, bias=False), torch.nn.BatchNorm2d(first)]
        layers, before = [*layers, torch.nn.ReLU()], first
        for stage, width in enumerate(widths):
            for i in range(count):
                layers.append(Block(before, width, 2 if stage and not i else 1))
                before = width
        self.body = torch.nn.Sequential(*layers)
        self.fc = torch.nn.Linear(before, 10)

    def forward(self, x):
        """Returns logits."""
        return self.fc(self.body(x).mean((2, 3)))


def vgg16():
    """Returns VGG-16 with BatchNorm and a mean at the end."""
    net = torchvision.models.vgg16_bn(weights=None, num_classes=10)
    net.avgpool = torch.nn.AdaptiveAvgPool2d(1)
    net.classifier = torch.nn.Linear(512, 10)
    return net


def bert():
    """Returns BERT of 4 layers with a classifier."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def vit():
    """Returns a vision transformer of 12 layers and 192 channels, by transformers."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=192, num_attention_heads=3, intermediate_size=768, attn_implementation="eager"
    )
    return transformers.ViTForImageClassification(config)


NETWORKS = {
    "ResNet-18": (partial(ResNet, 2, (64, 128, 256, 512)), 64),
    "ResNet-50": (partial(torchvision.models.resnet50, weights=None), 224),
    "ResNet-56": (partial(ResNet, 9, (16, 32, 64)), 32),
    "VGG-16": (vgg16, 32),
    "MobileNetV2": (partial(torchvision.models.mobilenet_v2, weights=None), 224),
    "ViT-Ti/16": (vit, 224),
    "BERT, 4 layers": (bert, None),
}


def attention(model):
    """Returns {projection: heads}, and the classifiers."""
    heads, last = {}, []
    for module in model.modules():
        count = getattr(module, "num_attention_heads", None)
        if count and hasattr(module, "query"):
            heads |= dict.fromkeys((module.query, module.key, module.value), count)
        elif count and hasattr(module, "q_proj"):
            heads |= dict.fromkeys((module.q_proj, module.k_proj, module.v_proj), count)
        if isinstance(module, torch.nn.Linear):
            last = [module]
    return heads, last


def pruned(name):
    """Returns the seconds of the stages of one network."""
    times, now = {}, time.perf_counter()

    def lap(stage):
        nonlocal now
        times[stage] = time.perf_counter() - now
        now = time.perf_counter()

    make, size = NETWORKS[name]
    model = make().eval()
    x = torch.zeros(1, 16, dtype=torch.long) if size is None else torch.zeros(1, 3, size, size)
    lap("build")
    heads, last = attention(model)
    pruner = tp.pruner.BasePruner(
        model, x, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.4,
        ignored_layers=last, num_heads=heads, output_transform=first,
    )  # fmt: skip
    lap("graph")
    before = sum(p.numel() for p in model.parameters())
    pruner.step()
    for module in model.modules():  # what Torch-Pruning leaves to its user, as in its examples
        if projection := getattr(module, "query", None) or getattr(module, "q_proj", None):
            module.num_attention_heads = pruner.num_heads[projection]
            size = projection.out_features // module.num_attention_heads
            module.head_dim = module.attention_head_size = size
            module.all_head_size = projection.out_features
    lap("score, select and cut")
    with torch.no_grad():
        model(x)
    lap("first call")
    times["left"] = sum(p.numel() for p in model.parameters()) / before
    return times


def first(outputs):
    """Returns the logits, which a sum can be taken of."""
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def main(name):
    """Prints the stages of the first and of the second network, and the peak memory."""
    cold, warm = pruned(name), pruned(name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"import": IMPORTED - START, "cold": cold, "warm": warm, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1])
