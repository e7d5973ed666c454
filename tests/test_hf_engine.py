"""SAMs of transformers in batches, against each model's own processor and forward, one prompt at a time."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra hf: make setup EXTRAS=hf")

from pipeline.errors import ImageError
from pipeline.refinement.gate import Gate
from pipeline.refinement.image import refine_images
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.encoded import EncodedImage
from pipeline.sam.hf.engine import HfEngine
from pipeline.sam.hf.loading import LoadedSam
from pipeline.sam.interface import ImageEmbeddings
from pipeline.sam.prompt import Prompt
from tests import tiny_sams
from tests.refinement_fake import refine_input, teacher_label
from tests.test_sam_engine import NO_LABELS, NO_POINTS, SHAPES_HW, mask_iou, random_images, random_prompt

FAMILIES = tuple(tiny_sams.BUILDERS)
FORMS = ("1", "3", "0b", "1b", "4b", "0m", "2m", "0bm", "2bm")
"""Points, then b with a box, m with mask logits."""


def loaded(family):
    """A model of its own, which an engine or a test may change."""
    return LoadedSam.of(tiny_sams.build(family), tiny_sams.BUILDERS[family].image_processor())


@cache
def engine_of(family) -> HfEngine:
    return HfEngine(loaded(family), precision="fp32")


@cache
def reference_of(family):
    """The model alone, with the processor of transformers that prepares prompts for it too."""
    builder = tiny_sams.BUILDERS[family]
    sam = loaded(family)
    return sam.model, builder.processor(sam.processor)


@cache
def embeddings_of(family) -> ImageEmbeddings:
    return engine_of(family).encode(random_images(1))


def asked(family, image, prompt):
    """What transformers makes of an image and a prompt, all by itself: its answer and its masks of the image's size."""
    model, processor = reference_of(family)
    given = {}
    if len(prompt.point_labels):
        given |= {
            "input_points": [[prompt.points_xy_full.tolist()]],
            "input_labels": [[prompt.point_labels.tolist()]],
        }
    if prompt.box_xyxy_full is not None:
        given["input_boxes"] = [[prompt.box_xyxy_full.tolist()]]
    inputs = processor(images=image, return_tensors="pt", input_data_format="channels_last", **given)
    arguments = {name: inputs[name] for name in given if name in inputs}
    arguments |= {name: value.float() for name, value in arguments.items() if name != "input_labels"}
    if prompt.mask_logits_lowres is not None:
        arguments["input_masks"] = torch.from_numpy(prompt.mask_logits_lowres)[None, None]
    with torch.inference_mode():
        answer = model(pixel_values=inputs["pixel_values"], **arguments)
    sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
    masks = processor.post_process_masks([answer.pred_masks[0]], *sizes)
    return answer, masks[0][0].numpy()


# Equal to transformers


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_models_own_forward(family, form):
    engine, embeddings = engine_of(family), embeddings_of(family)
    rng = np.random.default_rng(2)
    spreads = []
    for index, image in enumerate(random_images(1)):
        hw = image.shape[:2]
        prompt = random_prompt(rng, form, hw, engine.frame.lowres_side)
        (found,) = engine.decode(embeddings, [index], [prompt])
        expected, masks = asked(family, image, prompt)
        np.testing.assert_allclose(found.mask_logits_lowres, expected.pred_masks[0, 0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.predicted_iou, expected.iou_scores[0, 0], rtol=0, atol=1e-4)
        full = engine.frame.full_logits(found.mask_logits_lowres, hw, (0, 0, hw[1], hw[0])) > 0
        assert mask_iou(full, masks).min() >= 0.999
        spreads.append(found.mask_logits_lowres.std())
    assert min(spreads) > 0.05  # or anything would pass


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_prompts_of_many_images_at_once(family):
    engine, embeddings = engine_of(family), embeddings_of(family)
    rng = np.random.default_rng(4)
    indices = rng.integers(0, len(embeddings), 40).tolist()
    forms = rng.choice(FORMS, 40)
    prompts = [
        random_prompt(rng, form, embeddings.image_hw[index], engine.frame.lowres_side)
        for form, index in zip(forms, indices, strict=True)
    ]
    together = engine.decode(embeddings, indices, prompts)
    images = random_images(1)
    for index, prompt, found in zip(indices, prompts, together, strict=True):
        (alone,) = engine.decode(engine.encode([images[index]]), [0], [prompt])
        np.testing.assert_allclose(found.mask_logits_lowres, alone.mask_logits_lowres, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.predicted_iou, alone.predicted_iou, rtol=0, atol=1e-4)
    different = [
        np.abs(first.mask_logits_lowres - other.mask_logits_lowres).max() for first, other in pairwise(together)
    ]
    assert min(different) > 1e-3  # images and prompts matter


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_tokens_are_the_image_tokens_of_the_two_way_transformer(family):
    engine, embeddings, index = engine_of(family), embeddings_of(family), 1
    rng = np.random.default_rng(0)
    prompts = [
        random_prompt(rng, form, SHAPES_HW[index], engine.frame.lowres_side) for form in rng.choice(("1", "1b"), 9)
    ]
    model, _ = reference_of(family)
    seen = []
    with model.mask_decoder.transformer.register_forward_hook(lambda _module, _args, out: seen.append(out[1])):
        for prompt in prompts:
            asked(family, random_images(1)[index], prompt)
    side = model.prompt_encoder.image_embedding_size[0]
    expected = [tokens[0, 0].T.unflatten(1, (side, side)) for tokens in seen]
    answered = []
    for indices, found in engine.decoder_tokens(embeddings, index, prompts):
        assert found.dtype == torch.float32
        answered += indices
        torch.testing.assert_close(found, torch.stack([expected[each] for each in indices]), rtol=0, atol=1e-4)
    assert sorted(answered) == list(range(9))
    assert min((expected[0] - other).abs().max() for other in expected[1:]) > 1e-3


def test_no_prompts_no_answers():
    engine, embeddings = engine_of("sam"), embeddings_of("sam")
    assert engine.decode(embeddings, [], []) == []
    assert list(engine.decoder_tokens(embeddings, 0, [])) == []


# Kept embeddings


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_can_be_kept_with_every_map_that_the_decoder_needs(family):
    engine, embeddings = engine_of(family), embeddings_of(family)
    kept = embeddings.to_numpy()
    values = sum(each[0].numel() for each in (embeddings.features, *embeddings.finer))
    assert (kept.dtype, kept[0].size) == (np.float16, values)
    assert kept.shape[2:] == embeddings.features.shape[2:]
    restored = engine.encode([EncodedImage(*each) for each in zip(kept, embeddings.image_hw, strict=True)])
    for fresh, again in zip(
        (embeddings.features, *embeddings.finer), (restored.features, *restored.finer), strict=True
    ):
        torch.testing.assert_close(again, fresh, rtol=1e-3, atol=1e-3)
    prompt = random_prompt(np.random.default_rng(0), "2bm", SHAPES_HW[1], engine.frame.lowres_side)
    (before,), (after,) = (engine.decode(each, [1], [prompt]) for each in (embeddings, restored))
    difference = np.abs(before.mask_logits_lowres - after.mask_logits_lowres).max()
    assert 0 < difference < 0.02 * np.abs(before.mask_logits_lowres).max()


def test_images_encoded_before_and_fresh_ones_keep_their_order():
    engine, fresh = engine_of("sam2"), embeddings_of("sam2")
    images = random_images(1)
    kept = EncodedImage(fresh.to_numpy()[1], fresh.image_hw[1])
    mixed = engine.encode([images[0], kept, *images[2:]])
    assert mixed.image_hw == fresh.image_hw
    for ours, theirs in zip((mixed.features, *mixed.finer), (fresh.features, *fresh.finer), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert not torch.equal(mixed.features[1], fresh.features[1])  # it was kept in half precision


# Precision


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_stays_near_and_encodes_prompts_exactly(family):
    exact, rough = engine_of(family), HfEngine(loaded(family), precision="bf16")
    prompt = random_prompt(np.random.default_rng(8), "2bm", SHAPES_HW[0], exact.frame.lowres_side)
    answers, encoded = [], []
    for engine in (exact, rough):
        with engine._model.prompt_encoder.register_forward_hook(lambda _module, _args, out: encoded.append(out)):
            embeddings = engine.encode(random_images(1))
            assert embeddings.features.dtype == torch.float32
            answers += engine.decode(embeddings, [0], [prompt])
    expected, found = answers
    difference = np.linalg.norm(found.mask_logits_lowres - expected.mask_logits_lowres)
    assert 0 < difference < 0.1 * np.linalg.norm(expected.mask_logits_lowres)
    np.testing.assert_allclose(found.predicted_iou, expected.predicted_iou, rtol=0, atol=0.03)
    for one, other in zip(*encoded, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same(monkeypatch):
    # Traced as always; making machine code of it would take minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    fast = HfEngine(loaded("sam2"), precision="fp32", compiled="always").encode(random_images(1))
    torch.testing.assert_close(fast.features, embeddings_of("sam2").features, rtol=0, atol=1e-4)


# Frames: SAM pads, SAM 2 stretches


WIDE, TALL = (60, 150), (170, 50)


@pytest.mark.slow
@pytest.mark.parametrize("image_hw", [WIDE, TALL, (90, 90)])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_object_lies_in_the_input_where_the_frame_says(family, image_hw):
    engine = engine_of(family)
    height, width = image_hw
    image = np.zeros((height, width, 3), np.uint8)
    box = np.array([[width // 5, height // 4], [width // 2, height * 3 // 4]], np.float32)
    (x0, y0), (x1, y1) = box.astype(int)
    image[y0:y1, x0:x1] = 255
    (pixels,) = engine._prepared([image])
    assert pixels.shape == (3, engine.frame.input_side, engine.frame.input_side)
    bright = pixels[0] > (pixels[0].max() + pixels[0, 0, 0]) / 2
    rows, columns = np.nonzero(bright.numpy())
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(found, engine.frame.to_input_xy(box, image_hw).ravel(), atol=1)
    # Padding is zero after the normalisation; black is not.
    resized = tuple((pixels[0] != 0).nonzero().max(0).values.add(1).tolist())
    assert resized == engine.frame.resized_hw(image_hw)


@pytest.mark.parametrize("image_hw", [WIDE, TALL])
@pytest.mark.parametrize("prompts", [{"box": "tight"}, {"mask_prompt": True}], ids=str)
@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_a_model_that_answers_with_its_prompt_gives_the_teachers_mask(family, prompts, image_hw, monkeypatch):
    sam = loaded(family)
    engine = HfEngine(sam, precision="fp32")
    side, cell = engine.frame.lowres_side, engine.frame.input_side / engine.frame.lowres_side

    def answer(input_boxes=None, input_masks=None, **_):
        if input_boxes is None:
            logits = input_masks
        else:
            x0, y0, x1, y1 = (input_boxes[0, 0] / cell).tolist()
            at = torch.arange(side) + 0.5
            distance_x, distance_y = (torch.minimum(at - low, high - at) for low, high in ((x0, x1), (y0, y1)))
            logits = torch.minimum(distance_y[:, None], distance_x[None])[None, None]
        return type("Answer", (), {"pred_masks": logits.expand(1, 1, 3, side, side), "iou_scores": torch.ones(1, 1, 3)})

    monkeypatch.setattr(sam.model, "forward", answer)
    height, width = image_hw
    mask = np.zeros(image_hw, bool)
    mask[height // 4 : height * 3 // 4, width // 5 : width // 2] = True
    given = refine_input(np.zeros((height, width, 3), np.uint8), [teacher_label(mask)])
    settings = RefineSettings(**{"points": 0, "box": "none", "mask_prompt": False, "zoom_below_px": 0, **prompts})
    (refined,) = refine_images([given], engine, settings, Gate())
    (instance,) = refined.labels.instances
    assert instance.decision == "sam"
    found = refined.labels.mask(instance)
    assert (found & mask).sum() / (found | mask).sum() > 0.93


# HQ-SAM


def test_hq_sam_upscales_what_its_transformer_makes_of_the_image():
    """transformers 5.24 does not: without the correction this fails, and with a version that does, it is not needed."""
    plain = tiny_sams.build("sam_hq")
    side = plain.prompt_encoder.input_image_size
    given = {
        "pixel_values": torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)),
        "input_boxes": torch.tensor([[[20.0, 10, 90, 60]], [[5.0, 40, 70, 100]]]),
    }
    corrected, _ = reference_of("sam_hq")
    decoder, seen = corrected.mask_decoder, {}
    hooks = [
        decoder.transformer.register_forward_hook(lambda _module, _args, out: seen.update(decoded=out)),
        decoder.mask_conv2.register_forward_hook(lambda _module, _args, out: seen.update(fine=out)),
        decoder.encoder_conv2.register_forward_hook(lambda _module, _args, out: seen.update(embedded=out)),
        decoder.compress_vit_conv2.register_forward_hook(lambda _module, _args, out: seen.update(early=out)),
    ]
    found = corrected(**given)
    for hook in hooks:
        hook.remove()
    tokens, image_tokens = (each[:, 0] for each in seen["decoded"])
    decoder = plain.mask_decoder  # the same weights
    with torch.inference_mode():
        grid = image_tokens.transpose(1, 2).unflatten(2, (8, 8))
        upscaled = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(grid)))
        upscaled = decoder.activation(decoder.upscale_conv2(upscaled))
        fine = decoder.mask_conv2(decoder.activation(decoder.mask_norm(decoder.mask_conv1(upscaled))))
        fine = fine + seen["embedded"] + seen["early"]
        plain_masks = [
            torch.einsum("bc,bchw->bhw", mlp(tokens[:, 1 + index]), upscaled)
            for index, mlp in enumerate(decoder.output_hypernetworks_mlps)
        ]
        fine_mask = torch.einsum("bc,bchw->bhw", decoder.hq_mask_mlp(tokens[:, 5]), fine)
        ious = decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
    for image in range(2):
        for rank, index in enumerate(ious[image].argsort(descending=True).tolist()):
            expected = plain_masks[1 + index][image] + fine_mask[image]
            torch.testing.assert_close(found.pred_masks[image, 0, rank], expected, rtol=0, atol=1e-4)
    assert (plain(**given).pred_masks - found.pred_masks).abs().max() > 0.1


def test_hq_sam_without_its_own_part_is_nearly_sam():
    """Its authors froze SAM; only the further token is seen by SAM's own ones."""
    sam, model = tiny_sams.build("sam"), tiny_sams.build("sam_hq")
    model.load_state_dict(sam.state_dict(), strict=False)
    for tensor in model.mask_decoder.hq_mask_mlp.proj_out.parameters():
        tensor.data.zero_()
    given = {"pixel_values": torch.randn(1, 3, 128, 128), "input_boxes": torch.tensor([[[20.0, 10, 90, 60]]])}
    expected = sam(**given)
    order = expected.iou_scores[0, 0].argsort(descending=True)

    def difference():
        return float((model(**given).pred_masks[0, 0] - expected.pred_masks[0, 0, order]).norm())

    uncorrected = difference()
    LoadedSam.of(model, tiny_sams.BUILDERS["sam_hq"].image_processor())
    assert difference() < 0.2 * uncorrected


# Refusing


def test_an_image_of_which_no_row_would_be_left_is_refused():
    thin = np.zeros((1, 300, 3), np.uint8)
    with pytest.raises(ImageError, match="300 x 1 pixels are too thin for this SAM"):
        engine_of("sam").encode([thin])
    assert len(engine_of("sam2").encode([thin])) == 1


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_pixels_are_refused(pixels):
    with pytest.raises(ImageError, match=r"SAM needs uint8 pixels \(height, width, 3\), not"):
        engine_of("sam2").encode([pixels])


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_images_of_any_shape_and_memory_are_encoded(family):
    engine = engine_of(family)
    (image,) = random_images(3, [(40, 60)])
    read_only = image[::-1, ::-1]
    read_only.setflags(write=False)
    strange = [read_only, image[3:4, 5:6], image[:3], image[:, :3], np.zeros((1, 256, 3), np.uint8)]
    assert len(engine.encode(strange)) == len(strange)
    turned = engine.encode([np.ascontiguousarray(read_only)])
    torch.testing.assert_close(engine.encode([read_only]).features, turned.features)


def test_impossible_prompts_are_refused():
    with pytest.raises(ValueError, match="an empty prompt"):
        engine_of("sam2").decode(embeddings_of("sam2"), [0], [Prompt(NO_POINTS, NO_LABELS)])


@pytest.mark.parametrize("family", ["sam2", "edgetam", "sam3_tracker"])
def test_the_image_embedding_has_what_stands_for_no_memory(family):
    """SAM 2's own predictors add it to the map that the decoder's transformer sees, whatever the family."""
    plain, changed = loaded(family), loaded(family)
    with torch.no_grad():
        changed.model.no_memory_embedding.copy_(torch.arange(1.0, 1 + changed.model.no_memory_embedding.numel()))
    image = random_images(1)[:1]
    before, after = (HfEngine(sam, precision="fp32").encode(image).features for sam in (plain, changed))
    added = (changed.model.no_memory_embedding - plain.model.no_memory_embedding).view(1, -1, 1, 1)
    torch.testing.assert_close(after - before, added.expand_as(after))
