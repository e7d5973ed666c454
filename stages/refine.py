"""`refine`: the teacher's masks sharpened with SAM, in a label store that experiments share."""

from __future__ import annotations

from dataclasses import replace

from pipeline.files.identity import IdentityCache
from pipeline.labels.label_store import LabelStore
from pipeline.refinement.effect import measure_effect
from pipeline.refinement.gate import make_gate
from pipeline.refinement.refine_work import RefineWork
from pipeline.refinement.refining import keep_teacher_labels, refine_store, refine_work
from pipeline.sam.encoded import ENCODED_IMAGES
from pipeline.sam.files import sam_digest
from pipeline.sam.settings import SamSettings
from pipeline.sam.worker import SamChoice
from pipeline.workflow.fitted_gate import fitted_gate
from pipeline.workflow.graph import labelling_model, node_key
from pipeline.workflow.kept_embeddings import EmbeddingSource, kept_embeddings
from pipeline.workflow.result_files import LABELS
from pipeline.workflow.result_store import StoreRoot
from pipeline.workflow.workspace import identity_file, work_root
from stages.context import StageContext, Summary


def run(context: StageContext) -> Summary:
    """Fit the gate if the experiment wants that, refine the images that are missing, and seal the store."""
    experiment, sealed, execution = context.experiment, context.folder / LABELS, context.execution
    teacher = context.results[node_key("predict", context.node.round)] / LABELS
    if experiment.refine.gate == "teacher":
        keep_teacher_labels(teacher, sealed, context.provenance)
        return LabelStore.open(sealed).counts()
    fitted, own_sam = None, context.sam
    if experiment.refine.gate == "calibrated":
        first_teacher = context.results[labelling_model(1)]
        fitted = fitted_gate(experiment, own_sam, context.labelled(), first_teacher, context.folder, execution)
    gate = make_gate(experiment.refine, None if fitted is None else fitted.gate)
    sam = SamChoice.of(own_sam, execution.settled, len(LabelStore.open(teacher)))
    work = refine_work(teacher, context.unlabelled_images(), sealed, sam, experiment.refine, gate)
    work = replace(work, note_uncertain=experiment.student.notes_uncertain)
    encoded = 0
    if experiment.compute.cache_embeddings and not sealed.exists():
        work, encoded = _with_embeddings(context, own_sam, work)
    encoded += refine_store(work, sealed, context.provenance, execution)
    refined = LabelStore.open(sealed)
    effect = measure_effect(LabelStore.open(teacher), refined)
    for line in effect.warning_lines():
        context.say(line)
    return (
        refined.counts()
        | {ENCODED_IMAGES: encoded}
        | effect.figures()
        | ({} if fitted is None else {"gate": fitted.summary})
    )


def _with_embeddings(context: StageContext, sam: SamSettings, work: RefineWork) -> tuple[RefineWork, int]:
    """Return the work with kept embeddings, and how many images were encoded for them now."""
    experiment, identities = context.experiment, IdentityCache(identity_file(work_root()))
    embeddings, encoded = kept_embeddings(
        EmbeddingSource(
            LabelStore.open(work.teacher_store),
            work.images,
            sam,
            sam_digest(sam.model, sam.checkpoint, identities.file),
        ),
        identities,
        StoreRoot(experiment.store),
        experiment.name,
        context.execution,
    )
    return replace(work, embeddings=embeddings.absolute()), encoded
