"""Slide filters over a photograph: edges and blur, rectified, then pooled.

The photograph is scikit-learn's sample of a Chinese temple, 427x640 pixels in three channels. The
program writes one picture of what each filter sees, and prints what one neuron of a multilayer
perceptron that is connected to the whole photograph would hold and cost beside one shared filter.

    pip install "slidedot[examples]"
    python photo.py --output photo.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into files, without a screen

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import slidedot as sd

SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
LAPLACIAN = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
BINOMIAL = np.poly1d([0.5, 0.5]) ** 8  # nine coefficients, close to a Gaussian's
POOL = 4


def load():
    """Return the photograph as (3, H, W), in [0, 1]."""
    return (load_sample_image("china.jpg") / np.float32(255)).transpose(2, 0, 1)


def edge_filters():
    """Return three edge filters (3, 3, 3, 3), which see the mean of the three channels."""
    filters = np.stack([SOBEL, SOBEL.T, LAPLACIAN]) / 3
    return np.repeat(filters[:, None], 3, axis=1).astype(np.float32)


def blur_filters():
    """Return a 9x9 blur for each channel by itself (3, 1, 9, 9); its weights sum to 1."""
    row = BINOMIAL.coefficients
    return np.tile(np.outer(row, row), (3, 1, 1, 1)).astype(np.float32)


def draw(path, panels):
    """Write the panels, a dict of titles and images (C, H, W), as one picture."""
    figure, grid = plt.subplots(3, 3, figsize=(13, 9.6), layout="constrained")
    for axes, (title, image) in zip(grid.flat, panels.items(), strict=True):
        if len(image) == 3:
            axes.imshow(image.transpose(1, 2, 0).clip(0, 1))
        else:
            # one pixel in a hundred may saturate, so that the others are not pale
            limit = np.percentile(abs(image), 99)
            axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=limit)
        axes.set_title(f"{title}\n{image.shape[1]} x {image.shape[2]} pixels", fontsize=11)
        axes.axis("off")
    figure.suptitle(
        "Filters slid over a photograph; below the colours, darker is a stronger response"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def compare(photo, filters, edges):
    """Return a table: a neuron that sees the whole photograph beside one filter that slides."""
    neuron = sd.linear_parameters(photo.size, 1)
    shared = sd.conv2d_parameters(len(photo), 1, filters.shape[2:])
    places = edges[0].size
    rows = [
        ("", "one MLP neuron", "one 3x3 filter"),
        ("parameters (with bias)", neuron, shared),
        ("outputs", 1, places),
        ("multiply-adds", neuron - 1, (shared - 1) * places),
        ("multiply-adds per output", neuron - 1, shared - 1),
    ]
    return "\n".join(
        f"{a:26}{b:>16,}{c:>16,}" if a else f"{a:26}{b:>16}{c:>16}" for a, b, c in rows
    )


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("photo.png"), help="the picture")
    arguments = parser.parse_args()

    photo = load()
    filters = edge_filters()
    edges = sd.conv2d(photo, filters, activation="relu")
    pooled = sd.max_pool2d(edges, POOL)
    panels = {
        "The photograph": photo,
        "9x9 blur": sd.conv2d(photo, blur_filters(), groups=3),
        f"Max pooling {POOL}x{POOL}: the brightest pixel": sd.max_pool2d(photo, POOL),
    }
    names = ["Sobel: brighter to the right", "Sobel: brighter below", "Laplacian: dark details"]
    panels |= {f"{name}, ReLU": edges[i : i + 1] for i, name in enumerate(names)}
    panels |= {
        f"{name},\nReLU, max pooling {POOL}x{POOL}": pooled[i : i + 1]
        for i, name in enumerate(names)
    }
    draw(arguments.output, panels)
    print(compare(photo, filters, edges))
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
