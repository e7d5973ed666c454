"""The same weights give the same in both engines."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra hf: make setup EXTRAS=hf")

import transformers
from segment_anything import sam_model_registry

from benchmarks.sams import as_in_transformers
from pipeline.refinement.gate import Gate
from pipeline.refinement.image import refine_images
from pipeline.refinement.settings import RefineSettings
from pipeline.sam.engine import SamEngine
from pipeline.sam.hf.engine import HfEngine
from pipeline.sam.hf.loading import LoadedSam
from tests import tiny_sams
from tests.refinement_fake import disc, refine_input, teacher_label
from tests.test_sam_engine import random_images, random_prompt, small_vit_sam

FORMS = ("1", "2b", "0b", "3m", "0bm")


def both():
    """segment_anything's engine and that of transformers, with the same small SAM."""
    sam = small_vit_sam()
    config = tiny_sams.sam_config(num_hidden_layers=3, global_attn_indexes=[1], mlp_dim=128)
    model = transformers.SamModel(config)
    model.load_state_dict(as_in_transformers(copy.deepcopy(sam.state_dict())))
    loaded = LoadedSam.of(model, tiny_sams.BUILDERS["sam"].image_processor())
    return SamEngine(sam, precision="fp32"), HfEngine(loaded, precision="fp32")


def test_the_same_weights_give_the_same_candidates():
    ours, theirs = both()
    images = random_images(1)
    embeddings = [engine.encode(images) for engine in (ours, theirs)]
    # Two libraries resize an image; their pixels differ by a level here and there.
    assert (embeddings[0].features - embeddings[1].features).abs().max() < 0.05
    rng = np.random.default_rng(0)
    for index, form in enumerate(FORMS):
        prompt = random_prompt(rng, form, embeddings[0].image_hw[index], ours.frame.lowres_side)
        # On the same embedding the decoders agree to rounding.
        (one,), (other,) = (engine.decode(embeddings[0], [index], [prompt]) for engine in (ours, theirs))
        np.testing.assert_allclose(one.mask_logits_lowres, other.mask_logits_lowres, rtol=0, atol=1e-4)
        np.testing.assert_allclose(one.predicted_iou, other.predicted_iou, rtol=0, atol=1e-4)


def test_the_same_weights_give_the_same_masks():
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    masks = [disc(90, 120, x, y, 14) for x, y in ((30, 30), (80, 40), (60, 65))]
    given = refine_input(image, [teacher_label(mask) for mask in masks])
    settings = RefineSettings(zoom_below_px=0)
    ours, theirs = (refine_images([given], engine, settings, Gate())[0].labels for engine in both())
    for one, other in zip(ours.instances, theirs.instances, strict=True):
        assert one.candidate == other.candidate
        first, second = ours.mask(one), theirs.mask(other)
        assert (first & second).sum() >= 0.99 * (first | second).sum()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit_b", "vit_l", "vit_h"])
def test_every_tensor_has_a_name(model):
    with torch.device("meta"):
        state = sam_model_registry[model]().state_dict()
        layers = {"vit_b": {}, "vit_l": {"num_hidden_layers": 24}, "vit_h": {"num_hidden_layers": 32}}[model]
        expected = transformers.SamModel(transformers.SamConfig(vision_config=layers)).state_dict()
    assert as_in_transformers(state).keys() == expected.keys()
