"""`mpisqueeze info`: what is here, and every name that the options accept."""

from __future__ import annotations

import os
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mpisqueeze.comm.cuda_aware import collectives_take_device_memory, cuda_awareness
from mpisqueeze.comm.library import launched_apart, other_libraries
from mpisqueeze.comm.world import World
from mpisqueeze.data import DATASETS
from mpisqueeze.data.partition import PARTITIONS
from mpisqueeze.devices.device import gpu_count
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import kernels_for
from mpisqueeze.launch import find_launcher
from mpisqueeze.parts import registry
from mpisqueeze.quantities import size
from mpisqueeze.record.environment import collect_environment
from mpisqueeze.runs.schedule import SCHEDULES


def collect_info(world: World) -> dict[str, Any]:
    """Everything `info` shows, on rank 0; collective."""
    environment = collect_environment(world.comm)
    count, why = gpu_count()
    gpus = world.comm.gather(_gpu_names(count) if count else [])
    if not world.is_root:
        return {}
    import numpy as np

    path = environment["mpi_library_path"]
    aware, reason = cuda_awareness()
    collectives, why_not = collectives_take_device_memory()
    listed = {
        f"{parts.kind}s": [
            {"name": name, "summary": getattr(parts.builtins().get(name), "summary", "entry point")}
            for name in parts.names()
        ]
        for parts in (registry.algorithms, registry.compressors, registry.problems)
    }
    return {
        "environment": environment,
        "mpi_other_libraries": other_libraries(path) if path else [],
        **_launcher(),
        "mismatch": launched_apart(world.size, os.environ),
        "cuda_aware": aware,
        "cuda_aware_reason": reason,
        "cuda_aware_collectives": collectives,
        "cuda_aware_collectives_reason": why_not,
        "gpus": gpus,
        "no_gpu_reason": None if count else why,
        "cpu_kernels": kernels_for(np, np.float32).name,
        **listed,
        "data": [{"name": source.name, "summary": source.summary} for source in DATASETS.values()],
        "partitions": [{"name": scheme.name, "summary": scheme.summary} for scheme in PARTITIONS.values()],
        "schedules": [{"name": name, "summary": summary} for name, summary in SCHEDULES.items()],
    }


def _launcher() -> dict[str, Any]:
    """The launcher that `mpisqueeze launch` would take."""
    try:
        launcher = find_launcher()
    except UsageError as error:
        return {"launcher": None, "no_launcher_reason": error.message}
    facts = {"path": launcher.path, "flavour": launcher.flavour.value, "version": launcher.version}
    return {"launcher": facts, "no_launcher_reason": None}


def _gpu_names(count: int) -> list[str]:
    import cupy

    return [cupy.cuda.runtime.getDeviceProperties(index)["name"].decode() for index in range(count)]


def info_report(facts: dict[str, Any]) -> Group:
    """The facts for a terminal."""
    environment = facts["environment"]
    machine = Table.grid(padding=(0, 2))
    machine.add_column(style="dim")
    machine.add_column()
    ranks = environment["ranks"]
    library = (environment["mpi_library"] or "unknown").partition(",")[0]
    machine.add_row("MPI", f"{library} (MPI {environment['mpi_standard']})")
    abi = f"mpi4py's module for {environment['mpi_abi']}" if environment["mpi_abi"] else "mpi4py was built for it"
    machine.add_row("library", Text(f"{environment['mpi_library_path'] or 'path unknown'}; {abi}"))
    if facts["mpi_other_libraries"]:
        others = ", ".join(facts["mpi_other_libraries"])
        machine.add_row("", Text(f"not used, although here: {others}; MPI4PY_LIBMPI names the library to load"))
    launcher = facts["launcher"]
    if launcher is None:
        machine.add_row("launcher", Text(f"none: {facts['no_launcher_reason']}"))
    else:
        known = f"{launcher['flavour']} {launcher['version'] or ''}".rstrip()
        machine.add_row("launcher", Text(f"{launcher['path']}; {known}"))
    if facts["mismatch"]:
        machine.add_row("", Text(f"warning: {facts['mismatch']}: they do not match", style="bold yellow"))
    machine.add_row("ranks", f"{ranks} on {len(environment['hosts'])} host(s)")
    for host in environment["hosts"]:
        memory = size(host["memory_bytes"]) if host.get("memory_bytes") else "memory unknown"
        cores, cpu = host.get("cores"), host.get("cpu_model") or "CPU unknown"
        machine.add_row("host", f"{host.get('hostname')}: {cpu}, {cores} cores, {memory}, {host.get('system')}")
    buffers = (
        "device memory goes straight to MPI" if facts["cuda_aware"] else "device memory is staged through the host"
    )
    machine.add_row("CUDA-aware", f"{'yes' if facts['cuda_aware'] else 'no'}: {facts['cuda_aware_reason']}; {buffers}")
    if not facts["cuda_aware_collectives"]:
        staged = f"MPI_Allreduce is staged with --buffers device, too: {facts['cuda_aware_collectives_reason']}"
        machine.add_row("", staged)
    names = sorted({name for rank in facts["gpus"] for name in rank})
    machine.add_row("GPUs", ", ".join(names) or f"none: {facts['no_gpu_reason']}")
    machine.add_row("CPU kernels", facts["cpu_kernels"])
    versions = environment["versions"]
    machine.add_row("versions", "  ".join(f"{key} {value}" for key, value in versions.items() if value))
    tables: list[Any] = [machine]
    for kind in ("algorithms", "compressors", "problems", "data", "partitions", "schedules"):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(kind, style="bold", no_wrap=True)
        table.add_column("")
        for item in facts[kind]:
            table.add_row(item["name"], item["summary"])
        tables.append(table)
    return Group(*tables)
