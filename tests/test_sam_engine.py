"""The engine against segment_anything's own code, on models small enough to build in milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.fx.experimental import _config as fx_config
from torch.nn import functional as F

from pipeline.compute.settings import Compiling
from pipeline.errors import ImageError, StageError
from pipeline.sam import attention
from pipeline.sam import engine as engine_module
from pipeline.sam.attention import FastImageEncoderViT, fast_encoder
from pipeline.sam.build import build_sam
from pipeline.sam.decoder import BatchedMaskDecoder
from pipeline.sam.encoded import EncodedImage
from pipeline.sam.engine import SamEngine, perhaps_compiled, resize_in_two_passes
from pipeline.sam.frame import InputFrame
from pipeline.sam.prompt import Candidates, Prompt
from pipeline.sam.prompt_tensors import prompt_tensors
from pipeline.sam.tiny import WEIGHTS_FILE

SIDE = 128
FRAME = InputFrame(SIDE, 32)
SHAPES_HW = ((96, 150), (200, 77), (128, 128), (5, 7), (33, 300))
NO_POINTS = np.zeros((0, 2), np.float32)
NO_LABELS = np.zeros(0, np.int64)


def small_encoder(window: int = 3, patch: int = 16, heads: int = 2, blocks: int = 3) -> ImageEncoderViT:
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=patch,
        embed_dim=32,
        depth=blocks,
        num_heads=heads,
        out_chans=32,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1,),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    for name, tensor in encoder.named_parameters():
        if name == "pos_embed" or ".rel_pos_" in name:
            nn.init.normal_(tensor, std=0.5)
    return encoder.eval().requires_grad_(False)


def small_vit_sam() -> Sam:
    torch.manual_seed(0)
    return Sam(
        image_encoder=small_encoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=32, image_embedding_size=(8, 8), input_image_size=(SIDE, SIDE), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4),
            transformer_dim=32,
            iou_head_hidden_dim=32,
        ),
    ).eval()


def sam_of(name: str) -> Sam:
    return small_vit_sam() if name == "vit" else build_sam("sam_tiny", input_side=SIDE, random_weights_seed=0)


def random_images(seed: int, shapes_hw: Sequence[tuple[int, int]] = SHAPES_HW) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in shapes_hw]


def random_prompt(rng: np.random.Generator, form: str, image_hw: tuple[int, int], lowres_side: int) -> Prompt:
    """`form`: a digit for the number of points, then `b` with a box, `m` with mask logits."""
    height, width = image_hw
    points = int(form[0])
    x0, x1 = np.sort(rng.uniform(0, width, 2))
    y0, y1 = np.sort(rng.uniform(0, height, 2))
    return Prompt(
        points_xy_full=(rng.random((points, 2)) * (width, height)).astype(np.float32),
        point_labels=rng.integers(0, 2, points),
        box_xyxy_full=np.array([x0, y0, x1, y1], np.float32) if "b" in form else None,
        mask_logits_lowres=rng.normal(0, 3, (lowres_side, lowres_side)).astype(np.float32) if "m" in form else None,
    )


def predicted(predictor: SamPredictor, prompt: Prompt) -> tuple[NDArray[np.bool_], Candidates]:
    mask = prompt.mask_logits_lowres
    has_points = len(prompt.point_labels) > 0
    masks, ious, logits = predictor.predict(
        prompt.points_xy_full if has_points else None,
        prompt.point_labels if has_points else None,
        prompt.box_xyxy_full,
        None if mask is None else mask[None],
    )
    return masks, Candidates(logits, ious)


def mask_iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    union = (first | second).sum(axis=(1, 2))
    return np.where(union, (first & second).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0)


# Encoder


@pytest.mark.parametrize("window", [3, 4, 14])
@pytest.mark.parametrize("heads", [1, 4])
def test_encoder_equals_segment_anything(window: int, heads: int) -> None:
    torch.manual_seed(window)
    encoder = small_encoder(window, heads=heads)
    images = torch.randn(2, 3, SIDE, SIDE)
    fast = fast_encoder(encoder)
    assert isinstance(fast, FastImageEncoderViT)
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), encoder(images), rtol=0, atol=5e-6)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_strips_and_steps_do_not_change_the_result(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = small_encoder(patch=8, heads=4)
    images = torch.randn(1, 3, SIDE, SIDE)
    monkeypatch.setattr(attention, "CPU_STRIP_ROWS", step)
    monkeypatch.setattr(attention, "CPU_QUERY_ROWS", step)
    monkeypatch.setattr(torch, "get_num_threads", lambda: step)
    with torch.inference_mode():
        torch.testing.assert_close(fast_encoder(encoder)(images), encoder(images), rtol=0, atol=5e-6)


def test_encoder_positions_matter() -> None:
    """Else the tests above would not see them."""
    torch.manual_seed(0)
    encoder = small_encoder()
    images = torch.randn(1, 3, SIDE, SIDE)
    before = encoder(images)
    for table in ("rel_pos_h", "rel_pos_w"):
        for block in encoder.blocks[:2]:
            changed = copy.deepcopy(encoder)
            getattr(changed.blocks[list(encoder.blocks).index(block)].attn, table).zero_()
            assert (changed(images) - before).abs().max() > 1e-3


def test_other_encoders_are_left_alone() -> None:
    encoder = build_sam("sam_tiny", random_weights_seed=0).image_encoder
    assert fast_encoder(encoder) is encoder


def test_other_encoders_give_the_same_in_bf16() -> None:
    plain = build_sam("sam_tiny", input_side=64, random_weights_seed=0).image_encoder
    laid_out = fast_encoder(copy.deepcopy(plain), torch.bfloat16)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(laid_out(images), plain(images), rtol=0.02, atol=0.02)


def test_encoder_in_bf16_stays_near() -> None:
    torch.manual_seed(0)
    encoder = small_encoder()
    images = torch.randn(1, 3, SIDE, SIDE)
    exact = encoder(images)
    rough = fast_encoder(encoder, torch.bfloat16)(images)
    assert rough.dtype == torch.float32
    error = (rough - exact).norm()
    assert 0 < error / exact.norm() < 0.02
    for block in encoder.blocks:
        for name in ("rel_pos_h", "rel_pos_w"):
            unplaced = copy.deepcopy(encoder.float())
            getattr(unplaced.blocks[list(encoder.blocks).index(block)].attn, name).zero_()
            assert (unplaced(images) - exact).norm() > 2 * error, "the terms of positions are not seen"


# Whole engine


@pytest.mark.parametrize("form", ["1", "3", "0b", "1b", "4b", "0m", "2m", "0bm", "2bm"])
@pytest.mark.parametrize("model", ["vit", "tiny"])
def test_equals_sam_predictor(model: str, form: str) -> None:
    sam = sam_of(model)
    predictor = SamPredictor(copy.deepcopy(sam))
    engine = SamEngine(sam, precision="fp32")
    images = random_images(1)
    embeddings = engine.encode(images)
    rng = np.random.default_rng(2)
    for index, image in enumerate(images):
        hw = (image.shape[0], image.shape[1])
        prompt = random_prompt(rng, form, hw, engine.frame.lowres_side)
        (found,) = engine.decode(embeddings, [index], [prompt])
        predictor.set_image(image)
        masks, expected = predicted(predictor, prompt)
        np.testing.assert_allclose(found.mask_logits_lowres, expected.mask_logits_lowres, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.predicted_iou, expected.predicted_iou, rtol=0, atol=1e-5)
        full = engine.frame.full_logits(found.mask_logits_lowres, hw, (0, 0, hw[1], hw[0])) > 0
        assert mask_iou(full, masks).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit", "tiny"])
def test_many_prompts_of_many_images_at_once(model: str) -> None:
    engine = SamEngine(sam_of(model), precision="fp32")
    images = random_images(3)
    embeddings = engine.encode(images)
    rng = np.random.default_rng(4)
    indices = [int(index) for index in rng.integers(0, len(images), 60)]
    forms = rng.choice(["1", "2", "3", "0b", "2b", "1m", "1bm"], 60)
    prompts = [
        random_prompt(rng, form, embeddings.image_hw[index], engine.frame.lowres_side)
        for form, index in zip(forms, indices, strict=True)
    ]
    together = engine.decode(embeddings, indices, prompts)
    assert len(together) == len(prompts)
    for index, prompt, found in zip(indices, prompts, together, strict=True):
        (alone,) = engine.decode(engine.encode([images[index]]), [0], [prompt])
        np.testing.assert_allclose(found.mask_logits_lowres, alone.mask_logits_lowres, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.predicted_iou, alone.predicted_iou, rtol=0, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("images", [1, 3], ids=["one image", "three images"])
@pytest.mark.parametrize("model", ["vit", "tiny"])
def test_batches_and_the_prompts_of_them_at_once_change_nothing(
    model: str, images: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CPU_IMAGE_TOKENS", at_once * 8 * 8)
    monkeypatch.setattr(engine_module, "BATCH_PROMPTS", 4)
    sam = sam_of(model)
    predictor = SamPredictor(copy.deepcopy(sam))
    engine = SamEngine(sam, precision="fp32")
    shown = random_images(9)[:images]
    rng = np.random.default_rng(9)
    forms = ["2b"] * 6 + ["1bm"] * 6 + ["0m"] * 5  # whole batches and parts of some, with and without a mask
    indices = [number % images for number in range(len(forms))]
    embeddings = engine.encode(shown)
    prompts = [
        random_prompt(rng, form, embeddings.image_hw[index], engine.frame.lowres_side)
        for form, index in zip(forms, indices, strict=True)
    ]
    found = engine.decode(embeddings, indices, prompts)
    for index, prompt, candidates in zip(indices, prompts, found, strict=True):
        predictor.set_image(shown[index])
        _, expected = predicted(predictor, prompt)
        np.testing.assert_allclose(candidates.mask_logits_lowres, expected.mask_logits_lowres, rtol=0, atol=1e-5)
        np.testing.assert_allclose(candidates.predicted_iou, expected.predicted_iou, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as always; making machine code of it would take minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    sam = sam_of("vit")
    plain, fast = (
        SamEngine(copy.deepcopy(sam), precision="fp32", compiled=compiled) for compiled in ("never", "always")
    )
    images = random_images(3)
    for count in (len(images), 1):
        expected, found = (engine.encode(images[:count]).features for engine in (plain, fast))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def compiler_of(error: Exception, tried: list[object]) -> Callable[[object], object]:
    """A `torch.compile` whose result raises an error at every call, which is noted."""

    def compiled(encoder: object) -> object:
        def fail(inputs: object) -> object:
            tried.append(inputs)
            raise error

        return fail

    return compiled


def test_a_machine_that_cannot_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    error = TorchDynamoException("no C++ compiler\n and a long trace")
    monkeypatch.setattr(torch, "compile", compiler_of(error, []))
    with pytest.raises(StageError, match=r"compute.compile: .*: no C\+\+ compiler$"):
        SamEngine(sam_of("vit"), compiled="always").encode(random_images(3))


def test_what_cannot_be_compiled_runs_as_it_is_unless_compiling_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(torch, "compile", compiler_of(TorchDynamoException("no C++ compiler"), tried))
    encoder = perhaps_compiled(nn.Linear(2, 2), "on_gpu", torch.device("cuda"))
    inputs = torch.ones(1, 2)
    assert [encoder(inputs).shape, encoder(inputs).shape] == [(1, 2), (1, 2)]
    assert len(tried) == 1


def test_errors_of_a_compiled_encoder_itself_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", compiler_of(RuntimeError("out of memory"), []))
    with pytest.raises(RuntimeError, match="out of memory"):
        perhaps_compiled(nn.Linear(2, 2), "on_gpu", torch.device("cuda"))(torch.ones(1, 2))


@pytest.mark.parametrize(("compiled", "device"), [("never", "cuda"), ("never", "cpu"), ("on_gpu", "cpu")])
def test_compiling_is_left_out_where_it_is_not_wanted(compiled: Compiling, device: str) -> None:
    encoder = nn.Linear(2, 2)
    assert perhaps_compiled(encoder, compiled, torch.device(device)) is encoder


def test_no_prompts_no_candidates() -> None:
    engine = SamEngine(sam_of("tiny"))
    assert engine.decode(engine.encode(random_images(0, [(9, 9)])), [], []) == []


def test_embeddings_can_be_kept_and_restored() -> None:
    engine = SamEngine(sam_of("vit"), precision="fp32")
    embeddings = engine.encode(random_images(5))
    kept = embeddings.to_numpy()
    assert (kept.dtype, kept.shape) == (np.float16, (len(SHAPES_HW), 32, 8, 8))
    restored = engine.encode([EncodedImage(*each) for each in zip(kept, embeddings.image_hw, strict=True)])
    assert len(restored) == len(embeddings)
    prompt = random_prompt(np.random.default_rng(0), "2b", SHAPES_HW[1], engine.frame.lowres_side)
    (before,), (after,) = (engine.decode(each, [1], [prompt]) for each in (embeddings, restored))
    difference = np.abs(before.mask_logits_lowres - after.mask_logits_lowres).max()
    assert 0 < difference < 0.01 * np.abs(before.mask_logits_lowres).max()


def test_images_encoded_before_and_fresh_ones_keep_their_order() -> None:
    engine = SamEngine(sam_of("tiny"), precision="fp32")
    images = random_images(7)
    fresh = engine.encode(images)
    kept = EncodedImage(fresh.to_numpy()[1], fresh.image_hw[1])
    mixed = engine.encode([images[0], kept, *images[2:]])
    assert mixed.image_hw == fresh.image_hw
    np.testing.assert_allclose(mixed.features, fresh.features, atol=2e-3)
    assert not torch.equal(mixed.features[1], fresh.features[1])  # it was kept in half precision


@pytest.mark.parametrize(
    "forms", [("1",), ("1b",), ("1", "1b", "2", "0b", "1m", "1bm")], ids=["point", "point and box", "mixed"]
)
@pytest.mark.parametrize("index", [0, 4])
@pytest.mark.parametrize("model", ["vit", "tiny"])
def test_decoder_tokens_are_the_image_tokens_of_the_two_way_transformer(
    model: str, index: int, forms: tuple[str, ...]
) -> None:
    sam = sam_of(model)
    reference = copy.deepcopy(sam)
    engine = SamEngine(sam, precision="fp32")
    images = random_images(6)
    embeddings = engine.encode(images)
    rng = np.random.default_rng(0)
    prompts = [
        random_prompt(rng, str(form), SHAPES_HW[index], engine.frame.lowres_side) for form in rng.choice(forms, 24)
    ]
    predictor = SamPredictor(reference)
    predictor.set_image(images[index])
    seen: list[torch.Tensor] = []
    reference.mask_decoder.transformer.register_forward_hook(lambda _module, _args, out: seen.append(out[1]))
    for prompt in prompts:
        predicted(predictor, prompt)
    side = reference.prompt_encoder.image_embedding_size[0]
    expected = [tokens[0].T.unflatten(1, (side, side)) for tokens in seen]
    answered: list[int] = []
    for indices, found in engine.decoder_tokens(embeddings, index, prompts):
        assert found.dtype == torch.float32
        answered += indices
        wanted = torch.stack([expected[number] for number in indices])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert sorted(answered) == list(range(24))
    different = [(expected[0] - other).abs().max() for other in expected[1:]]
    assert min(different) > 1e-3  # the prompts matter


def test_no_prompts_no_decoder_tokens() -> None:
    engine = SamEngine(sam_of("tiny"))
    assert list(engine.decoder_tokens(engine.encode(random_images(0, [(9, 9)])), 0, [])) == []


@pytest.mark.parametrize("form", ["2b", "1bm"])
@pytest.mark.parametrize("model", ["vit", "tiny"])
def test_bf16_stays_near(model: str, form: str) -> None:
    exact, rough = (SamEngine(sam_of(model), precision=precision) for precision in ("fp32", "bf16"))
    images = random_images(7)
    prompt = random_prompt(np.random.default_rng(8), form, SHAPES_HW[0], exact.frame.lowres_side)
    (expected,), (found,) = (engine.decode(engine.encode(images), [0], [prompt]) for engine in (exact, rough))
    # Random weights give logits near zero, where an IoU says nothing: what counts is their distance.
    difference = found.mask_logits_lowres - expected.mask_logits_lowres
    assert 0 < np.linalg.norm(difference) < 0.05 * np.linalg.norm(expected.mask_logits_lowres)
    np.testing.assert_allclose(found.predicted_iou, expected.predicted_iou, rtol=0, atol=0.02)


# Devices


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_that_the_engine_computes_with_is_where_the_model_is(dtype: torch.dtype) -> None:
    """As on a GPU, whose way tensors without memory take."""
    assumed = fx_config.patch(meta_nonzero_assume_all_nonzero=True)
    sam = small_vit_sam().to("meta").requires_grad_(False)
    images = torch.zeros(2, 3, SIDE, SIDE, device="meta")
    encoder = fast_encoder(sam.image_encoder, dtype)
    features = encoder(images)
    decoder = BatchedMaskDecoder(sam.mask_decoder, sam.prompt_encoder, dtype, at_once=4)
    for module in (*encoder.modules(), *decoder.modules()):
        held = [*vars(module).values(), *module._parameters.values(), *module._buffers.values()]
        assert {each.device.type for each in held if isinstance(each, torch.Tensor)} <= {"meta"}
    for form in ("1", "1b", "1bm"):
        prompts = [random_prompt(np.random.default_rng(0), form, (SIDE, SIDE), FRAME.lowres_side) for _ in range(5)]
        tensors = prompt_tensors(prompts, [(SIDE, SIDE)] * 5, FRAME, torch.device("meta"))
        projected = decoder.project(features, with_masks=tensors.masks is not None)
        with assumed:
            logits, ious = decoder.candidates(decoder(projected, [0, 0, 1, 0, 1], tensors))
        assert (logits.device.type, logits.shape, ious.shape) == ("meta", (5, 3, 32, 32), (5, 3))
        assert logits.dtype == ious.dtype == torch.float32


# Refusing


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_pixels_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match=r"SAM needs uint8 pixels \(height, width, 3\), not"):
        SamEngine(sam_of("tiny")).encode([pixels])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(NO_POINTS, NO_LABELS), "an empty prompt"),
        (Prompt(np.zeros((2, 2), np.float32), np.ones(1, np.int64)), r"points \(2, 2\) need as many labels"),
        (Prompt(np.zeros((1, 2), np.float32), np.array([-1])), "each 0 or 1"),
        (Prompt(NO_POINTS, NO_LABELS, np.zeros((1, 4), np.float32)), "a box must be"),
        (Prompt(NO_POINTS, NO_LABELS, None, np.zeros((8, 8), np.float32)), "mask logits must be 64 x 64"),
    ],
)
def test_impossible_prompts_are_refused(prompt: Prompt, message: str) -> None:
    engine = SamEngine(sam_of("tiny"))
    with pytest.raises(ValueError, match=message):
        engine.decode(engine.encode(random_images(0, [(9, 9)])), [0], [prompt])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(StageError, match="torch sees no GPU here"):
        SamEngine(sam_of("tiny"), "cuda")


# Frames


@pytest.mark.parametrize("image_hw", [*SHAPES_HW, (1, 90), (600, 599)])
def test_input_frame_equals_segment_anything(image_hw: tuple[int, int]) -> None:
    transform = ResizeLongestSide(SIDE)
    assert FRAME.resized_hw(image_hw) == transform.get_preprocess_shape(*image_hw, SIDE)
    points_xy = np.random.default_rng(0).uniform(0, 90, (5, 2)).astype(np.float32)
    expected = transform.apply_coords(points_xy, image_hw)
    np.testing.assert_allclose(FRAME.to_input_xy(points_xy, image_hw), expected, rtol=1e-6)


@pytest.mark.parametrize("image_hw", SHAPES_HW)
def test_full_logits_equal_segment_anything_in_every_region(image_hw: tuple[int, int]) -> None:
    sam = sam_of("vit")
    logits = np.random.default_rng(0).normal(0, 2, (3, 32, 32)).astype(np.float32)
    expected = sam.postprocess_masks(torch.from_numpy(logits)[None], FRAME.resized_hw(image_hw), image_hw)[0].numpy()
    height, width = image_hw
    for x0, y0, x1, y1 in (
        (0, 0, width, height),
        (width // 3, height // 4, width // 3 + 1, height // 2 + 1),
        (width - 2, 0, width, height),
        (2, 2, 2, 2),
    ):
        found = FRAME.full_logits(logits, image_hw, (x0, y0, x1, y1))
        np.testing.assert_allclose(found, expected[:, y0:y1, x0:x1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("image_hw", SHAPES_HW)
def test_a_stretched_image_fills_the_frame(image_hw: tuple[int, int]) -> None:
    frame = InputFrame(SIDE, 32, keeps_aspect=False)
    assert frame.resized_hw(image_hw) == (SIDE, SIDE)
    height, width = image_hw
    corners_xy = np.array([[0, 0], [width, height]], np.float32)
    np.testing.assert_allclose(frame.to_input_xy(corners_xy, image_hw), [[0, 0], [SIDE, SIDE]])
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (3, 32, 32)).astype(np.float32))
    expected = F.interpolate(logits[None], image_hw, mode="bilinear", align_corners=False)[0].numpy()
    for x0, y0, x1, y1 in ((0, 0, width, height), (width // 3, height // 4, width // 3 + 1, height)):
        found = frame.full_logits(logits.numpy(), image_hw, (x0, y0, x1, y1))
        np.testing.assert_allclose(found, expected[:, y0:y1, x0:x1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("hw", [(480, 640), (100, 37), (300, 200), (13, 17), (128, 128)])
def test_resizing_in_two_passes_equals_pillow(hw: tuple[int, int]) -> None:
    (image,) = random_images(9, [hw])
    expected = ResizeLongestSide(SIDE).apply_image(image)
    found = resize_in_two_passes(torch.from_numpy(image).permute(2, 0, 1), FRAME.resized_hw(hw))
    difference = np.abs(found.permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


# Trained weights


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS_FILE.exists(), reason="sam_tiny's weights are not there yet")
def test_bf16_masks_of_trained_weights() -> None:
    exact, rough = (SamEngine(build_sam("sam_tiny"), precision=precision) for precision in ("fp32", "bf16"))
    rows, columns = np.mgrid[:128, :128]
    image = np.full((128, 128, 3), (40, 90, 60), np.uint8)
    image[(rows - 60) ** 2 + (columns - 70) ** 2 < 30**2] = (200, 120, 80)
    prompt = Prompt(np.array([[70, 60]], np.float32), np.ones(1, np.int64), np.array([40, 30, 100, 90], np.float32))
    masks = []
    for engine in (exact, rough):
        (candidates,) = engine.decode(engine.encode([image]), [0], [prompt])
        best = candidates.mask_logits_lowres[candidates.predicted_iou.argmax()]
        masks.append(engine.frame.full_logits(best, (128, 128), (0, 0, 128, 128))[None] > 0)
    assert masks[0].any()
    assert mask_iou(*masks).min() >= 0.99
