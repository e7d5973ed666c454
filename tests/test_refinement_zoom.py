"""Dealing instances out to the whole image and to enlarged crops."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.masks.windows import Window, whole_image, window_around
from pipeline.refinement.zoom import CONTEXT, MAX_ENLARGEMENT, View, plan_views
from pipeline.sam.frame import InputFrame

SIDE = 128
FRAME = InputFrame(SIDE, 64)


def test_without_zoom_all_share_the_whole_image():
    boxes = [(0, 0, 2, 2), (10, 10, 300, 200)]
    assert plan_views(boxes, 400, 500, FRAME, 0) == [View(Window(0, 0, 500, 400), (0, 1))]
    assert plan_views([], 400, 500, FRAME, 16) == []


def test_small_instances_get_crops_that_neighbours_share():
    boxes = [(500, 500, 800, 900), (100, 100, 120, 120), (130, 90, 150, 112), (900, 40, 918, 60)]
    whole, near, far = plan_views(boxes, 1024, 1024, FRAME, 16)
    assert whole == View(Window(0, 0, 1024, 1024), (0,))
    assert {far.instances, near.instances} == {(1, 2), (3,)}
    for view in (near, far):
        assert view.window.width == view.window.height == 128
        side_px = 20 * SIDE / view.window.width
        assert side_px >= 16


def test_instances_that_are_large_enough_stay_with_the_whole_image():
    # 130 of 1,024 pixels are 16.25 of SAM's 128, 120 are 15.
    assert len(plan_views([(0, 0, 130, 130)], 1024, 1024, FRAME, 16)) == 1
    assert plan_views([(0, 0, 130, 130)], 1024, 1024, FRAME, 16)[0].window == whole_image(1024, 1024)
    assert plan_views([(0, 0, 120, 120)], 1024, 1024, FRAME, 16)[0].window != whole_image(1024, 1024)


def test_a_sam_that_stretches_images_sees_more_of_their_shorter_side():
    stretched, box = InputFrame(SIDE, 64, keeps_aspect=False), (100, 100, 230, 130)
    # 30 of 250 pixels of height are 15.4 of 128 where the image is stretched, else 3.8.
    assert plan_views([box], 250, 1000, stretched, 15)[0].window == whole_image(250, 1000)
    (view,) = plan_views([box], 250, 1000, FRAME, 15)
    assert (view.window.width, view.window.height) == (500, 250)
    # Crops are square, and look alike to both.
    small = (100, 100, 130, 115)
    assert plan_views([small], 250, 1000, stretched, 15) == plan_views([small], 250, 1000, FRAME, 15)


def test_long_thin_instances_keep_their_context():
    (view,) = plan_views([(10, 10, 600, 20)], 1024, 1024, FRAME, 16)
    assert view.window == whole_image(1024, 1024)


def test_nothing_is_enlarged_beyond_measure():
    (view,) = plan_views([(50, 50, 51, 51)], 64, 64, FRAME, 16)
    assert SIDE / view.window.width <= MAX_ENLARGEMENT


boxes = st.lists(
    st.builds(
        lambda x, y, w, h: (x, y, min(x + w, 640), min(y + h, 480)),
        st.integers(0, 639), st.integers(0, 479), st.integers(1, 200), st.integers(1, 200),
    ),
    max_size=12,
)  # fmt: skip


@settings(deadline=None)
@given(boxes_xyxy=boxes, zoom_below_px=st.integers(0, 40))
def test_every_instance_is_in_one_view_that_holds_it(boxes_xyxy, zoom_below_px):
    image = whole_image(480, 640)
    views = plan_views(boxes_xyxy, 480, 640, FRAME, zoom_below_px)
    assert sorted(index for view in views for index in view.instances) == list(range(len(boxes_xyxy)))
    for view in views:
        assert image.contains(view.window)
        for index in view.instances:
            box = boxes_xyxy[index]
            assert view.window.contains(window_around(box))
            longer = max(box[2] - box[0], box[3] - box[1])
            assert max(view.window.width, view.window.height) >= min(CONTEXT * longer, 640)
