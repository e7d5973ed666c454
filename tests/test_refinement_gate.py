"""The gate and its calibration."""

from __future__ import annotations

from dataclasses import astuple, fields, replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageError
from pipeline.labels.rows import Decision
from pipeline.refinement.calibrate import CalibratedGate, GateSample, calibrate
from pipeline.refinement.gate import MEASURES, Gate, IouLine, Measures, Thresholds, fixed_gate, make_gate
from pipeline.refinement.settings import RefineSettings

GOOD = Measures(agreement=0.9, predicted_iou=0.9, stability=0.9, area_match=0.9)


def decision(gate, **measures):
    return gate.judge(replace(GOOD, **measures))[0]


def test_no_gate_takes_sam_whatever_it_says():
    gate = make_gate(RefineSettings(gate="none", drop_below_agreement=0.5))
    assert decision(gate, agreement=0.0, predicted_iou=0.0, stability=0.0, area_match=0.0) is Decision.SAM


@pytest.mark.parametrize(
    ("measures", "expected"),
    [
        ({}, Decision.SAM),
        ({"agreement": 0.6}, Decision.SAM),
        ({"agreement": 0.59}, Decision.TEACHER),
        ({"agreement": 0.29}, Decision.DROPPED),
        ({"predicted_iou": 0.39}, Decision.TEACHER),
        ({"stability": 0.69}, Decision.TEACHER),
        ({"area_match": 0.5}, Decision.SAM),
        ({"area_match": 0.49}, Decision.TEACHER),
    ],
)
def test_fixed_gate_by_its_thresholds(measures, expected):
    gate = make_gate(
        RefineSettings(
            gate="fixed",
            min_agreement=0.6,
            min_predicted_iou=0.4,
            min_stability=0.7,
            max_area_change=2.0,
            drop_below_agreement=0.3,
        )
    )
    assert decision(gate, **measures) is expected


def test_calibrated_gate_is_the_fitted_one_or_a_message():
    fitted = Gate(thresholds=None)
    assert make_gate(RefineSettings(gate="calibrated"), fitted) is fitted
    with pytest.raises(StageError, match="labelled instances that the teacher did not train on"):
        make_gate(RefineSettings(gate="calibrated"))


def test_a_gate_without_sam_is_refused_with_its_own_reason():
    with pytest.raises(StageError, match="refine.gate is 'teacher': every mask would stay as it is"):
        make_gate(RefineSettings(gate="teacher"))


def test_confidence_is_the_expected_iou_of_the_mask_that_is_taken():
    gate = Gate(
        thresholds=Thresholds(min_agreement=0.5),
        drop_below_agreement=0.2,
        expected_sam=IouLine(0.1, 0.5),
        expected_teacher=IouLine(0.3, 2.0),
    )
    assert gate.judge(replace(GOOD, agreement=0.8, predicted_iou=0.5))[1] == pytest.approx(0.3)
    assert gate.judge(replace(GOOD, agreement=0.3))[1] == pytest.approx(0.9)
    assert gate.judge(replace(GOOD, agreement=0.45))[1] == 1.0
    assert gate.judge(replace(GOOD, agreement=0.1))[1] == 0.0


def test_without_a_gate_every_mask_counts_in_full():
    gate = make_gate(RefineSettings(gate="none"))
    for evidence in (GOOD, replace(GOOD, agreement=0.0, predicted_iou=0.0)):
        assert gate.judge(evidence)[1] == 1.0
    assert replace(gate, thresholds=None).judge(GOOD)[1] == 1.0  # where SAM gives no pixel


shares = st.floats(0, 1)


@given(shares, shares, shares, shares, st.floats(0, 1), st.floats(0, 2))
def test_confidence_never_falls_where_the_measures_rise(low, high, low_iou, high_iou, intercept, slope):
    low, high, low_iou, high_iou = *sorted((low, high)), *sorted((low_iou, high_iou))
    line = IouLine(intercept, slope)
    for thresholds in (Thresholds(), None):
        gate = Gate(thresholds, expected_sam=line, expected_teacher=line)
        before = gate.judge(replace(GOOD, agreement=low, predicted_iou=low_iou))[1]
        after = gate.judge(replace(GOOD, agreement=high, predicted_iou=high_iou))[1]
        assert 0 <= before <= after <= 1


samples = st.lists(st.builds(GateSample, shares, shares, shares, shares, shares, shares), min_size=1, max_size=40)
thresholds = st.none() | st.builds(Thresholds, shares, shares, shares, shares)


def outcome(gate, sample):
    return sample.sam_iou if gate.judge(sample)[0] is Decision.SAM else sample.teacher_iou


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(samples=samples, start=thresholds)
def test_calibration_is_never_worse_than_the_better_constant_on_its_samples(samples, start):
    fitted = calibrate(samples, Gate(thresholds=start))
    gated = np.mean([outcome(fitted.gate, sample) for sample in samples])
    teacher, sam = (np.mean([getattr(each, name) for each in samples]) for name in ("teacher_iou", "sam_iou"))
    assert gated >= max(teacher, sam) - 1e-12
    assert (fitted.gated_iou, fitted.teacher_iou, fitted.sam_iou) == pytest.approx((gated, teacher, sam))
    assert all(0 <= fitted.gate.judge(each)[1] <= 1 for each in samples)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(samples=samples, seed=st.integers(0, 9))
def test_calibration_does_not_depend_on_the_order(samples, seed):
    shuffled = [samples[place] for place in np.random.default_rng(seed).permutation(len(samples))]
    assert calibrate(samples, Gate()) == calibrate(shuffled, Gate())


def drawn(count, seed, sam_fails=0.25):
    """SAM is better than the teacher unless it fails, and a failure shows in its own estimate."""
    rng = np.random.default_rng(seed)
    result = []
    for fails in rng.random(count) < sam_fails:
        teacher_iou, sam_iou = rng.normal(0.7, 0.1), rng.normal(0.4 if fails else 0.85, 0.06)
        estimate = sam_iou + rng.normal(0.05, 0.05)
        noise = rng.uniform(0.4, 1, 3)
        values = (noise[0], estimate, noise[1], noise[2], teacher_iou, sam_iou)
        result.append(GateSample(*(float(np.clip(value, 0, 1)) for value in values)))
    return result


def mean_outcome(gate, count=3_000, **options):
    return np.mean([outcome(gate, sample) for sample in drawn(count, seed=99, **options)])


def mean_gain(count, draw, seeds):
    """Gained over the better constant on many unseen instances, by gates fitted on `count` of them."""
    unseen = draw(2_000, 99)
    constant = max(np.mean([each.sam_iou for each in unseen]), np.mean([each.teacher_iou for each in unseen]))
    fits = [calibrate(draw(count, seed), Gate()) for seed in range(seeds)]
    return np.mean([[outcome(fit.gate, each) for each in unseen] for fit in fits]) - constant


@pytest.mark.parametrize(("count", "gain"), [(12, 0.025), (30, 0.05)])
def test_a_measure_that_tells_sams_failures_is_found(count, gain):
    assert mean_gain(count, drawn, seeds=6) > gain


def test_measures_that_tell_nothing_do_no_harm():
    def noise(count, seed):
        rng = np.random.default_rng(seed)
        return [GateSample(*rng.random(4), *rng.normal(0.6, 0.05, 2)) for _ in range(count)]

    assert mean_gain(30, noise, seeds=6) > -0.005


@pytest.mark.slow
def test_the_expected_gain_is_about_the_real_one():
    fits = [calibrate(drawn(50, seed), Gate()) for seed in range(8)]
    real = np.mean([mean_outcome(fit.gate) - mean_outcome(Gate()) for fit in fits])
    assert np.mean([fit.expected_gain for fit in fits]) == pytest.approx(real, abs=0.03)
    assert all(fit.gain_error > 0 for fit in fits)


def test_a_few_instances_keep_the_fixed_thresholds_where_they_do_well():
    few = [GateSample(0.9, 0.9, 0.9, 0.9, 0.7, 0.8), GateSample(0.1, 0.9, 0.9, 0.9, 0.7, 0.3)]
    fixed = fixed_gate(RefineSettings(gate="fixed", min_agreement=0.5))
    assert calibrate(few, fixed).gate.thresholds == fixed.thresholds
    always_bad = [replace(each, sam_iou=0.0) for each in few]
    assert calibrate(always_bad, fixed).gate.thresholds is None


def test_confidence_follows_the_truth():
    fitted = calibrate(drawn(60, seed=3), Gate())
    unseen = drawn(400, seed=4)
    verdicts = [fitted.gate.judge(sample) for sample in unseen]
    truth = [outcome(fitted.gate, sample) for sample in unseen]
    confidence = [verdict[1] for verdict in verdicts]
    assert np.mean(confidence) == pytest.approx(np.mean(truth), abs=0.05)


def test_instances_that_the_gate_drops_are_left_out_of_the_fit():
    kept = drawn(20, seed=1)
    dropped = [GateSample(0.05, 1.0, 1.0, 1.0, 1.0, 0.0)] * 50
    gate = Gate(drop_below_agreement=0.1)
    assert calibrate(kept + dropped, gate) == calibrate(kept, gate)
    with pytest.raises(StageError, match="no labelled instance"):
        calibrate(dropped, gate)


@pytest.mark.parametrize("value", [float("nan"), 1.5, -0.1])
def test_measures_that_are_no_shares_are_refused(value):
    with pytest.raises(StageError, match="not a number from 0 to 1"):
        calibrate([GateSample(0.5, 0.5, 0.5, 0.5, value, 0.5)], Gate())


def test_the_fit_says_what_it_chose_and_survives_json():
    fitted = calibrate(drawn(40, seed=2), Gate())
    assert "SAM's mask where predicted_iou >= 0." in fitted.summary
    assert "40 labelled instances" in fitted.summary
    assert msgspec.json.decode(msgspec.json.encode(fitted), type=CalibratedGate) == fitted
    teacher_only = calibrate([GateSample(0.9, 0.9, 0.9, 0.9, 0.9, 0.1)], Gate())
    assert "always the teacher's mask" in teacher_only.summary
    assert msgspec.json.decode(msgspec.json.encode(teacher_only), type=CalibratedGate) == teacher_only
    sam_only = calibrate([GateSample(0.9, 0.9, 0.9, 0.9, 0.1, 0.9)], Gate())
    assert "always SAM's mask" in sam_only.summary


def test_there_is_a_threshold_for_every_measure_and_no_other():
    assert [field.name for field in fields(Thresholds)] == [f"min_{name}" for name in MEASURES]
    measures = Measures(0.5, 0.6, 0.7, 0.8)
    assert Thresholds(*astuple(measures)).met_by(measures)
    for name in MEASURES:
        assert not Thresholds(**{f"min_{name}": getattr(measures, name) + 0.01}).met_by(measures)
