"""`s4m stores`: list, prune and verify the results in the shared store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.errors import StoreError
from pipeline.files.leftovers import remove_leftovers_of_ended
from pipeline.presentation import words
from pipeline.workflow.result_store import StoredResult, StoreRoot, default_root
from pipeline.workflow.workspace import register_references, work_root
from stages.console import err, out

app = typer.Typer(help="List, prune and verify the results that experiments share.", invoke_without_command=True)

YOUNG_HOURS: Final = 1.0
"""Age below which prune removes nothing: its maker may be about to use it."""

RootOption = Annotated[
    Path | None, typer.Option("--store", metavar="FOLDER", help="Root of the store. Default: S4M_STORE, else stores/.")
]


@app.callback()
def stores(context: typer.Context, store: RootOption = None) -> None:
    """List all results: what made them, their size, which experiments use them."""
    if context.invoked_subcommand is not None:
        return
    root = _root(store)
    results = list(root.results())
    for result in results:
        out.print("\n".join(_lines(root, result)))
    total = words.size(sum(result.size_bytes for result in results))
    out.print(f"{len(results)} results, {total} in {root.root}")


@app.command()
def prune(
    store: RootOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    older_than: Annotated[
        float, typer.Option(metavar="HOURS", min=0, help="Keep what changed in the last hours.")
    ] = YOUNG_HOURS,
    gone: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="A work folder that was deleted: its experiments use nothing. Repeatable."),
    ] = None,
) -> None:
    """Remove the results that no experiment uses, and what interrupted runs left.

    An experiment whose records cannot be read, as on a disk that is not mounted, counts as using its results.
    """
    root = _root(store)
    for folder in gone or ():
        if folder.exists():
            raise StoreError(f"--gone {folder}: this folder exists; remove the experiments in it that are not needed")
        root.references.forget(folder)
    unused = [result for result in root.results() if not result.references and not root.in_use(result)]
    young = [result for result in unused if time.time() - result.changed_at < older_than * 3600]
    unused = [result for result in unused if result not in young]
    if young:
        out.print(f"kept, as they changed in the last {older_than:g} h (--older-than 0 removes them): {len(young)}")
    if not unused:
        out.print(f"nothing to remove in {root.root}: every {'other ' if young else ''}result is in use")
        return
    for result in unused:
        out.print(f"{result.path}  {words.size(result.size_bytes)}  {_made(root, result)}")
    size = words.size(sum(result.size_bytes for result in unused))
    if not yes and not typer.confirm(f"Remove these {len(unused)} results ({size})?"):
        out.print("nothing was removed")
        return
    removed = [result for result in unused if _removed(root, result)]
    out.print(f"removed {len(removed)} results, {words.size(sum(result.size_bytes for result in removed))}")


@app.command()
def verify(
    store: RootOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="First remove temporary files that killed processes left.")
    ] = False,
) -> None:
    """Read every sealed result again, files and columns, and compare them with their digests."""
    from pipeline.workflow.stored_tables import check_tables

    root = _root(store)
    if repair:
        removed = [*remove_leftovers_of_ended(root.root, deep=True), *remove_leftovers_of_ended(work_root(), deep=True)]
        err.print("\n".join([*(f"{path}: removed" for path in removed), f"{len(removed)} temporary files removed"]))
    problems: list[str] = []
    checked = 0
    for result in root.results():
        if result.seal is not None or result.problem:
            damaged, unread = check_tables(result.path)
            found = [*root.verify(result.stage, result.id), *damaged]
            err.print("\n".join([f"{result.path}: {'damaged' if found else 'whole'}", *unread]))
            problems += found
            checked += 1
    if problems:
        raise StoreError("\n".join([*problems, "Remove the damaged folders; make then computes them again."]))
    out.print(f"{checked} results are whole")


def _root(store: Path | None) -> StoreRoot:
    root = StoreRoot(store or default_root())
    register_references(work_root(), root)
    return root


def _removed(root: StoreRoot, result: StoredResult) -> bool:
    """Remove a result, unless it came into use while the user was asked."""
    try:
        root.remove(result)
    except StoreError as error:
        err.print(str(error))
        return False
    return True


def _made(root: StoreRoot, result: StoredResult) -> str:
    if result.seal is not None:
        return f"made {result.seal.made_at} by {result.seal.made_by.get('experiment', '?')}"
    if result.problem:
        return "damaged: its completion record cannot be read"
    holder = root.locks.holder(result.stage, result.id)
    return f"being made by {holder}" if holder else "unfinished"


def _lines(root: StoreRoot, result: StoredResult) -> list[str]:
    users = ", ".join(sorted(set(result.references))) or "nobody"
    settings = result.seal.fingerprint.get("settings", {}) if result.seal else {}
    return [
        f"{result.path}  {words.size(result.size_bytes)}  {_made(root, result)}; used by {users}",
        *(f"    {key}: {value}" for key, value in settings.items()),
    ]
