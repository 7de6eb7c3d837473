"""What the site has beside the files in docs/: the tree of pages, and the reference, made from the code.

A hook of MkDocs. Commands come from the docstrings of instar/cli, settings from the classes that read them, clusters
from their files, recipes and the changelog from where they stand. Links into the repository that are no page become
plain names. At the end every page is searched for what it would load from elsewhere: there must be nothing.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from plain import markdown  # noqa: E402 - beside us

from instar import api, plugins  # noqa: E402
from instar import site as sites  # noqa: E402
from instar.cli import VERBS, show, verb  # noqa: E402
from instar.settings import schema  # noqa: E402

CLUSTERS = ("leonardo", "lumi", "musica", "leo5", "puhti", "add-a-site", "offline-nodes")
# Pages of the repository that stand outside docs/: where they are in the site.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    **{str(file.relative_to(ROOT)): f"recipes/{file.parent.name}.md" for file in ROOT.glob("recipes/*/README.md")},
    **{f"instar/sites/{name}.yaml": "reference/clusters.md" for name in sites.names()},
    "README.md": "index.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
# What a browser would load: not what a reader may click.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)\s*=\s*[\"']?(?:https?:)?//[^\s\"'>]+", re.IGNORECASE
)
_STYLE = re.compile(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^\s\"')]+", re.IGNORECASE)


def on_config(config: Any) -> Any:
    """The tree: every page of docs/ is in it, by itself."""
    how_to = sorted((ROOT / "docs" / "how-to").glob("*.md"))
    config.nav = [
        {"Instar": "index.md"},
        {"Tutorials": [*_tutorials(), *_notebooks()]},
        {"How to": [f"how-to/{file.name}" for file in how_to if file.stem not in CLUSTERS]},
        {"Clusters": [f"how-to/{file.name}" for file in how_to if file.stem in CLUSTERS]},
        {"Recipes": sorted(page for page in OUTSIDE.values() if page.startswith("recipes/"))},
        {
            "Reference": [
                {"Commands": "reference/commands.md"},
                {"Settings": "reference/settings.md"},
                {"Python": "reference/python.md"},
                {"Clusters": "reference/clusters.md"},
            ]
        },
        {
            "About": [
                *("architecture.md", "reliability.md", "performance.md", "changelog.md"),
                {
                    "Decisions": [
                        f"decisions/{file.name}" for file in sorted((ROOT / "docs" / "decisions").glob("*.md"))
                    ]
                },
            ]
        },
    ]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add what is made: reference, recipes, changelog, style."""
    made = {
        "reference/commands.md": commands(),
        "reference/settings.md": settings(),
        "reference/clusters.md": clusters(),
        "reference/python.md": python(),
        "_site.css": style(),
        **{
            page: (ROOT / path).read_text(encoding="utf-8")
            for path, page in OUTSIDE.items()
            if (ROOT / path).suffix == ".md" and path != "README.md"
        },
        **{page: notebook(ROOT / "docs" / "examples" / f"{Path(page).stem}.ipynb") for page in _notebooks()},
    }
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(text: str, *, page: Any, config: Any, files: Files) -> str:
    """Links into the repository as links into the site; those to what is no page as the name alone."""
    came_from = {site: path for path, site in OUTSIDE.items() if path.endswith(".md") and path != "README.md"}
    source = came_from.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def changed(match: "re.Match[str]") -> str:
        picture, words, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        wanted = OUTSIDE.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(wanted) is None:
            if path.startswith("docs/") and not (ROOT / path).is_dir():
                return match[0]  # a page that is not there is a mistake, and the build says so
            return words if not picture else ""
        return f"{picture}[{words}]({posixpath.relpath(wanted, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"

    return _LINK.sub(changed, text)


def on_post_build(*, config: Any) -> None:
    """Raises where a page or a style would load anything from another host."""
    wrong = []
    for path in sorted(Path(config.site_dir).rglob("*")):
        pattern = {".html": _LOADED, ".css": _STYLE}.get(path.suffix)
        if pattern is not None:
            found = pattern.findall(path.read_text(encoding="utf-8"))
            wrong += [f"{path.relative_to(config.site_dir)}: {one}" for one in found if 'rel="canonical"' not in one]
    if wrong:
        raise PluginError("the site would load from elsewhere:\n" + "\n".join(wrong))


# --- the reference -------------------------------------------------------------------------------------------------


def commands() -> str:
    """One section a verb: its help page."""
    parts = ["# Commands", "`instar VERB --help` prints the same.\n"]
    for name in VERBS:
        first, _, rest = (verb(name).__doc__ or "").strip().partition("\n")
        parts.append(f"## instar {name} {{ #{name} }}\n\n{first}.\n\n```text\n{rest.strip(chr(10))}\n```\n")
    return "\n".join(parts)


def settings() -> str:
    """One table a group, and one a kind, as `instar show` says them."""
    parts = [
        "# Settings",
        "What may stand in a recipe, and the same as `key=value` on a command line. `instar show GROUP` prints each of "
        "these tables, `instar schema` writes them for the completion of an editor.\n",
    ]
    for name, group in [("recipe", show.find("recipe")[1]), *show.groups(), *show.brought_groups()]:
        parts += [
            f"## {name} {{ #{name.replace('.', '-')} }}\n",
            f"{(group.__doc__ or '').strip()}\n",
            *_table(name, group),
        ]
    for name, shelf in show.shelves():
        parts.append(f"## {name}: kinds {{ #{name.replace('.', '-')} }}\n")
        default = "None is the default" if name == "track" else f"The default is `{shelf.default}`"
        parts.append(f"{default}. A kind with dots in it is a module of your own.\n")
        for kind in plugins.kinds(shelf.shelf):
            page = (plugins.load(shelf.shelf, kind).__doc__ or "").strip()
            parts += [f"### {name}: {kind} {{ #{name.replace('.', '-')}-{kind} }}\n", f"{markdown(page)}\n"]
            parts += _table(f"{name}.{kind}", shelf.settings(kind))
    return "\n".join(parts)


def _table(name: str, group: Any) -> list[str]:
    properties = schema(group).get("properties", {})
    fields = {key: field for key, field in group.model_fields.items() if key != "kind"}
    takes = {key: show.said(name, key, field, properties.get(key, {})) for key, field in fields.items()}
    rows = [f"| `{key}` | {_cell(takes[key])} | {_cell(field.description or '')} |" for key, field in fields.items()]
    return (
        ["| setting | what it takes | what it does |", "|---|---|---|", *rows, ""]
        if rows
        else ["It has no settings.\n"]
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def clusters() -> str:
    """The file of every cluster that comes with Instar."""
    parts = [
        "# Clusters",
        "One file each; `instar site show NAME` prints it, [another one is one file](../how-to/add-a-site.md).\n",
    ]
    for name in sites.names():
        file = ROOT / "instar" / "sites" / f"{name}.yaml"
        if file.exists():
            parts.append(f"## {name}\n\n```yaml\n{file.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(parts)


def python() -> str:
    """What may be imported, from the docstrings."""
    parts = ["# Python\n"]
    for title, names in PYTHON.items():
        parts += [f"## {title}\n", *(f"::: {name}\n    options:\n      heading_level: 3\n" for name in names)]
    return "\n".join(parts)


PYTHON = {
    "What the command line does": [f"instar.api.{name}" for name in api.__all__],
    "Contract tests for plug-ins of your own": ["instar.testing"],
    "What a model is": ["instar.networks.Encoder", "instar.networks.Learner"],
    "What a tracker is told": [
        "instar.points.Tracker",
        "instar.points.Point",
        "instar.points.About",
        "instar.points.Ending",
    ],
    "A run": ["instar.run.Run"],
    "What can go wrong": ["instar.errors"],
}


def _tutorials() -> list[str]:
    """The first one first."""
    found = sorted(file.name for file in (ROOT / "docs").glob("tutorial*.md"))
    return sorted(found, key=lambda name: "first" not in name)


def _notebooks() -> list[str]:
    return [f"examples/{file.stem}.md" for file in sorted((ROOT / "docs" / "examples").glob("*.ipynb"))]


def notebook(file: Path) -> str:
    """A notebook as a page: its text and code."""
    import nbformat

    cells = nbformat.read(file, as_version=4).cells
    return "\n\n".join(
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells
    )


def style() -> str:
    """The colours of the run page, from its own style sheet, and what the site does with them."""
    sheet = (ROOT / "instar" / "report" / "templates" / "page.css").read_text(encoding="utf-8")
    light, dark, *_ = re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)
    own = (Path(__file__).parent / "site.css").read_text(encoding="utf-8")
    return f":root {{{light}}}\n[data-md-color-scheme=slate] {{{dark}}}\n{own}"
