"""Which image a tool means by a file name."""

from __future__ import annotations

import pytest

from pipeline.review.names import ImageFinder

KNOWN = ("0001.png", "a/0002.png", "b/0002.png", "a/x/0003.png", "my photo (1).jpg", "deadbeef-0001.png", "été.png")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("0001.png", "0001.png"),
        ("images/0001.png", "0001.png"),
        ("images\\0001.png", "0001.png"),
        ("/data/local-files/?d=set/a/0002.png", "a/0002.png"),
        ("../../data/media/upload/7/1a2b3c4d-0001.png", "0001.png"),
        ("images/1a2b3c4d__0001.png", "0001.png"),
        ("deadbeef-0001.png", "deadbeef-0001.png"),
        ("b/1a2b3c4d-0002.png", "b/0002.png"),
        ("task/x/0003.png", "a/x/0003.png"),
        ("upload/1a2b3c4d-my_photo_1.jpg", "my photo (1).jpg"),
        ("/data/upload/1/1a2b3c4d-my%20photo%20%281%29.jpg", "my photo (1).jpg"),
        ("/data/local-files/?d=%C3%A9t%C3%A9.png", "été.png"),
    ],
)
def test_tools_names_lead_to_the_image(given, meant):
    assert ImageFinder(KNOWN).find(given) == [meant]


@pytest.mark.parametrize("given", ["", "..", "/", "../../etc/passwd", "0004.png", "10001.png", "1a2b3c4d-", "0001.jpg"])
def test_other_names_lead_nowhere(given):
    assert ImageFinder(KNOWN).find(given) == []


def test_what_may_be_several_images_is_all_of_them():
    assert ImageFinder(KNOWN).find("images/0002.png") == ["a/0002.png", "b/0002.png"]
