"""Find what is broken, copied, alike or leaking among images, before anything learns from them

    instar check FOLDER                        one folder a class
    instar check RECIPE.yaml                   the data of a recipe, divided as it says
    instar check PACKED                        packed data: every row, against the checksums of its index too

    page=FILE          the data page, instead of NAME-data.html here
    quarantine=FILE    write a list of what to leave out, with reasons, for data.exclude=FILE
    workers=4          processes that look
    timeout="60 s"     how long one file may take before it is named and left
    key=value          any setting of the recipe, such as data.table=labels.csv

    --strict           leave with 65 where anything was found
    --quiet            only what needs attention
    --json             everything that was found, as one JSON object

No file is moved or changed. The same command again opens only files that are new or changed; killed, it carries on.
"""

import json
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instar import plugins, terminal
from instar.cli import kinds
from instar.cli.prepare import taken
from instar.cli.words import Words
from instar.errors import DONE, USER_ERROR, ConfigError
from instar.formats import count, one_line

if TYPE_CHECKING:
    from instar.check import Findings
    from instar.experiment import Data
    from instar.machine import Machine

FLAGS = ("strict",)
THINGS = (0, 1)
_MACHINE = ("workers", "timeout")
_NAMED = 5
_EACH, _PICTURES = 16, 600  # pictures of a class on the page, and of all of them, at most
_OURS = b'<meta name="generator" content="Instar">'


def run(words: Words) -> int:
    from instar import experiment as experiments
    from instar.machine import Machine
    from instar.validation import validate

    given, changes = taken(words, ("page", "quarantine", *_MACHINE))
    if not words.things and not any(change.startswith("data.root=") for change in changes):
        raise ConfigError("there is nothing to check: name a folder of images or a recipe. See: instar check --help")
    source: Any = words.things[0] if words.things else {}
    experiment = experiments.load(source, [*kinds.of_folder(source, changes), *changes])
    machine = validate(Machine, {}, [f"{name}={given[name]}" for name in _MACHINE if name in given])
    name = experiment.name or experiment.data.root.name or "data"
    page = _place_for(Path(given.get("page", f"{name}-data.html")))

    from instar import check

    hushed = bool({"json", "quiet"} & words.flags)
    watch = terminal.Terminal(metric="", level="silent" if hushed else "full")
    findings = _checked(experiment.data, experiment.seed, machine, watch)
    facts = check.facts(findings)
    _write_page(findings, facts, experiment.data, name, page)
    facts["page"] = str(page)
    facts["quarantined"] = len(listed := check.quarantine(findings))
    if "quarantine" in given:
        from instar.engine.scan import exclusion

        exclusion.write(Path(given["quarantine"]), listed)
        facts["quarantine"] = given["quarantine"]
    watch.clear()
    if "json" in words:
        terminal.say(json.dumps(facts))
    elif "quiet" not in words or facts["findings"]:
        terminal.say("\n".join(lines(facts, [*words.things, *changes])))
    return USER_ERROR if "strict" in words and facts["findings"] else DONE


def _checked(data: "Data", seed: int, machine: "Machine", watch: terminal.Terminal) -> "Findings":
    """What is wrong with the rows a training would have, whatever share of them is bad."""
    from instar import check, packed, prepare
    from instar.engine.scan import labelled, stored

    all_bad = data.model_copy(update={"max_bad": 1.0})
    workers = None if machine.workers == "auto" else int(machine.workers)
    patience = machine.timeout.seconds
    reader = plugins.load("readers", data.reader.kind)
    if packed.is_packed(data.root):
        found, rows, _ = prepare.packed_rows(data, reader)
        return check.check(
            found,
            lambda heads: prepare.of_packed(found, heads, all_bad, seed, reader),
            labelled=lambda told: stored.inspect(
                found, rows, data, reader, workers=workers, patience=patience, progress=told
            ),
            progress=watch.preparing,
        )
    if "mask" in reader.gives:
        found = prepare.masked_files(data, reader)
        return check.check(
            found,
            lambda heads: prepare.of_masks(found, heads, all_bad, seed, reader),
            labelled=lambda told: labelled.inspect(
                found, data, reader, workers=workers, patience=patience, progress=told
            ),
            progress=watch.preparing,
        )
    found, rare = prepare.listed(data, seed)
    divide = partial(prepare.of_listing, found, data=all_bad, seed=seed, rare=rare)
    return check.check(found, divide, workers=workers, patience=patience, progress=watch.preparing)


def _place_for(page: Path) -> Path:
    """The file the page goes into; raises ConfigError where something else stands there."""
    if page.exists():
        try:
            with open(page, "rb") as file:
                ours = _OURS in file.read(4096)
        except OSError as error:
            raise ConfigError(f"page={page} cannot be written ({error.strerror}). Name another file.") from error
        if not ours:
            raise ConfigError(f"page={page} is there and is no page of Instar. Name another file, or move it away.")
    elif not page.parent.is_dir():
        raise ConfigError(f"page={page}: there is no folder {page.parent}. Make it, or name another file.")
    return page


def _write_page(findings: "Findings", facts: dict[str, Any], data: "Data", name: str, page: Path) -> None:
    from instar import check
    from instar.engine.scan import shown
    from instar.report import datapage, html

    number = {findings.name(row): row for row in range(len(findings.found.files))}
    codes = findings.manifest.statistics.get("codes") if findings.manifest else None
    reader = plugins.load("readers", data.reader.kind)
    plain, masked = shown.pictures(findings.found, data, reader, codes)
    made = datapage.page(
        facts,
        name,
        picture_of=lambda one: plain(number[one]),
        masked_of=lambda one: masked(number[one]),
        mosaic=check.mosaic(findings, max(2, min(_EACH, _PICTURES // max(1, len(facts["classes"]))))),
    )
    html.write(made, page)


def lines(facts: dict[str, Any], data: Sequence[str]) -> list[str]:
    """What a person sees. data: how they named the data, which the next command names so too."""
    size = f", median {facts['width']['median']}x{facts['height']['median']}" if facts["width"] else ""
    kinds = ", ".join(f"{name} {count(number)}" for name, number in facts["modes"].items())
    splits = " + ".join(f"{count(number)} {name}" for name, number in facts["splits"].items())
    known = facts["files"] - facts["opened"]
    again = f"   {count(known)} known, {count(facts['opened'])} opened" if known else ""
    broken = [f"{one['file']}: {one['reason']}" for one in facts["broken"]]
    told = [
        f"data     {_what(facts, size)}{again}",
        f"pixels   {kinds}{_means(facts['channels'])}",
        *_of_masks(facts["masks"]),
        *([f"split    {splits}"] if splits else []),
        f"broken   {_counted(len(broken), 'file', broken)}",
        f"copies   {_leaking(facts['copies'], 'set', 'of identical files')}",
        f"alike    {_leaking(facts['alike'], 'pair', 'that look the same')}",
    ]
    if facts["groups_in_two_splits"]:
        torn = [f"{group} in {' and '.join(splits)}" for group, splits in facts["groups_in_two_splits"].items()]
        told.append(f"groups   {_counted(len(torn), 'group', torn)} in more than one split")
    if facts["refusal"]:
        told.append("refused  training would say: " + facts["refusal"].replace("\n", "\n         "))
    told += [f"note     {one_line(text)}" for text in facts["notes"]]
    if "quarantine" in facts:
        told.append(f"list     {count(facts['quarantined'])} lines in {one_line(facts['quarantine'])}")
    told.append(f"look     {one_line(facts['page'])}")
    thing = one_line(shlex.join(data))
    if "quarantine" in facts:
        exclude = one_line(shlex.quote(facts["quarantine"]))
        return [*told, f"next     instar prepare {thing} data.exclude={exclude}"]
    if facts["quarantined"]:
        return [*told, f"next     instar check {thing} quarantine=leave-out.csv"]
    return [*told, f"next     instar prepare {thing}   ·   instar train {thing}"]


def _what(facts: dict[str, Any], size: str) -> str:
    """What there is, and how even."""
    if facts["masks"]:
        return f"{count(facts['images'])} images with masks, {count(len(facts['masks']['classes']))} classes{size}"
    classes = f"{count(len(facts['classes']))} classes{size}"
    return f"{count(facts['images'])} images, {classes}, imbalance {facts['imbalance']:g}x"


def _of_masks(masks: dict[str, Any]) -> list[str]:
    """The share of all pixels that each class has, and in how many images it is."""
    if not masks:
        return []
    told = [
        f"{one_line(name)} {100 * one['share']:.3g} % in {count(one['images'])}"
        for name, one in masks["classes"].items()
    ]
    unknown = f", {count(masks['unknown'])} pixels of none that is known" if masks["unknown"] else ""
    return [f"masks    {', '.join(told)}{unknown}"]


def _means(channels: Sequence[dict[str, Any]]) -> str:
    """Mean and spread of the commonest kind of picture."""
    first = [one for one in channels if one["kind"] == channels[0]["kind"]]
    if not first:
        return ""
    means, spreads = (" ".join(f"{one[name]:.4g}" for one in first) for name in ("mean", "std"))
    none = [f"channel {one['channel']}: {_share(one)}" for one in channels if one["none"]]
    few = f" … {len(none) - _NAMED} more" if len(none) > _NAMED else ""
    return f"   mean {means}   std {spreads}" + (f"\nno number {', '.join(none[:_NAMED])}{few}" if none else "")


def _share(channel: dict[str, Any]) -> str:
    """How many values of a channel are no number, and which part of all."""
    return f"{count(channel['none'])} ({100 * channel['none'] / (channel['none'] + channel['values']):.2g} %)"


def _counted(number: int, what: str, named: Sequence[str]) -> str:
    if not number:
        return "none"
    return _with(f"{count(number)} {what}{'s' if number > 1 else ''}", named)


def _leaking(found: Sequence[dict[str, Any]], one: str, what: str) -> str:
    """How many there are, how many of them leak, and the first few."""
    if not found:
        return "none"
    labels = sum(len(same["labels"]) > 1 for same in found)
    splits = sum(len(same["splits"]) > 1 for same in found)
    leaks = [f"{count(labels)} under two labels"] * bool(labels) + [f"{count(splits)} across splits"] * bool(splits)
    turned = sum(same.get("turned", False) for same in found)
    leaks += [f"{count(turned)} mirrored or turned"] * bool(turned)
    named = [" = ".join(row["id"] for row in same["rows"][:3]) for same in found]
    head = ", ".join([f"{count(len(found))} {one}{'s' if len(found) > 1 else ''} {what}", *leaks])
    return _with(head, named)


def _with(head: str, named: Sequence[str]) -> str:
    shown = [f"\n         {one_line(text)}" for text in named[:_NAMED]]
    return "".join([head, *shown, "\n         …" if len(named) > _NAMED else ""])
