"""Fixtures that several tests use."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from stages.cli import main


@dataclass(frozen=True)
class Told:
    status: int
    out: str
    err: str


@pytest.fixture
def s4m(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder of its own."""
    monkeypatch.setenv("S4M_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("S4M_STORE", str(tmp_path / "stores"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Told:
        monkeypatch.setattr(sys, "argv", ["s4m", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return Told(ended.value.code or 0, told.out, told.err)

    return run
