"""Train a small ConvNet to read handwritten digits, from the first step to the picture.

The data are the 1,797 digits of 8x8 pixels that come with scikit-learn: a fifth of each class is
kept for the test. The network is a small LeNet: convolution, pooling, fully connected layers. The
program prints the layers, trains with Adam, writes a picture of what the network learned and got
wrong, and prints the test accuracy last.

    pip install "slidedot[examples]"
    python train_digits.py --epochs 20 --seed 0 --output digits.png
"""

import argparse
import os
from pathlib import Path

# Images this small are not worth sharing out: one thread of slidedot and of NumPy's BLAS each,
# unless the caller knows better. Read when they are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("Agg")  # draws into files, without a screen

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from slidedot.layers import (
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    softmax_cross_entropy,
)
from slidedot.optim import Adam

BATCH = 32
LEARNING_RATE = 2e-3
SHOWN = 10


def load():
    """Return images (N, 1, 8, 8) in [0, 1] and labels (N,), for training and for the test."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    x, x_test, labels, labels_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return x, labels, x_test, labels_test


def network(rng):
    """Return the untrained network: two convolution layers, pooling, two connected layers."""
    return Sequential(
        Conv2d(1, 16, 3, padding=1, activation="relu", rng=rng),
        Conv2d(16, 32, 3, padding=1, activation="relu", rng=rng),
        MaxPool2d(2),
        Flatten(),
        Linear(32 * 4 * 4, 64, rng=rng),
        ReLU(),
        Linear(64, 10, rng=rng),
    )


def shifted(images, rng):
    """Return the images moved by at most a pixel each way: a moved digit is the same digit."""
    top, left = rng.integers(0, 3, 2)
    height, width = images.shape[-2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return padded[..., top : top + height, left : left + width]


def train(model, x, labels, epochs, rng):
    """Train in place and return the losses (epochs, steps)."""
    optimizer = Adam(model, LEARNING_RATE, weight_decay=1e-4)
    losses = np.empty((epochs, -(-len(x) // BATCH)))
    with tqdm(total=losses.size, unit="step") as bar:
        for epoch in range(epochs):
            optimizer.learning_rate = LEARNING_RATE * (1 - epoch / epochs)
            order = np.array_split(rng.permutation(len(x)), losses.shape[1])
            for step, batch in enumerate(order):
                logits = model.forward(shifted(x[batch], rng), training=True)
                losses[epoch, step], grad = softmax_cross_entropy(logits, labels[batch])
                model.backward(grad, need_input_grad=False)
                optimizer.step()
                bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{losses[epoch].mean():.4f}")
    return losses


def draw(path, losses, filters, images, labels, predicted):
    """Write the loss curve, the first layer's filters and the misread digits as one picture."""
    figure = plt.figure(figsize=(11, 7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[2.4, 1], hspace=0.05)
    left, right = top.subfigures(1, 2, width_ratios=[1.3, 1])

    axes = left.subplots()
    epochs, steps = losses.shape
    axes.plot(np.arange(losses.size) / steps, losses.ravel(), color="0.8", label="each step")
    axes.plot(np.arange(epochs) + 0.5, losses.mean(axis=1), "o-", ms=3, label="mean of the epoch")
    axes.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy (nats)", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()

    limit = abs(filters).max()
    right.suptitle(f"The {len(filters)} learned 3x3 filters of the first layer")
    grid = right.subplots(4, -(-len(filters) // 4))
    for axes, weight in zip(grid.flat, filters[:, 0], strict=True):
        drawn = axes.imshow(weight, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[])
    right.colorbar(drawn, ax=grid, shrink=0.8, label="weight")

    wrong = np.flatnonzero(predicted != labels)
    title = f"{len(wrong)} of {len(labels)} test digits misread"
    if len(wrong) > SHOWN:
        title += f", the first {SHOWN} of them:"
    bottom.suptitle(title, x=0.01, ha="left")
    grid = bottom.subplots(1, SHOWN)
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, wrong, strict=False):
        axes.imshow(images[i, 0], cmap="gray_r")
        axes.set_title(f"true {labels[i]}\nread as {predicted[i]}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="only three epochs, as a check")
    arguments = parser.parse_args()
    epochs = 3 if arguments.quick else arguments.epochs
    if epochs < 1:
        parser.error(f"--epochs must be at least 1, got {epochs}")

    x, labels, x_test, labels_test = load()
    rng = np.random.default_rng(arguments.seed)
    model = network(rng)
    print(model.summary(x.shape[1:]))
    losses = train(model, x, labels, epochs, rng)

    predicted = model(x_test).argmax(axis=1)
    draw(arguments.output, losses, model.layers[0].weight, x_test, labels_test, predicted)
    print(f"wrote {arguments.output}")
    print(f"test accuracy: {np.mean(predicted == labels_test):.2%} of {len(labels_test)} digits")


if __name__ == "__main__":
    main()
