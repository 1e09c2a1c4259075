"""How is what Slurm's commands print read? Pure."""

from __future__ import annotations

import grp
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .cluster import Job, Task
from .sbatch import parse_time

#: No name, reason or path holds it, so that job names cannot break a row as they do in FirecREST.
SEPARATOR = "\x1f"
SACCT = [
    "JobID", "JobName", "User", "Group", "Account", "Partition", "State", "Reason", "ExitCode",
    "Start", "End", "ElapsedRaw", "TimelimitRaw", "NodeList", "AllocNodes", "WorkDir", "Priority",
    "Suspended",
]  # fmt: skip
SQUEUE = {
    # Of a waiting array FirecREST's squeue prints the plain number, not "40_[0-3]".
    "JobID": "%A", "JobName": "%j", "User": "%u", "Group": "%g", "Account": "%a",
    "Partition": "%P", "State": "%T", "Reason": "%r", "Start": "%S", "End": "%e",
    "Elapsed": "%M", "Timelimit": "%l", "NodeList": "%N", "AllocNodes": "%D", "WorkDir": "%Z",
    "Priority": "%Q",
}  # fmt: skip

Row = dict[str, str]


@dataclass(frozen=True)
class _Common:
    """What sacct and squeue agree on."""

    start: int | None
    end: int | None
    nodes: int


def table(text: str, names: Sequence[str]) -> list[Row]:
    """Lines split at SEPARATOR; lines with another number of columns are left out."""
    rows = (line.split(SEPARATOR) for line in text.splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def fields(line: str) -> dict[str, str]:
    """``Key=value`` pairs of scontrol's one-line output; values may hold blanks."""
    found = re.findall(r"(?:^|\s)([A-Za-z][\w:/]*)=(.*?)(?=\s+[A-Za-z][\w:/]*=|\s*$)", line)
    return dict(found)


def known(value: str | None) -> str | None:
    """None for each of Slurm's words for nothing."""
    return None if value in (None, "", "(null)", "None", "N/A", "Unknown", "NONE") else value


def number(value: str | None) -> int | None:
    """A number without a sign; None for anything else."""
    return int(value) if value is not None and value.isdigit() else None


def _seconds(value: str) -> int | None:
    return parse_time(value if ":" in value else f"{value}:0") if value[:1].isdigit() else None


def _exit(value: str) -> tuple[int | None, int | None]:
    code, _, signal = value.partition(":")
    return number(code), number(signal)


def _common(row: Row) -> _Common:
    return _Common(number(row["Start"]), number(row["End"]), number(row["AllocNodes"]) or 0)


def queue_job(row: Row) -> Job:
    """A row of squeue."""
    common = _common(row)
    return Job(
        id=row["JobID"],
        name=row["JobName"],
        user=row["User"],
        group=row["Group"],
        account=row["Account"],
        partition=row["Partition"],
        state=row["State"],
        reason=row["Reason"],
        exit_code=None,
        signal=None,
        start=common.start,
        end=common.end,
        elapsed=_seconds(row["Elapsed"]) or 0,
        limit=_seconds(row["Timelimit"]),
        nodes=row["NodeList"],
        node_count=common.nodes,
        working_directory=row["WorkDir"],
        priority=number(row["Priority"]) or 0,
        suspended=None,
    )


def accounted(rows: list[Row]) -> list[Job]:
    """sacct's rows, steps put into their jobs."""
    jobs: dict[str, Job] = {}
    for row in rows:
        job_id, _, step = row["JobID"].partition(".")
        if not step:
            jobs[job_id] = _sacct_job(row)
        elif job_id in jobs:
            jobs[job_id] = replace(jobs[job_id], tasks=(*jobs[job_id].tasks, _task(row)))
    return list(jobs.values())


def _sacct_job(row: Row) -> Job:
    common = _common(row)
    exit_code, signal = _exit(row["ExitCode"])
    minutes = number(row["TimelimitRaw"])
    return Job(
        id=row["JobID"],
        name=row["JobName"],
        user=row["User"],
        group=row["Group"],
        account=row["Account"],
        partition=row["Partition"],
        state=row["State"],
        reason=row["Reason"] or "None",
        exit_code=exit_code,
        signal=signal,
        start=common.start,
        end=common.end,
        elapsed=number(row["ElapsedRaw"]) or 0,
        limit=None if minutes is None else minutes * 60,
        nodes=row["NodeList"],
        node_count=common.nodes,
        working_directory=row["WorkDir"],
        priority=number(row["Priority"]) or 0,
        suspended=_seconds(row["Suspended"]) or 0,
    )


def _task(row: Row) -> Task:
    common = _common(row)
    exit_code, signal = _exit(row["ExitCode"])
    elapsed = number(row["ElapsedRaw"]) or 0
    return Task(
        id=row["JobID"],
        name=row["JobName"],
        state=row["State"],
        exit_code=exit_code,
        signal=signal,
        start=common.start,
        end=common.end,
        elapsed=elapsed,
    )


def node_row(row: Row) -> dict[str, Any]:
    """scontrol's node as a row of ``/status/{system}/nodes``."""
    total, used = number(row.get("CPUTot")) or 0, number(row.get("CPUAlloc")) or 0
    load = row.get("CPULoad", "")
    sockets = number(row.get("Sockets")) or 0
    return {
        # FirecREST says the sockets in all three, and all memory is "allocated".
        "sockets": sockets,
        "cores": sockets,
        "threads": sockets,
        "cpus": total,
        "cpuLoad": float(load) if re.fullmatch(r"[\d.]+", load) else None,
        "freeMemory": number(row.get("FreeMem")),
        "features": known(row.get("ActiveFeatures")) or "(null)",
        "name": row["NodeName"],
        "address": row.get("NodeAddr", row["NodeName"]),
        "hostname": row.get("NodeHostName", row["NodeName"]),
        "state": [_node_state(row.get("State", ""))],
        "partitions": row.get("Partitions", "").split(","),
        "weight": number(row.get("Weight")) or 0,
        "allocMemory": number(row.get("RealMemory")) or 0,
        "allocCpus": used,
        "idleCpus": total - used,
    }


def _node_state(text: str) -> str:
    """sinfo's one word for scontrol's several, e.g. DRAIN for ``IDLE+DRAIN``."""
    words = re.sub(r"[*~#!%$@^-]", "", text).split("+")
    return next((word for word in ("DRAIN", "COMPLETING") if word in words), words[0])


def group_row(gid: int) -> dict[str, str]:
    """A Unix group as FirecREST names it."""
    try:
        name = grp.getgrgid(gid).gr_name
    except KeyError:
        name = str(gid)
    return {"id": str(gid), "name": name}
