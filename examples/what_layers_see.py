"""Show what each channel of a trained ConvNet looks for, as Zeiler and Fergus' figure 2.

The network and the digits are those of train_digits.py. For each channel of the convolution layers
and for each of the ten outputs, the program finds the nine test digits that excite it most, and
draws the patch of each that the channel sees beside its projection: the pixels that made the
channel respond. The pooling layer is left out: a channel is strongest there where it was before.

    pip install "slidedot[examples]"
    python what_layers_see.py --epochs 20 --seed 0 --output layers.png
"""

import argparse
from pathlib import Path

import numpy as np
from train_digits import load, network, plt, train  # there plt draws into files

from slidedot import ReceptiveField, receptive_field
from slidedot.layers import Linear
from slidedot.visualize import project, top_activations

#: The layers shown: name, position in the network, channels in a row, share of the picture.
LAYERS = [("First layer", 0, 8, 2.3), ("Second layer", 1, 8, 4.2), ("Outputs", 6, 5, 3.4)]
SIDE = 3  # patches of a channel, in rows and in columns


def field_of(model, layer, size):
    """Return what an output of the layer sees of an image of size x size pixels."""
    layers = model.layers[: layer + 1]
    if any(isinstance(each, Linear) for each in layers):
        return ReceptiveField(size, 1, (size - 1) / 2)  # all of it, around its centre
    return receptive_field(layers)[-1]


def crop(image, field, position):
    """Return what the output at `position` sees (size, size); NaN beyond the image's border."""
    size = field.size
    padded = np.pad(image, size, constant_values=np.nan)
    first = [int(field.start + place * field.jump - (size - 1) / 2) for place in position]
    top, left = (size + pixel for pixel in first)
    return padded[top : top + size, left : left + size]


def mosaic(images, field, positions):
    """Return what is seen of the images (SIDE**2, 1, H, W) as one image, NaN between them."""
    tiles = [crop(image[0], field, at) for image, at in zip(images, positions, strict=True)]
    tiles = np.pad(tiles, ((0, 0), (1, 0), (1, 0)), constant_values=np.nan)
    rows = tiles.reshape(SIDE, SIDE, *tiles.shape[1:]).swapaxes(1, 2)
    side = SIDE * (field.size + 1)
    return np.pad(rows.reshape(side, side), ((0, 1), (0, 1)), constant_values=np.nan)


def draw_channel(axes, projections, patches):
    """Draw a channel's projections on the left and its patches on the right."""
    limit = np.nanmax(abs(projections)) or 1
    axes.imshow(projections, extent=(0, 1, 0, 1), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.imshow(patches, extent=(1, 2, 0, 1), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xlim=(0, 2), facecolor="0.85", xticks=[], yticks=[])


def draw_layer(figure, model, images, name, layer, columns):
    """Draw all channels of a layer, so many columns of them."""
    field = field_of(model, layer, images.shape[-1])
    sees = f"each output sees {field.size} x {field.size} pixels"
    figure.suptitle(f"{name}: {model.layers[layer]}, {sees}", x=0.004, ha="left")
    top = top_activations(model, images, layer, SIDE**2)
    grid = figure.subplots(len(top.values) // columns, columns)
    for channel, (axes, values, numbers, positions) in enumerate(zip(grid.flat, *top, strict=True)):
        projections = project(model, images[numbers], layer, channel, positions)
        projections *= values[:, None, None, None]  # the paper starts with the activation
        draw_channel(
            axes,
            mosaic(projections, field, positions),
            mosaic(images[numbers], field, positions),
        )
        label = channel if values[0] > 0 else f"{channel}: never active"
        axes.set_title(label, fontsize=8, loc="left", pad=2)


def draw(path, model, images):
    """Write the picture: a block of channels for each layer."""
    figure = plt.figure(figsize=(12, 10.4), layout="constrained")
    figure.suptitle(
        "What each channel looks for: on the right the nine patches that excite it most, on the "
        "left the pixels that did,\nred where ink excites, blue where it inhibits"
    )
    *layers, shares = zip(*LAYERS, strict=True)
    blocks = figure.subfigures(len(LAYERS), 1, height_ratios=shares)
    for block, *layer in zip(blocks, *layers, strict=True):
        draw_layer(block, model, images, *layer)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order")
    parser.add_argument("--output", type=Path, default=Path("layers.png"), help="the picture")
    parser.add_argument("--quick", action="store_true", help="only three epochs, as a check")
    arguments = parser.parse_args()
    epochs = 3 if arguments.quick else arguments.epochs
    if epochs < 1:
        parser.error(f"--epochs must be at least 1, got {epochs}")

    x, labels, x_test, labels_test = load()
    rng = np.random.default_rng(arguments.seed)
    model = network(rng)
    train(model, x, labels, epochs, rng)
    accuracy = np.mean(model(x_test).argmax(axis=1) == labels_test)
    print(f"test accuracy: {accuracy:.2%} of {len(labels_test)} digits")
    draw(arguments.output, model, x_test)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
