"""`s4m augment`: the stage, and `s4m augment preview`: composites to look at, before they are made by the thousand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from stages.console import out
from stages.options import ExperimentOption, RoundOption, SetOption, stage_commands

app = stage_commands("augment", "Paste refined instances into composites; `preview` draws some of them.")


@app.command()
def preview(
    exp: ExperimentOption,
    output: Annotated[Path, typer.Option(help="The picture to write (PNG).")],
    count: Annotated[int, typer.Option("--n", min=1, help="Composites to show.")] = 12,
    number: RoundOption = 1,
    overrides: SetOption = None,
) -> None:
    """Draw some composites: base, donor and result, with their labels. Needs the refined labels, no more."""
    from PIL import Image

    from pipeline.augment.sheet import draw_sheet
    from pipeline.datasets.split import LABELLED
    from pipeline.errors import StageError
    from pipeline.workflow.graph import node_key
    from stages.augment import composite_sources
    from stages.context import LABELS
    from stages.options import load, workspace

    experiment = load(exp, overrides)
    space = workspace(experiment, trust_images=True)
    refine = node_key("refine", number)
    for needed in ("split", refine):
        if needed not in space.fingerprints or not space.is_done(needed):
            raise StageError(f"the preview needs {needed} first: make {needed.partition('-')[0]} EXP={experiment.name}")
    with tempfile.TemporaryDirectory() as scratch:
        sources = composite_sources(
            experiment, space.result(refine) / LABELS, space.result("split") / LABELLED, Path(scratch)
        )
        names = {each.id: each.name for each in sources.refined_store.attributes.categories}
        sheet, shown = draw_sheet(sources, count, names)
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(output)
    out.print(f"{output}: {shown} of {len(sources.pairs):,} composites")
