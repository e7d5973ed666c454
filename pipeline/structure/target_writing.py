"""Writing structural targets: shard by shard, then sealed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.structure.target_columns import TARGET_FORMAT, ImageTargets, TargetAttributes, columns_from_targets
from pipeline.tables.sealing import seal
from pipeline.tables.shard_files import ShardPlan, write_shard


def write_target_shard(folder: Path, index: int, rows: Sequence[ImageTargets]) -> Path:
    """Write the targets of one image or more as a shard, atomically. StageError where the disk is full."""
    return write_shard(TARGET_FORMAT, folder, index, columns_from_targets(rows))


def seal_targets(
    shards_folder: Path, plan: ShardPlan, store_path: Path, provenance: Mapping[str, Any]
) -> TargetAttributes:
    """Make the store of all shards of a plan, see `pipeline.tables.sealing.seal`."""
    return seal(TARGET_FORMAT, shards_folder, plan, store_path, {}, provenance)
