"""Train the block on the 1,797 digits of scikit-learn, with one fully connected layer after it.

python setup.py build_ext --inplace && python digits.py --epochs 10
"""

import argparse

import numpy as np
from block import Block
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from slidedot.layers import Linear, softmax_cross_entropy


def main():
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of the order")
    arguments = parser.parse_args()

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    x, x_test, labels, labels_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    rng = np.random.default_rng(arguments.seed)
    filters = rng.standard_normal((32, 1, 3, 3), np.float32) * np.float32(np.sqrt(2 / 9))
    block = Block(filters, np.zeros(32, np.float32))
    linear = Linear(32 * 4 * 4, 10, rng=rng)

    def logits(images):
        return linear.forward(block.forward(images).reshape(len(images), -1), training=True)

    parameters = (block.weight, block.bias, linear.weight, linear.bias)
    steps = [np.zeros_like(parameter) for parameter in parameters]
    for _ in range(arguments.epochs):
        for batch in np.array_split(rng.permutation(len(x)), len(x) // 32):
            _, grad = softmax_cross_entropy(logits(x[batch]), labels[batch])
            block.backward(linear.backward(grad).reshape(-1, 32, 4, 4))
            grads = (*block.grads, linear.grads["weight"], linear.grads["bias"])
            for parameter, step, gradient in zip(parameters, steps, grads, strict=True):
                step *= 0.9
                step -= 0.02 * gradient
                parameter += step

    right = np.mean(logits(x_test).argmax(axis=1) == labels_test)
    print(f"test accuracy: {right:.2%} of {len(labels_test)} digits")


if __name__ == "__main__":
    main()
