"""`mpisqueeze info`: what is here, and every name that the options accept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Group
from rich.text import Text

from mpisqueeze.algorithms.base import FAILING
from mpisqueeze.comm.cuda_aware import collectives_take_device_memory, cuda_awareness
from mpisqueeze.comm.library import launched_apart, other_libraries
from mpisqueeze.comm.world import World
from mpisqueeze.data import DATASETS
from mpisqueeze.data.partition import PARTITIONS
from mpisqueeze.devices.device import gpu_count
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels import kernels_for
from mpisqueeze.language import Parameter
from mpisqueeze.launch import find_launcher
from mpisqueeze.mpi import ADVICE, missing
from mpisqueeze.parts import registry
from mpisqueeze.quantities import counted, size
from mpisqueeze.record.environment import collect_environment, cores_of, local_environment
from mpisqueeze.report.tables import make_list, make_table
from mpisqueeze.runs.schedule import SCHEDULES


def collect_info(world: World | None) -> dict[str, Any]:
    """Everything `info` shows, on rank 0; collective. Without a world, what there is without MPI."""
    environment = collect_environment(world.comm) if world else local_environment()
    count, why = gpu_count()
    names = _gpu_names(count) if count else []
    gpus = world.comm.gather(names) if world else [names]
    if world and not world.is_root:
        return {}
    path = environment["mpi_library_path"]
    aware, reason = cuda_awareness()
    collectives, why_not = collectives_take_device_memory()
    listed = {
        f"{parts.kind}s": [
            {
                "name": name,
                "summary": getattr(parts.builtins().get(name), "summary", "entry point"),
                "parameters": [
                    {"name": p.name, "accepts": p.kind.accepts, "default": _default(p)} for p in parts.parameters(name)
                ],
                **_failing(parts.builtins().get(name)),
            }
            for name in parts.names()
        ]
        for parts in (registry.algorithms, registry.compressors, registry.problems, registry.optimizers)
    }
    return {
        "environment": environment,
        "mpi_other_libraries": other_libraries(path) if path else [],
        **_launcher(),
        "no_mpi_reason": missing(),
        "mismatch": launched_apart(world.size, os.environ) if world else None,
        "cuda_aware": aware,
        "cuda_aware_reason": reason,
        "cuda_aware_collectives": collectives,
        "cuda_aware_collectives_reason": why_not,
        "gpus": gpus,
        "no_gpu_reason": None if count else why,
        "cpu_kernels": kernels_for(np, np.float32).name,
        **listed,
        "data": [{"name": source.name, "summary": source.summary} for source in DATASETS.values()],
        "partitions": [{"name": name, "summary": summary} for name, summary in PARTITIONS.items()],
        "schedules": [{"name": name, "summary": summary} for name, summary in SCHEDULES.items()],
    }


def _failing(part: Any) -> dict[str, Any]:
    """The compressors with which an algorithm is shown to fail; nothing for other parts."""
    return {"fails_with": FAILING.get(part.fails_with)} if hasattr(part, "fails_with") else {}


def _default(parameter: Parameter) -> str | None:
    """A parameter's default as it would be typed; None where there is none, or one that depends on the rest."""
    value = parameter.default
    if value is None:
        return None
    return (
        str(value).lower()
        if isinstance(value, bool)
        else "x".join(map(str, value if isinstance(value, tuple) else (value,)))
    )


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
    parts: list[Any] = [make_list(_machine(facts))]
    for kind in ("algorithms", "compressors", "problems", "data", "partitions", "optimizers", "schedules"):
        table = make_table()
        table.add_column(kind, style="bold", no_wrap=True)
        table.add_column("")
        for item in facts[kind]:
            parameters = "".join(
                f"\n  {p['name']}: {p['accepts']}" + ("" if p["default"] is None else f"; default {p['default']}")
                for p in item.get("parameters", ())
            )
            fails = f"\n  shown to fail with {item['fails_with']}" if item.get("fails_with") else ""
            table.add_row(item["name"], Text.assemble(item["summary"], (fails, "yellow"), (parameters, "dim")))
        parts.append(table)
    return Group(*parts)


def _machine(facts: dict[str, Any]) -> Iterator[tuple[str, str | Text]]:
    environment, launcher = facts["environment"], facts["launcher"]
    if facts["no_mpi_reason"]:
        yield "MPI", Text(f"none: {facts['no_mpi_reason']}; {ADVICE}", style="bold yellow")
    else:
        library = (environment["mpi_library"] or "unknown").partition(",")[0]
        yield "MPI", f"{library} (MPI {environment['mpi_standard']})"
        abi = f"mpi4py's module for {environment['mpi_abi']}" if environment["mpi_abi"] else "mpi4py was built for it"
        yield "library", f"{environment['mpi_library_path'] or 'path unknown'}; {abi}"
    if facts["mpi_other_libraries"]:
        others = ", ".join(facts["mpi_other_libraries"])
        yield "", f"not used, although here: {others}; MPI4PY_LIBMPI names the library to load"
    if launcher is None:
        yield "launcher", f"none: {facts['no_launcher_reason']}"
    else:
        yield "launcher", f"{launcher['path']}; {launcher['flavour']} {launcher['version'] or ''}".rstrip()
    if facts["mismatch"]:
        yield "", Text(f"warning: {facts['mismatch']}: they do not match", style="bold yellow")
    yield "ranks", f"{environment['ranks']} on {counted(len(environment['hosts']), 'host')}"
    for host in environment["hosts"]:
        memory = size(host["memory_bytes"]) if host.get("memory_bytes") else "memory unknown"
        cpu = host.get("cpu_model") or "CPU unknown"
        yield "host", f"{host.get('hostname')}: {cpu}, {cores_of(host)}, {memory}, {host.get('system')}"
    how = "goes straight to MPI" if facts["cuda_aware"] else "is staged through the host"
    aware = "yes" if facts["cuda_aware"] else "no"
    yield "CUDA-aware", f"{aware}: {facts['cuda_aware_reason']}; device memory {how}"
    if not facts["cuda_aware_collectives"]:
        yield "", f"MPI_Allreduce is staged with --buffers device, too: {facts['cuda_aware_collectives_reason']}"
    names = sorted({name for rank in facts["gpus"] for name in rank})
    yield "GPUs", ", ".join(names) or f"none: {facts['no_gpu_reason']}"
    yield "CPU kernels", facts["cpu_kernels"]
    yield "versions", "  ".join(f"{key} {value}" for key, value in environment["versions"].items() if value)
