"""`zopde doctor`: what this machine has, and what it lacks."""

from __future__ import annotations

import typer

from zopde.cli.console import say, say_json, table
from zopde.cli.options import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, threads and optional parts; exit code 1 if a needed one lacks."""
    from zopde.doctor import examine

    found = examine()
    machine = found.machine
    if as_json:
        say_json(found.as_dict())
        raise typer.Exit(0 if found.sound else 1)
    threads = ", ".join(f"{k}={v}" for k, v in machine.threads.items()) or "not set: all cores"
    memory = "unknown" if machine.memory_gib is None else f"{machine.memory_gib:g} GiB"
    say(f"zopde {machine.zopde} on Python {machine.python}")
    say(f"system: {machine.system}")
    say(f"cores: {machine.cores}; threads: {threads}; memory: {memory}")
    say(f"devices: {', '.join(machine.devices)}")
    say(f"temporary files: {machine.temporary[0]}, {machine.temporary[1]:g} GiB free")
    for needed, title in ((True, "needed"), (False, "optional")):
        parts = [part for part in found.parts if part.needed == needed]
        rows = [[p.name, p.found or "missing", p.gives, p.remedy] for p in parts]
        table(("part", "found", "asked for" if needed else "gives", "to get it"), rows, title)
    raise typer.Exit(0 if found.sound else 1)
