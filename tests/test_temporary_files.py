"""Tests leave nothing in the temporary folder: what killed processes leave is removed, anything else fails the run."""

from __future__ import annotations

from tests.processes import swept


def test_what_killed_processes_leave_is_removed_and_all_else_is_named(tmp_path):
    for name in ("pymp-abc", "dask-scratch-space", "torchelastic_x1", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in ("pytorch-errorfile-1", "tmpabc"):
        (tmp_path / name).touch()
    assert swept(tmp_path) == ["own", "tmpabc", "torchelastic_x1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "tmpabc", "torchelastic_x1"]
