"""Site against the live cluster: every difference with what was found, and the line of YAML that mends it."""

import difflib
import getpass
import math
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING

from instar import plugins
from instar.clusters import _call
from instar.clusters._limits import Limits, Partition, megabytes
from instar.job import Finding
from instar.spans import Span

if TYPE_CHECKING:
    from instar.site import Site

_SECONDS = 10.0  # a login node that takes longer for a question is not going to answer


def check(site: "Site", *, seconds: float = _SECONDS) -> list[Finding]:
    """What is right and what is wrong with a site, as its own commands tell it here and now.

    seconds   how long each command may take; they are asked at once
    """
    cluster = plugins.load("clusters", site.scheduler)
    missing = [name for name in cluster.NEEDS if not shutil.which(name)]
    found = [
        Finding("error", name, "is not on the PATH", "Is this a login node of that site? Or load what brings it")
        for name in missing
    ]
    if not missing:
        found.append(Finding("ok", "commands", ", ".join(cluster.NEEDS)))
    answers, silent = _asked(cluster, seconds)
    limits = cluster.limits(answers)
    return [*found, *silent, *compared(site, limits)]


def _asked(cluster: ModuleType, seconds: float) -> tuple[dict[str, str], list[Finding]]:
    """What the cluster's commands say, by the name of the question; and which gave no answer."""
    questions: Mapping[str, list[str]] = cluster.questions(getpass.getuser())
    with ThreadPoolExecutor(len(questions)) as pool:
        given = dict(
            zip(
                questions,
                pool.map(lambda words: _call.call(words, seconds=seconds, tries=1), questions.values()),
                strict=True,
            )
        )
    silent = [
        Finding("warning", name, f"could not be asked: {_why(answer)}")
        for name, answer in given.items()
        if answer.code != 0 and name not in cluster.MAY_BE_SILENT
        # That a command is missing has been said.
        if not (answer.code == 127 and questions[name][0] in cluster.NEEDS)
    ]
    return {name: answer.out for name, answer in given.items() if answer.code == 0}, silent


def _why(answer: _call.Answer) -> str:
    return (answer.text.splitlines() or [f"exit code {answer.code}"])[0]


def compared(site: "Site", limits: Limits) -> list[Finding]:
    """The site, and its ways for parts of nodes and for jobs without GPUs, against what a cluster allows."""
    found = list(_of_jobs(site, limits, ""))
    if site.shared and site.gpus.per_node > 1:
        found += _of_jobs(site.suited(1), limits, "shared.")
    if site.cpu and site.gpus.per_node:
        found += _of_jobs(site.suited(0), limits, "cpu.")
    found += _array(site, limits)
    # What a part has in common with the whole is said once.
    return list(dict.fromkeys(found))


def _of_jobs(site: "Site", limits: Limits, prefix: str) -> Iterator[Finding]:
    """One kind of job; `prefix` is where its settings stand in the site."""
    partition = None
    if limits.partitions is not None:
        names = limits.partitions
        partition = names.get(site.partition or limits.default or "")
        near = difflib.get_close_matches(site.partition or "", names, n=1, cutoff=0.7)
        yield _partition(site, limits, partition, near, prefix)
        partition = partition or (names[near[0]] if near else None)  # what was meant may have more to say
    if partition:
        yield from _time(site, partition, prefix)
        yield from _nodes(site, partition, prefix)
        yield from _cores(site, partition, prefix)
        yield from _memory(site, partition, prefix)
        if prefix != "cpu.":
            yield from _gpus(site, partition)
    yield from _account(site, limits, partition, prefix)
    yield from _qos(site, limits, partition, prefix)


def _partition(site: "Site", limits: Limits, partition: Partition | None, near: list[str], prefix: str) -> Finding:
    assert limits.partitions is not None
    what, names = f"{prefix}partition", sorted(limits.partitions)
    if partition is None and site.partition is None:
        return Finding(
            "error", what, "null, and the cluster has no default", f"Write {what}: one of {', '.join(names)}"
        )
    if partition is None:
        do = f"Write {what}: {near[0]}" if near else f"Write {what}: one of {', '.join(names)}"
        return Finding("error", what, f"there is no {site.partition!r} here", do)
    if partition.up is False:
        return Finding("warning", what, f"{partition.name} takes no jobs now", "Wait, or choose another one")
    return Finding("ok", what, partition.name)


def _time(site: "Site", partition: Partition, prefix: str) -> Iterator[Finding]:
    what, asked = f"{prefix}longest", site.longest.seconds
    if partition.seconds is None:
        return
    if asked > partition.seconds:
        yield Finding(
            "error",
            what,
            f"is {site.longest}, but {partition.name} allows {_span(partition.seconds)}",
            f"Write {what}: {_span(partition.seconds)}",
        )
    else:
        limit = "no limit" if math.isinf(partition.seconds) else _span(partition.seconds)
        yield Finding("ok", what, f"{site.longest} of {limit} in {partition.name}")


def _nodes(site: "Site", partition: Partition, prefix: str) -> Iterator[Finding]:
    if partition.nodes is None or site.nodes is None:
        return
    if site.nodes > partition.nodes:
        yield Finding(
            "error",
            f"{prefix}nodes",
            f"is {site.nodes}, but {partition.name} allows {partition.nodes:.0f}",
            f"Write {prefix}nodes: {partition.nodes:.0f}",
        )
    else:
        yield Finding("ok", f"{prefix}nodes", f"{site.nodes} in {partition.name}")


def _cores(site: "Site", partition: Partition, prefix: str) -> Iterator[Finding]:
    what, there = f"{prefix}cores", partition.cores
    if there is None or (site.cores is None and site.launcher == "none"):  # one process that takes what there is
        return
    if site.cores is None:
        yield Finding(
            "warning", what, f"null, so every process gets one core of {there}", f"Write {what}: {there}, or less"
        )
    elif site.cores > there:
        yield Finding(
            "error", what, f"is {site.cores}, but a node of {partition.name} has {there}", f"Write {what}: {there}"
        )
    else:
        yield Finding("ok", what, f"{site.cores} of {there} in {partition.name}")


def _memory(site: "Site", partition: Partition, prefix: str) -> Iterator[Finding]:
    gpus = 0 if prefix else site.gpus.per_node
    what, text, times = "memory", site.memory, 1
    if text is None and gpus:
        what, text, times = "memory_per_gpu", site.memory_per_gpu, gpus
    asked = megabytes(text) if text else None
    if asked is None or partition.megabytes is None:
        return
    if asked * times > partition.megabytes:
        most = f"{partition.megabytes // 1024 // times}G"
        of_each = f" for each of {times} GPUs" if what == "memory_per_gpu" else ""
        there = f"a node of {partition.name} has {partition.megabytes // 1024}G"
        yield Finding("error", f"{prefix}{what}", f"is {text}{of_each}, but {there}", f"Write {prefix}{what}: {most}")
    else:
        yield Finding("ok", f"{prefix}{what}", f"{text} in {partition.name}")


def _gpus(site: "Site", partition: Partition) -> Iterator[Finding]:
    """How many GPUs a node has, and what they are called."""
    if partition.gpus is None:
        return
    there, wanted = partition.gpus, site.gpus
    shown = ", ".join(f"{number} {kind or 'GPUs'}" for kind, number in there.items()) or "none"
    most = max(there.values(), default=0)
    if not wanted.per_node:
        if most:
            yield Finding("warning", "gpus", f"0, but nodes have {shown}", f"Write gpus: {{per_node: {most}}}")
        return
    if wanted.type and wanted.type not in there and any(there):
        near = difflib.get_close_matches(wanted.type, there, n=1)
        best = near[0] if near else max(there, key=lambda kind: there[kind])
        yield Finding(
            "error",
            "gpus.type",
            f"there is no {wanted.type!r} in {partition.name}, but {shown}",
            f"Write gpus: {{per_node: {there[best]}, type: {best}}}",
        )
        return
    most = there.get(wanted.type, most) if wanted.type else most
    if wanted.per_node > most:
        do = f"Write gpus: {{per_node: {most}}}, or choose another partition"
        yield Finding("error", "gpus.per_node", f"is {wanted.per_node}, but {partition.name} has {shown} a node", do)
    elif wanted.per_node < most:
        do = f"Write gpus: {{per_node: {most}}} to use them all"
        yield Finding("warning", "gpus.per_node", f"is {wanted.per_node} of {shown} a node", do)
    else:
        yield Finding("ok", "gpus", f"{shown} a node in {partition.name}")


def _account(site: "Site", limits: Limits, partition: Partition | None, prefix: str) -> Iterator[Finding]:
    what, yours = f"{prefix}account", limits.accounts
    allowed = partition.accounts if partition else None
    if yours is not None and allowed is not None:
        yours = yours & allowed or yours
    if yours is None:
        return
    listed = ", ".join(sorted(yours)) or "none"
    if site.account is None:
        if len(yours) > 1:
            yield Finding(
                "warning", what, f"null, and you have {listed}", f"Write {what}: {min(yours)}, or another of them"
            )
        elif not yours:
            yield Finding("error", what, "you have none here", "Ask your centre")
    elif site.account not in yours:
        near = difflib.get_close_matches(site.account, sorted(yours), n=1)
        do = f"Write {what}: {near[0] if near else f'one of {listed}'}"
        yield Finding("error", what, f"{site.account!r} is not one of yours: {listed}", do)
    elif allowed is not None and partition and site.account not in allowed:
        yield Finding(
            "error", what, f"{site.account!r} may not use {partition.name}", f"Write {what}: {min(allowed, default='')}"
        )
    else:
        yield Finding("ok", what, site.account)


def _qos(site: "Site", limits: Limits, partition: Partition | None, prefix: str) -> Iterator[Finding]:
    if site.qos is None:
        return
    what = f"{prefix}qos"
    for names, whose in (
        (partition.qos if partition else None, f"allowed in {partition.name if partition else ''}"),
        (limits.qos, "one of yours"),
    ):
        if names is not None and site.qos not in names:
            listed = ", ".join(sorted(names)) or "none"
            near = difflib.get_close_matches(site.qos, sorted(names), n=1)
            do = f"Write {what}: {near[0] if near else f'one of {listed}, or null'}"
            yield Finding("error", what, f"{site.qos!r} is not {whose}: {listed}", do)
            return
    if limits.qos is not None or (partition and partition.qos is not None):
        yield Finding("ok", what, site.qos)


def _array(site: "Site", limits: Limits) -> Iterator[Finding]:
    if limits.array is not None and site.array > limits.array:
        yield Finding("warning", "array", f"is {site.array}, but here {limits.array}", f"Write array: {limits.array}")


def _span(seconds: float) -> str:
    """A length of time as one writes it in a site: the largest unit that it is a whole number of, days from two on."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds % length == 0 and (unit != "d" or seconds >= 2 * length):
            return str(Span(seconds / length, unit))
    return str(Span(seconds, "s"))
