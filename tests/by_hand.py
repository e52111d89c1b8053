"""The sizes of the networks of the experiments, counted by hand.

Each is (kernels and biases, scales and biases of BatchNorm, MACs at 28x28, 32x32 or 224x224).
"""

from itertools import pairwise
from typing import NamedTuple

PIXELS = (32 * 32, 16 * 16, 8 * 8)


def mlp(*widths: int) -> tuple[int, int, int]:
    """The biases are those of the classifier: BatchNorm follows the hidden layers."""
    macs = sum(a * b for a, b in pairwise((784, *widths, 10)))
    return macs + 10, 2 * sum(widths), macs


def convolutions(pixels: int, *stages: tuple[int, int]) -> tuple[int, int, int]:
    """Each stage is (convolutions, channels); `pixels` is the height of the image."""
    before, weights, norms, macs = 3, 0, 0, 0
    for stage, (count, width) in enumerate(stages):
        for _ in range(count):
            weights += 9 * before * width
            macs += 9 * before * width * (pixels >> stage) ** 2
            norms += 2 * width
            before = width
    return weights, norms, macs


def vgg(*stages: tuple[int, int]) -> tuple[int, int, int]:
    weights, norms, macs = convolutions(32, *stages)
    return weights + 512 * 10 + 10, norms, macs + 512 * 10


def vgga(*stages: tuple[int, int]) -> tuple[int, int, int]:
    """Five poolings leave a map of 7x7, which two hidden layers of 4096 units read."""
    weights, norms, macs = convolutions(224, *stages)
    dense = 7 * 7 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    return weights + dense + 1000, norms + 2 * (4096 + 4096), macs + dense


def flat(pixels: int, *widths: int) -> tuple[int, int, int]:
    """Dense layers on a map of so many pixels, with BatchNorm after the hidden ones."""
    weights = sum(a * b for a, b in pairwise((pixels * widths[0], *widths[1:])))
    return weights + widths[-1], 2 * sum(widths[1:-1]), weights


def summed(*parts: tuple[int, int, int]) -> tuple[int, int, int]:
    weights, norms, macs = (sum(column) for column in zip(*parts, strict=True))
    return weights, norms, macs


def fives(before: int, *layers: tuple[int, int]) -> tuple[int, int, int]:
    """5x5 convolutions, each (channels, height of the map)."""
    weights, norms, macs = 0, 0, 0
    for width, pixels in layers:
        weights += 25 * before * width
        macs += 25 * before * width * pixels**2
        norms += 2 * width
        before = width
    return weights, norms, macs


def preactsenet() -> tuple[int, int, int]:
    """PreActSENet-18; the first BatchNorm of a block is of what it reads."""
    before, weights, norms, macs = 64, 27 * 64, 2 * 64, 27 * 64 * 32**2
    for width, pixels in ((64, 32), (128, 16), (256, 8), (512, 4)):
        for block in range(2):
            kernels = 9 * before * width + 9 * width**2
            kernels += before * width if block == 0 and before != width else 0
            squeeze = 2 * width * (width // 16)
            weights += kernels + squeeze + width + width // 16
            macs += kernels * pixels**2 + squeeze
            norms += 2 * (before + width)
            before = width
    return weights + 512 * 10 + 10, norms, macs + 512 * 10


def resnet(depth: int, *, projection: bool) -> tuple[int, int, int]:
    n = (depth - 2) // 6
    stem = 9 * 3 * 16
    inner = [9 * (2 * n) * 16**2, 9 * (16 * 32 + (2 * n - 1) * 32**2)]
    inner.append(9 * (32 * 64 + (2 * n - 1) * 64**2))
    shortcuts = [0, 16 * 32, 32 * 64] if projection else [0, 0, 0]
    channels = 16 + 2 * n * (16 + 32 + 64) + (32 + 64 if projection else 0)
    per_stage = [stem + inner[0], inner[1] + shortcuts[1], inner[2] + shortcuts[2]]
    macs = sum(weights * pixels for weights, pixels in zip(per_stage, PIXELS, strict=True))
    return sum(per_stage) + 64 * 10 + 10, 2 * channels, macs + 64 * 10


def preresnet(depth: int) -> tuple[int, int, int]:
    n = (depth - 2) // 9
    stream, weights, channels, macs = 16, 9 * 3 * 16, 0, 9 * 3 * 16 * PIXELS[0]
    for stage, width in enumerate((16, 32, 64)):
        for block in range(n):
            first, rest = stream * width, 9 * width**2 + width * 4 * width
            if block == 0:
                rest += stream * 4 * width  # the shortcut
            read_at = PIXELS[max(stage - 1, 0)] if block == 0 else PIXELS[stage]
            weights += first + rest
            macs += first * read_at + rest * PIXELS[stage]
            channels += stream + 2 * width
            stream = 4 * width
    return weights + stream * 10 + 10, 2 * (channels + stream), macs + stream * 10


def densenet(depth: int, growth: int, stem: int) -> tuple[int, int, int]:
    n = (depth - 4) // 3
    stream, weights, channels, macs = stem, 9 * 3 * stem, 0, 9 * 3 * stem * PIXELS[0]
    for block in range(3):
        if block > 0:
            weights += stream**2
            macs += stream**2 * PIXELS[block - 1]
            channels += stream
        for _ in range(n):
            weights += 9 * stream * growth
            macs += 9 * stream * growth * PIXELS[block]
            channels += stream
            stream += growth
    return weights + stream * 10 + 10, 2 * (channels + stream), macs + stream * 10


class Layer(NamedTuple):
    """A convolution with BatchNorm."""

    size: int  # of the kernel
    reads: int  # input channels of one output channel
    width: int  # output channels
    pixels: int  # height of the output


def convolved(layers: list[Layer]) -> tuple[int, int, int]:
    weights = [layer.size**2 * layer.reads * layer.width for layer in layers]
    macs = sum(n * layer.pixels**2 for n, layer in zip(weights, layers, strict=True))
    return sum(weights), 2 * sum(x.width for x in layers), macs


def layered(layers: list[Layer], classes: int = 1000) -> tuple[int, int, int]:
    return summed(convolved(layers), flat(1, layers[-1].width, classes))


def separable(stem: int, *blocks: tuple[int, int], classes: int = 1000) -> tuple[int, int, int]:
    """MobileNet v1: the height of the first map, and (channels, height) of each block."""
    before, layers = 32, [Layer(3, 3, 32, stem)]
    for width, pixels in blocks:
        layers += [Layer(3, 1, before, pixels), Layer(1, before, width, pixels)]
        before = width
    return layered(layers, classes)


def inverted(
    stem: int, *stages: tuple[int, int, int, int, int], classes: int = 1000
) -> tuple[int, int, int]:
    """MobileNet v2: the height of the first map, and each stage.

    A stage is (blocks, expansion, channels, size of the depthwise kernels, height).
    """
    before, read_at, layers = 32, stem, [Layer(3, 3, 32, stem)]
    for blocks, expansion, width, size, pixels in stages:
        for _ in range(blocks):
            inner = expansion * before
            if expansion > 1:
                layers.append(Layer(1, before, inner, read_at))
            layers += [Layer(size, 1, inner, pixels), Layer(1, inner, width, pixels)]
            before, read_at = width, pixels
    return layered([*layers, Layer(1, before, 1280, read_at)], classes)


def bottlenecks(*stages: tuple[int, int, int]) -> tuple[int, int, int]:
    """ResNet for ImageNet; each stage is (blocks, channels of the bottleneck, height)."""
    before, read_at, layers = 64, 56, [Layer(7, 3, 64, 112)]
    for blocks, width, pixels in stages:
        for block in range(blocks):
            if block == 0:
                layers.append(Layer(1, before, 4 * width, pixels))
            layers += [Layer(1, before, width, read_at), Layer(3, width, width, pixels)]
            layers.append(Layer(1, width, 4 * width, pixels))
            before, read_at = 4 * width, pixels
    return layered(layers)


def shufflenet(stem: int, *widths: int) -> tuple[int, int, int]:
    """Three groups; the first 1x1 convolution is not grouped."""
    before, read_at, layers = stem, 56, [Layer(3, 3, stem, 112)]
    for stage, (width, units, pixels) in enumerate(
        zip(widths, (4, 8, 4), (28, 14, 7), strict=True)
    ):
        for unit in range(units):
            inner, reads = width // 4, before if stage == unit == 0 else before // 3
            layers += [Layer(1, reads, inner, read_at), Layer(3, 1, inner, pixels)]
            layers.append(Layer(1, inner // 3, width - before if unit == 0 else width, pixels))
            before, read_at = width, pixels
    return layered(layers)


A = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))
VGG_11 = vgg(*A)
VGG_16 = vgg((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
VGG_19 = vgg((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
MOBILENET_V1 = separable(
    112,
    *((64, 112), (128, 56), (128, 56), (256, 28), (256, 28), (512, 14)),
    *5 * ((512, 14),),
    *((1024, 7), (1024, 7)),
)
MOBILENET_V1_CIFAR = separable(
    32,
    *((64, 32), (128, 16), (128, 16), (256, 8), (256, 8), (512, 4)),
    *5 * ((512, 4),),
    *((1024, 2), (1024, 2)),
    classes=10,
)
MOBILENET_V2 = inverted(
    112,
    *((1, 1, 16, 3, 112), (2, 6, 24, 3, 56), (3, 6, 32, 3, 28), (4, 6, 64, 3, 14)),
    *((3, 6, 96, 3, 14), (3, 6, 160, 3, 7), (1, 6, 320, 3, 7)),
)
MOBILENET_V2_CIFAR = inverted(
    32,
    *((1, 1, 16, 3, 32), (2, 6, 24, 3, 32), (3, 6, 32, 3, 16), (4, 6, 64, 3, 8)),
    *((3, 6, 96, 3, 8), (3, 6, 160, 3, 4), (1, 6, 320, 3, 4)),
    classes=10,
)
MNASNET = inverted(
    112,
    *((1, 1, 16, 3, 112), (3, 3, 24, 3, 56), (3, 3, 40, 5, 28), (3, 6, 80, 5, 14)),
    *((2, 6, 96, 3, 14), (4, 6, 192, 5, 7), (1, 6, 320, 3, 7)),
)

LENET_5 = summed(fives(1, (20, 24), (50, 8)), flat(16, 50, 500, 10))
CIFARNET = summed(fives(3, (64, 32), (64, 16)), flat(64, 64, 384, 192, 10))
_ALEXNET = [Layer(11, 3, 64, 55), Layer(5, 64, 192, 27), Layer(3, 192, 384, 13)]
_ALEXNET += [Layer(3, 384, 256, 13), Layer(3, 256, 256, 13)]
ALEXNET = summed(convolved(_ALEXNET), flat(36, 256, 4096, 4096, 1000))

REFERENCES = {
    "lenet5": (LENET_5, 431_650, 2_293_000),
    "cifarnet": (CIFARNET, 1_757_130, 32_778_112),
    "alexnet": (ALEXNET, 61_110_184, 714_188_480),
    "preactsenet18": (preactsenet(), 11_260_354, 555_509_760),
    "mlp": (mlp(500, 300), 546_610, 545_000),
    "vgg11": (VGG_11, 9_228_362, 152_769_536),
    "vgga": (vgga(*A), 132_874_280, 7_609_090_048),
    "vgg16": (VGG_16, 14_724_042, 313_201_664),
    "vgg19": (VGG_19, 20_035_018, 398_136_320),
    "resnet20": (resnet(20, projection=True), 272_474, 40_813_184),
    "resnet32": (resnet(32, projection=True), 466_906, 69_124_736),
    "resnet56": (resnet(56, projection=True), 855_770, 125_747_840),
    "resnet110": (resnet(110, projection=True), 1_730_714, 253_149_824),
    "resnet20_padded": (resnet(20, projection=False), 269_722, 40_551_040),
    "resnet32_padded": (resnet(32, projection=False), 464_154, 68_862_592),
    "resnet56_padded": (resnet(56, projection=False), 853_018, 125_485_696),
    "resnet110_padded": (resnet(110, projection=False), 1_727_962, 252_887_680),
    "preresnet164": (preresnet(164), 1_703_258, 247_646_720),
    "densenet40": (densenet(40, 12, 24), 1_059_298, 282_917_328),
    "mobilenet_v1": (MOBILENET_V1, 4_231_976, 568_740_352),
    "mobilenet_v1_cifar": (MOBILENET_V1_CIFAR, 3_217_226, 46_354_432),
    "mobilenet_v2": (MOBILENET_V2, 3_504_872, 300_774_272),
    "mobilenet_v2_cifar": (MOBILENET_V2_CIFAR, 2_236_682, 87_976_448),
    "mnasnet": (MNASNET, 4_383_312, 314_415_872),
    "resnet50": (
        bottlenecks((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)),
        25_557_032,
        4_089_184_256,
    ),
    "shufflenet": (shufflenet(24, 240, 480, 960), 1_865_728, 137_460_672),
    "shufflenet_aligned": (shufflenet(24, 252, 504, 1008), 2_004_040, 150_249_456),
}
