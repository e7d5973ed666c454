"""Names of the files that stages write into their results, where no other package writes the file itself."""

from __future__ import annotations

from typing import Final

LABELS: Final = "labels.zarr"
"""The label store in the results of `predict`, `refine` and `augment`."""

TARGETS: Final = "structure.zarr"
"""The store of structural targets in the result of `distill`."""

PREDICTIONS: Final = "predictions"
"""The folder of the models' label stores on the validation images, by node, in the result of `evaluate`."""

REPORT: Final = "report.html"
"""The page in the result of `report`."""
