"""Child processes end with their parent, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.files.locks import lives

FORKS = """
import os, signal, sys, time
from pathlib import Path
from pipeline.compute.children import end_with_parent
parent = os.getpid()
child = os.fork()
if child == 0:
    end_with_parent(int(sys.argv[1]), parent)
    signal.signal(signal.SIGTERM, lambda *_: (Path(sys.argv[2]).touch(), os._exit(0)))
    print(os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_when_its_parent_is_killed(tmp_path, number):
    told = tmp_path / "told"
    command = [sys.executable, "-c", FORKS, str(int(number)), str(told)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        assert lives(child)
        time.sleep(0.05)  # the handler
        process.kill()
    deadline = time.monotonic() + 10
    while lives(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not lives(child)
    assert told.exists() == (number == signal.SIGTERM)


LATE = """
import os, time
from pipeline.compute.children import end_with_parent
end_with_parent(parent=1 << 22)
print("still here", flush=True)
"""


def test_a_child_whose_parent_has_ended_before_ends_too():
    ended = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "")


def test_a_stage_of_an_ablation_stops_with_it():
    from stages import ablation_commands

    program = ablation_commands._PROGRAM.format(signal=int(signal.SIGTERM), parent=os.getpid())
    compile(program, "program", "exec")
    assert program.startswith("from pipeline.compute.children import end_with_parent; end_with_parent(15, ")
    assert Path(ablation_commands.__file__).read_text().count("_PROGRAM.format(") == 1
