"""The page of a data set, from the facts of `instar check` and the pictures behind them."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import instar
from instar.formats import count
from instar.report import thumbnails
from instar.report.blocks import (
    Bar,
    Bars,
    Facts,
    Headline,
    Histogram,
    Histograms,
    Note,
    Number,
    Page,
    Section,
    Sets,
    Table,
    Text,
    Tile,
    Together,
)
from instar.report.overlays import legend_of
from instar.report.thumbnails import Thumbnail

Document = Mapping[str, Any]

COPIES_LEAD = (
    "Files with the same bytes, whatever they are called. Those under two labels come first, then those in two splits: "
    "what is trained on there is scored too."
)
ALIKE_LEAD = (
    "Pictures that look alike though their files differ: saved again, scaled, mirrored, turned, or the next one of a "
    "burst. Judge by eye."
)

MOST_BYTES = 4 * 2**20  # of thumbnails in one page: opens at once, and goes through any mail
_MOST_SETS = 200  # copies, and pairs, that have pictures
_MOST_IN_A_SET = 12
_MOST_CLASSES = 200  # that have a row of pictures


def page(
    facts: Document,
    name: str,
    *,
    picture_of: Callable[[str], Thumbnail],
    masked_of: Callable[[str], Thumbnail],
    mosaic: Mapping[str, Sequence[str]],
) -> Page:
    """The page.

    picture_of   the picture of an id
    masked_of    the same with what its mask says, where pixels have labels
    mosaic       some ids of every class
    """
    copies, alike = facts["copies"][:_MOST_SETS], facts["alike"][:_MOST_SETS]
    shown = dict(list(mosaic.items())[:_MOST_CLASSES])
    # The leaks first: where there is no room for all, they are what must be seen.
    same = [(picture_of, row["id"]) for same in (*copies, *alike) for row in same["rows"][:_MOST_IN_A_SET]]
    spread = [
        (masked_of, one)
        for at in range(max(map(len, shown.values()), default=0))
        for ids in shown.values()
        for one in ids[at : at + 1]
    ]
    wanted = list(dict.fromkeys([*same, *spread]))
    pictures = thumbnails.within(wanted, most_bytes=MOST_BYTES, make=lambda one: one[0](one[1]))
    made_of = dict(zip(wanted, pictures, strict=False))
    made = {one: picture for (how, one), picture in made_of.items() if how is picture_of}
    masked = {one: picture for (how, one), picture in made_of.items() if how is masked_of}
    sections = [
        Section("", _opening(facts)),
        _same(
            "Copies",
            copies,
            facts["copies"],
            made,
            COPIES_LEAD,
            labels=not facts["masks"],
        ),
        _same(
            "Look-alikes",
            alike,
            facts["alike"],
            made,
            ALIKE_LEAD,
            labels=not facts["masks"],
        ),
        _torn(facts),
        _broken(facts),
        _classes(facts),
        _mosaic(shown, facts, masked),
        _sizes(facts),
        _pixels(facts),
        Section("Where", (_where(facts),), "What was looked at."),
    ]
    return Page(
        title=name,
        lead=_lead(facts),
        sections=tuple(section for section in sections if section is not None and section.blocks),
        kicker=f"Instar data · {time.strftime('%Y-%m-%d %H:%M')}",
        foot=f"Made by Instar {instar.__version__}, {time.strftime('%Y-%m-%d %H:%M %Z')}. This file is complete in "
        f"itself; nothing of the data was changed.",
    )


def _lead(facts: Document) -> str:
    found = facts["findings"]
    looked = f"{count(facts['images'])} images of {count(_num_classes(facts))} classes"
    if not found:
        return f"{looked}. Nothing is wrong with them that this can see."
    return f"{looked}, and {count(found)} thing{'s' if found > 1 else ''} to look at."


def _opening(facts: Document) -> tuple[Any, ...]:
    leaks = sum(len(same["labels"]) > 1 or len(same["splits"]) > 1 for same in (*facts["copies"], *facts["alike"]))
    sides = f"{facts['width']['median']} x {facts['height']['median']} in the middle" if facts["width"] else "none"
    numbers = (
        Number("images", count(facts["images"]), f"in {count(_num_classes(facts))} classes; {sides}"),
        Number("broken", count(len(facts["broken"])), "files that cannot be used"),
        Number(
            "same picture",
            count(len(facts["copies"]) + len(facts["alike"])),
            f"{count(leaks)} of them across labels or splits",
        ),
        _evenness(facts),
    )
    refusal = (Note(f"Training would refuse these data: {facts['refusal']}"),) if facts["refusal"] else ()
    return (Headline(numbers), *refusal, *(Note(text) for text in facts["notes"]))


def _num_classes(facts: Document) -> int:
    return len(facts["masks"]["classes"] if facts["masks"] else facts["classes"])


def _evenness(facts: Document) -> Number:
    if not facts["masks"]:
        return Number("imbalance", f"{facts['imbalance']:g}x", "largest class beside the smallest")
    name, one = min(facts["masks"]["classes"].items(), key=lambda pair: pair[1]["share"])
    return Number("rarest class", f"{100 * one['share']:.3g} %", f"of all pixels: {name}")


def _same(
    title: str,
    shown: Sequence[Document],
    every: Sequence[Document],
    made: Mapping[str, Thumbnail],
    lead: str,
    *,
    labels: bool,
) -> Section | None:
    """Sets of the same picture. labels: whether rows have any of their own, and not each of their pixels."""
    if not every:
        return None
    sets = []
    for same in shown:
        rows = same["rows"][:_MOST_IN_A_SET]
        tiles = tuple(
            _tile(
                row["id"],
                made.get(row["id"]),
                note=row["label"] if labels else _folder(row["id"]),
                badge=row["split"] or "",
            )
            for row in rows
        )
        leaks = len(same["labels"]) > 1 or len(same["splits"]) > 1
        sets.append(Together(_title(same), tiles, "wrong" if leaks else "", len(same["rows"]) - len(rows)))
    columns = ("what", "label", "split", "files")
    table = [
        (
            _title(same),
            " | ".join(same["labels"]),
            " | ".join(same["splits"]),
            " | ".join(row["id"] for row in same["rows"]),
        )
        for same in every[:2000]
    ]
    rest = (Note(f"{count(len(every))} in all; the first {count(len(table))} are listed here, every one by --json."),)
    listed = Table(columns, tuple(table), title=f"All {count(len(table))} as a table", shown=0)
    return Section(title, (Sets(tuple(sets), shown=12), listed, *(rest if len(table) < len(every) else ())), lead)


def _title(same: Document) -> str:
    across = []
    if len(same["labels"]) > 1:
        across.append(f"{len(same['labels'])} labels")
    if len(same["splits"]) > 1:
        across.append(" and ".join(same["splits"]))
    what = (
        f"{len(same['rows'])} copies" if "distance" not in same else f"{100 - 100 * same['distance'] / 64:.0f} % alike"
    )
    what += ", mirrored or turned" if same.get("turned") else ""
    return f"{what}, across {', '.join(across)}" if across else what


def _tile(name: str, made: Thumbnail | None, *, note: str = "", badge: str = "") -> Tile:
    return Tile(made.source if made else "", name, note, badge, tiny=bool(made and made.tiny))


def _folder(name: str) -> str:
    return name.rpartition("/")[0].rpartition("/")[2]


def _mosaic(shown: Mapping[str, Sequence[str]], facts: Document, made: Mapping[str, Thumbnail]) -> Section:
    rows = tuple(_rows(shown, facts, made))
    if facts["masks"]:
        legend = legend_of(list(facts["masks"]["classes"]))
        return Section("Pictures", (Sets(rows, wide=True, legend=legend),), "Some rows, with what their masks say.")
    return Section("Pictures", (Sets(rows, shown=40, wide=True),), "Some of every class, spread over its files.")


def _rows(shown: Mapping[str, Sequence[str]], facts: Document, made: Mapping[str, Thumbnail]) -> list[Together]:
    """A row of pictures for each class; those that the page has no room for are left out."""
    rows = []
    for label, ids in shown.items():
        tiles = tuple(_tile(one, made[one]) for one in ids if one in made)
        if tiles:
            rows.append(Together(f"{label}  ({count(facts['classes'][label]['images'])})", tiles))
    return rows


def _torn(facts: Document) -> Section | None:
    torn = facts["groups_in_two_splits"]
    if not torn:
        return None
    rows = tuple((group, " and ".join(splits)) for group, splits in torn.items())
    lead = (
        "A group that is in two splits lets the model recognise the animal, the site or the slide instead of the class."
    )
    return Section("Groups", (Table(("group", "splits"), rows),), lead)


def _broken(facts: Document) -> Section | None:
    broken = facts["broken"]
    if not broken:
        return None
    rows = tuple((one["file"], one["reason"]) for one in broken[:2000])
    more = (Note(f"{count(len(broken))} in all; every one is listed by --json."),) if len(rows) < len(broken) else ()
    return Section("Broken", (Table(("file", "reason"), rows), *more), "Files that are left out, each with the reason.")


def _of_pixels(facts: Document) -> Section:
    """The share of each class in all pixels."""
    masks: Document = facts["masks"]
    bars = tuple(Bar(name, one["images"], (one["share"],)) for name, one in masks["classes"].items())
    rows = tuple((name, f"{100 * one['share']:.4g}", one["pixels"]) for name, one in masks["classes"].items())
    columns = ("class", "% of pixels", "pixels")
    unknown = (Note(f"{count(masks['unknown'])} pixels are of a class that nobody knows."),) if masks["unknown"] else ()
    table = Table(columns, rows, numeric=frozenset(columns[1:]))
    lead = (
        "In how many images each is, and its share of the pixels of all good rows. task.weight_power=0.5 makes "
        "mistakes in rare classes cost more."
    )
    return Section("Classes", (Bars(("",), bars, count_name="images", percent=False), table, *unknown), lead)


def _classes(facts: Document) -> Section | None:
    if facts["masks"]:
        return _of_pixels(facts)
    found: Document = facts["classes"]
    if not found:
        return None
    largest = max(one["images"] for one in found.values())
    bars = tuple(Bar(label, one["images"], (one["images"] / largest,)) for label, one in found.items())
    splits = [name for name in ("train", "val", "test") if facts["splits"].get(name)]
    rows = tuple((label, one["images"], *(one[name] for name in splits)) for label, one in found.items())
    columns = ("class", "images", *splits)
    table = Table(columns, rows, "How they are divided", frozenset(columns[1:]), shown=0)
    lead = f"The largest has {facts['imbalance']:g} times the images of the smallest."
    if facts["imbalance"] == 1:
        lead = "All have equally many images."
    if facts["imbalance"] >= 10:
        lead += " task.balance=oversample or sqrt shows small ones more often; data.min_per_class leaves them out."
    return Section(
        "Classes", (Bars(("",), bars, count_name="images", percent=False), *((table,) if splits else ())), lead
    )


def _sizes(facts: Document) -> Section | None:
    if not facts["width"]:
        return None
    charts = (
        Histogram("Shorter side, pixels", *_bins(facts["sides"])),
        Histogram("Width by height", *_bins(facts["aspects"])),
    )
    pairs = [
        (side, f"{facts[side]['least']} to {facts[side]['most']}, median {facts[side]['median']}")
        for side in ("width", "height", "aspect")
    ]
    pairs += [("format", _listed(facts["formats"])), ("pixels", _listed(facts["modes"]))]
    return Section("Sizes", (Histograms(charts), Facts(tuple(pairs))), "Of the upright image. Bins are of equal ratio.")


def _bins(histogram: Document) -> tuple[tuple[str, ...], tuple[int, ...]]:
    names = tuple(
        f"{low:.3g} to {high:.3g}" if low != high else f"{low:g}" for low, high in pairwise(histogram["edges"])
    )
    return names, tuple(histogram["counts"])


def _listed(counts: Document) -> str:
    return ", ".join(f"{name} {count(number)}" for name, number in counts.items())


def _pixels(facts: Document) -> Section | None:
    channels = facts["channels"]
    if not channels:
        return None
    columns = ("kind", "channel", "images", "mean", "std", "least", "most", "no number")
    rows = tuple(
        (
            one["kind"],
            one["channel"],
            one["images"],
            _short(one["mean"]),
            _short(one["std"]),
            _short(one["low"]),
            _short(one["high"]),
            one["none"],
        )
        for one in channels
    )
    flat = [one for one in channels if one["values"] and one["std"] == 0]
    blocks: tuple[Any, ...] = (Table(columns, rows, numeric=frozenset(columns[2:])),)
    if flat:
        blocks += (Text(f"{len(flat)} of these channels are the same everywhere."),)
    return Section(
        "Values",
        blocks,
        "Over all pixels of all good files, at full size. Values that are no number are counted and left out.",
    )


def _short(value: float) -> str:
    return f"{value:.5g}"


def _where(facts: Document) -> Facts:
    pairs = [
        ("folder", facts["root"]),
        ("files", facts["files"]),
        ("GB", round(facts["bytes"] / 1e9, 3)),
        ("opened now", facts["opened"]),
        ("other files, ignored", facts["ignored"]),
        *((f"{split} rows", number) for split, number in facts["splits"].items()),
    ]
    return Facts(tuple(pairs))
