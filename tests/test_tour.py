"""docs/tour.md: what it prints and draws is what its code prints and draws."""

import re
import warnings

import numpy as np
import pytest
from pages import DOCS, run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # an old Matplotlib with a new pyparsing
    pytest.importorskip("matplotlib.figure")
    pytest.importorskip("sklearn.datasets")

LARGEST = 60_000  # bytes of a picture

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


def opened(path):
    """Return a picture as (H, W, 3), in [0, 1], and which Matplotlib drew it."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")) / 255, image.text["Software"]


def test_it_prints_what_it_says(drawn):
    assert not drawn[1], drawn[1]


def test_it_shows_the_pictures_that_it_draws(drawn):
    assert len(PICTURES) > 5
    assert {path.name for path in drawn[0].iterdir()} == set(PICTURES)
    assert {path.name for path in (DOCS / "pictures").iterdir()} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_committed_one(drawn, name):
    """Every version of Matplotlib lays pictures out in its own way; the same one draws the same."""
    actual, version = opened(drawn[0] / name)
    expected, committed_version = opened(DOCS / "pictures" / name)
    assert (drawn[0] / name).stat().st_size < LARGEST
    assert actual.std() > 0.1, "there is hardly anything on it"
    if version == committed_version:
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=0.02)
