"""`refine`: the teacher's masks sharpened with SAM, in a label store that experiments share."""

from __future__ import annotations

from dataclasses import replace

from pipeline.detection.predicting import PseudoLabeller
from pipeline.files.identity import IdentityCache
from pipeline.labels.label_store import LabelStore
from pipeline.labels.summary import count_labels
from pipeline.refinement.calibrate import CalibratedGate
from pipeline.refinement.gate import make_gate
from pipeline.refinement.refining import Refinement, keep_teacher_labels, refine_store
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.workflow.fitted_gate import HeldOutImages, fitted_gate
from pipeline.workflow.graph import labelling_model, node_key
from pipeline.workflow.kept_embeddings import EmbeddingSource, kept_embeddings
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.result_store import StoreRoot
from pipeline.workflow.workspace import identity_file, work_root
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Fit the gate if the experiment asks for that, refine the images that are missing, and seal the store."""
    experiment, sealed = context.experiment, context.folder / LABELS
    teacher = context.results[node_key("predict", context.node.round)] / LABELS
    if experiment.refine.gate == "teacher":
        keep_teacher_labels(teacher, sealed, context.provenance)
        return count_labels(LabelStore.open(sealed))
    fitted = _fitted_gate(context) if experiment.refine.gate == "calibrated" else None
    gate = make_gate(experiment.refine, None if fitted is None else fitted.gate)
    refinement = Refinement(teacher, context.unlabelled_images(), experiment.sam, experiment.refine)
    encoded = 0
    if experiment.compute.cache_embeddings and not sealed.exists():
        refinement, encoded = _with_embeddings(context, refinement)
    encoded += refine_store(refinement, gate, sealed, context.provenance, context.execution)
    said = {} if fitted is None else {"gate": fitted.summary}
    return count_labels(LabelStore.open(sealed)) | {ENCODED_IMAGES: encoded} | said


def _fitted_gate(context: StageContext) -> CalibratedGate:
    experiment = context.experiment
    share = experiment.teacher.held_out
    return fitted_gate(
        context.folder,
        HeldOutImages(context.labelled(), context.labelled_images(), share),
        PseudoLabeller(context.results[labelling_model(1)], experiment.predict),
        experiment.sam,
        experiment.refine,
        context.execution,
    )


def _with_embeddings(context: StageContext, refinement: Refinement) -> tuple[Refinement, int]:
    """The refinement with kept embeddings, and how many images were encoded for them now."""
    embeddings, encoded = kept_embeddings(
        EmbeddingSource(
            labels=LabelStore.open(refinement.teacher_store),
            image_root=refinement.image_root,
            sam=refinement.sam,
            weights=context.fingerprint["inputs"]["sam.checkpoint"],
        ),
        IdentityCache(identity_file(work_root())),
        StoreRoot(context.experiment.store),
        context.experiment.name,
        context.execution,
    )
    return replace(refinement, embeddings=embeddings), encoded
