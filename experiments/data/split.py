"""One part of a data set, in memory."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images and labels of one part of a data set."""

    images: np.ndarray  # u8[n, height, width, channels], raw pixels
    labels: np.ndarray  # i32[n], or those of all pixels, i8[n, height, width]; void below 0

    @property
    def size(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.images.shape[1:]  # pyright: ignore[reportReturnType]
