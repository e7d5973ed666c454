"""`s4m stores`: what the shared root holds, who uses it, whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import StoreError
from pipeline.presentation import words
from pipeline.workflow.result_store import StoredResult, StoreRoot, default_root
from pipeline.workflow.workspace import register_references, work_root
from stages.console import err, out

app = typer.Typer(help="List, prune and verify the results that experiments share.", invoke_without_command=True)

RootOption = Annotated[
    Path | None,
    typer.Option("--store", metavar="FOLDER", help="Root of the store. Default: S4M_STORE, else stores/."),
]


@app.callback()
def stores(context: typer.Context, store: RootOption = None) -> None:
    """List all results: what made them, their size, which experiments point at them."""
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
) -> None:
    """Remove the results that no experiment points at, and what interrupted runs left of them."""
    root = _root(store)
    unused = [result for result in root.results() if not result.references and not root.in_use(result)]
    if not unused:
        out.print(f"nothing to remove in {root.root}: every result is in use")
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
def verify(store: RootOption = None) -> None:
    """Read every sealed result again, files and columns, and compare them with their digests."""
    from pipeline.workflow.stored_tables import check_tables

    root = _root(store)
    problems: list[str] = []
    checked = 0
    for result in root.results():
        if result.seal is not None or result.problem:
            tables = check_tables(result.path)
            found = [*root.verify(result.stage, result.id), *tables.problems]
            err.print("\n".join([f"{result.path}: {'damaged' if found else 'whole'}", *tables.unread]))
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
    """Remove a result, unless somebody has taken it into use while the question was asked."""
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
    holder = root.holder(result.stage, result.id)
    return f"being made by {holder}" if holder else "unfinished"


def _lines(root: StoreRoot, result: StoredResult) -> list[str]:
    users = ", ".join(sorted(set(result.references))) or "nobody"
    settings = result.seal.fingerprint.get("settings", {}) if result.seal else {}
    return [
        f"{result.path}  {words.size(result.size_bytes)}  {_made(root, result)}; used by {users}",
        *(f"    {key}: {value}" for key, value in settings.items()),
    ]
