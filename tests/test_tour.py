"""docs/tour.md: what it prints and draws is what its code prints and draws."""

import re

import numpy as np
import pytest
from pages import DOCS, run

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

#: A picture's size in bytes, at most; and by how much of black to white its pixels may differ, in
#: the mean square, from the committed one: other versions of Matplotlib draw letters otherwise.
LARGEST = 60_000
DIFFERENCE = 0.04

TEXT = (DOCS / "tour.md").read_text("utf-8")
PICTURES = re.findall(r"^!\[.+\]\(pictures/(\w+\.png)\)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Return where the pictures of a run of the page are, and what came out otherwise."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _, report = run("tour.md")
    return folder / "pictures", report


def pixels(path):
    """Return a picture as (H, W, 3), in [0, 1]."""
    from matplotlib.image import imread

    return imread(path)[:, :, :3]


def test_it_prints_what_it_says(drawn):
    assert not drawn[1], drawn[1]


def test_it_shows_the_pictures_that_it_draws(drawn):
    assert len(PICTURES) > 5
    assert {path.name for path in drawn[0].iterdir()} == set(PICTURES)
    assert {path.name for path in (DOCS / "pictures").iterdir()} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_committed_one(drawn, name):
    actual, expected = pixels(drawn[0] / name), pixels(DOCS / "pictures" / name)
    assert (drawn[0] / name).stat().st_size < LARGEST
    assert actual.std() > 2 * DIFFERENCE, "there is hardly anything on it"
    assert actual.shape == expected.shape
    assert np.sqrt(np.mean((actual - expected) ** 2)) < DIFFERENCE
