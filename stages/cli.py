"""The `s4m` command. It imports nothing heavy: a stage imports what it needs when it runs."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
from typing import Annotated, Any, Final

import typer
from typer._click.exceptions import UsageError
from typer.core import TyperGroup

from pipeline.errors import S4MError
from pipeline.files.disk import is_full
from pipeline.workflow.graph import STAGES
from stages import (
    ablation_commands,
    annotate_commands,
    data_commands,
    experiment_commands,
    label_commands,
    sam_commands,
    store_commands,
)
from stages.console import err, out
from stages.options import ExperimentOption, RoundOption, SetOption, load
from stages.versions import library_versions


class _StagesFirst(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the stages in the order in which they run, then the other commands."""
        return [*STAGES, *(name for name in super().list_commands(ctx) if name not in STAGES)]


app = typer.Typer(cls=_StagesFirst, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

WRONG_PATH: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.EIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.ELOOP,
        errno.EILSEQ,
        errno.EINVAL,
    )
)
"""Errors of the system that mean that a path cannot be used as given, or that its disk is gone."""

OUTAGE: Final = frozenset(
    (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EFBIG, errno.EBUSY)
)
"""Errors of a disk, or of the network that it is reached by."""

NO_LOCKS: Final = frozenset((errno.ENOLCK, errno.EOPNOTSUPP))
"""Errors of a file system that was mounted without locks."""


def _print_versions(wanted: bool) -> None:
    if wanted:
        for name, version in library_versions().items():
            out.print(f"{name} {version}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version of s4m and of its libraries.", callback=_print_versions, is_eager=True
        ),
    ] = False,
) -> None:
    """Semi-supervised instance segmentation with SAM, stage by stage."""


def _add_stage(stage: str, purpose: str) -> None:
    def command(exp: ExperimentOption, overrides: SetOption = None, number: RoundOption = 1) -> None:
        from stages.runner import run_stage

        run_stage(load(exp, overrides), stage, number)

    app.command(stage, help=f"{purpose[0].upper()}{purpose[1:]}.")(command)


for _stage in STAGES.values():
    _add_stage(_stage.name, _stage.purpose)
experiment_commands.add_to(app)
app.add_typer(store_commands.app, name="stores")
app.add_typer(data_commands.app, name="data")
app.add_typer(label_commands.app, name="labels")
app.add_typer(sam_commands.weights_app, name="weights")
app.add_typer(sam_commands.sam_app, name="sam")
app.command("ablation")(ablation_commands.ablation)
app.command("annotate")(annotate_commands.annotate)
app.command("refine-coco")(sam_commands.refine_coco)


def main() -> None:
    """Run the command line. A user's mistake gives its message and exit status 1, never a traceback."""
    # NumPy's matrix products are small here: threads make them slower and round differently.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threading.excepthook = _thread_failed
    # Threads that wait for work would else spin: on a busy machine that makes a training step three times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # OpenMP reads it when torch is imported
    try:
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        told = io.StringIO()
        error.show(told)
        err.print(told.getvalue(), end="")
        sys.exit(error.exit_code)
    except S4MError as error:
        err.print(str(error))
        sys.exit(1)
    except OSError as error:
        message = _system_message(error)
        if message is None:
            raise
        err.print(message)
        sys.exit(1)


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Print in a line what the system says of a path to a thread, such as the one that writes TensorBoard's curves."""
    message = _system_message(failed.exc_value) if isinstance(failed.exc_value, OSError) else None
    if message is None:
        threading.__excepthook__(failed)
    else:
        err.print(message)


def _system_message(error: OSError) -> str | None:
    """Return what is wrong with a path, or that the disk is full; None for a defect of this program."""
    # A renaming has two names: the user knows the second, the final one.
    name = error.filename2 or error.filename
    where = "" if name is None else f"{os.fsdecode(name)}: "
    if is_full(error):
        return f"{where}the disk is full ({error.strerror})"
    if error.errno in OUTAGE:
        remedy = "the disk fails, or cannot be reached. Finished work is kept: give the same command again"
        return f"{where}{error.strerror}: {remedy}"
    if error.errno in NO_LOCKS:
        return f"{where}{error.strerror}: this file system has no locks between processes, see docs/scaling.md"
    if name is None or error.errno not in WRONG_PATH:
        return None
    is_file = error.errno == errno.EEXIST and error.filename2 is None
    return f"{where}{'is a file, but a folder is needed' if is_file else error.strerror}"
