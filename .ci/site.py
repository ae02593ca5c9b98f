"""What the documentation site has beside the Markdown files of docs/. mkdocs calls `on_...`.

- The front page is README.md.
- The reference is generated: a page for each package, with docstrings and source of its modules.
- A link from a page to code leads to the reference, one to any other file of the repository to a
  page that shows it.
- Formulas become MathML, which browsers draw by themselves.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: What the reference shows all modules of; of other packages those that a page links to.
PUBLIC = (
    "u2pl.api",
    "u2pl.methods",
    "u2pl.losses",
    "u2pl.pseudo",
    "u2pl.memory",
    "u2pl.mixing",
    "u2pl.networks",
    "u2pl.evaluate",
    "u2pl.model",
    "u2pl.data.source",
)
#: Folders that hold packages.
SOURCES = ("packages/core", "apps/semi", "apps/domain_adapt", "apps/weak")

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?P<text>\[(?:[^][]|\[[^][]*\])*\])\((?P<target>[^)\s]+)\)")
#: What latex2mathml does not know, or makes of it what browsers do not show as meant.
REWORDED = {
    r"\\arg(?![a-z])": r"\\operatorname{arg}",
    r"\\mathbb\{1\}": "𝟙",
    r"\\mathrm\{": r"\\operatorname{",
}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: Any) -> Any:
    """Put the reference into the navigation."""
    config.nav.append({"Reference": [{page: f"reference/{page}.md"} for page in reference()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files of docs/."""
    files.append(
        File.generated(config, "index.md", content=(ROOT / "README.md").read_text("utf-8"))
    )
    for page, modules in reference().items():
        text = "\n\n".join([f"# {page}", *(f"::: {module}" for module in modules)])
        files.append(File.generated(config, f"reference/{page}.md", content=text))
    for file in shown():
        text = f"# {file}\n\n```{file.suffix[1:]}\n{(ROOT / file).read_text('utf-8')}\n```\n"
        made = File.generated(config, f"files/{file}.md", content=text)
        made.inclusion = made.inclusion.NOT_IN_NAV
        files.append(made)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead the links that leave docs/ to pages of the site."""
    if page.file.src_uri.startswith(("reference/", "files/")):
        return markdown
    source = ROOT / "README.md" if page.file.src_uri == "index.md" else DOCS / page.file.src_uri
    up = "../" * page.file.src_uri.count("/")

    def lead(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if "://" in target or target.startswith("#"):
            return match[0]
        return f"{text}({up}{place(source, text, target)})"

    parts = re.split(f"({FENCE.pattern})", markdown, flags=FENCE.flags)
    return "".join(part if part.startswith("```") else LINK.sub(lead, part) for part in parts)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""
    return FORMULA.sub(drawn, content)


def drawn(match: re.Match[str]) -> str:
    """A formula that arithmatex has found, a displayed one in lines that fit a page.

    PluginError if it has a command that latex2mathml does not know.
    """
    tag, formula = match[1], html.unescape(match[2])
    for theirs, ours in REWORDED.items():
        formula = re.sub(theirs, ours, formula)
    lines, display = ([formula], "inline") if tag == "span" else (formula.split(r"\qquad"), "block")
    made = "".join(convert(line, display=display) for line in lines)
    if "\\" in made:
        raise PluginError(f"a formula that latex2mathml does not know in full: {match[2]}")
    return f'<{tag} class="formula">{made}</{tag}>'


def place(source: Path, text: str, target: str) -> str:
    """Where a link leads on the site, from its root.

    Args:
        source: the file that the link is in.
        text: of the link; in front of a colon or a bracket the name of what the code defines.
        target: as written.
    """
    name, _, heading = target.partition("#")
    file = repository_path(source, name)
    anchor = f"#{heading}" if heading else ""
    if file.parts[0] == "docs":
        return f"{file.relative_to('docs')}{anchor}"
    module = module_of(file)
    if module is None:
        return f"files/{file}.md"
    named = re.search(r"`([^`/]+)`", text)
    below = f".{named[1]}" if named and not str(file).endswith(named[1]) else ""
    whole = (ROOT / file).is_dir()
    return f"reference/{page_of(module)}.md{'' if whole else f'#{module}{below}'}"


def repository_path(source: Path, target: str) -> Path:
    """The file that a link names, from the root of the repository."""
    return (source.parent / target).resolve().relative_to(ROOT)


@cache
def reference() -> dict[str, list[str]]:
    """The pages of the reference, and the modules on each."""
    found = {page: modules_below(page) for page in PUBLIC}
    for module in sorted(filter(None, map(module_of, linked()))):
        page = page_of(module)
        if page not in PUBLIC:
            found.setdefault(page, []).extend(modules_below(module))
    return {page: sorted(set(modules)) for page, modules in found.items()}


def page_of(module: str) -> str:
    """The page of a module: that of the public package it is in, else its own package's."""
    public = (page for page in PUBLIC if f"{module}.".startswith(f"{page}."))
    return next(public, module if folder_of(module).is_dir() else module.rpartition(".")[0])


def modules_below(name: str) -> list[str]:
    """A module, or all modules of a package."""
    folder = folder_of(name)
    files = [file for file in folder.rglob("*.py") if file.stem != "__init__"]
    below = [".".join(file.relative_to(folder).with_suffix("").parts) for file in files]
    return [f"{name}.{module}" for module in below] or [name]


def folder_of(module: str) -> Path:
    """The folder that a package is; of a module a path that does not exist."""
    below = module.replace(".", "/")
    return next(
        (path for top in SOURCES if (path := ROOT / top / below).is_dir()), ROOT / "nowhere"
    )


def module_of(file: Path) -> str | None:
    """The name of a module or package; None for any other file."""
    top = next((top for top in SOURCES if file.is_relative_to(top)), None)
    if top is None or not (file.suffix == ".py" or (ROOT / file / "__init__.py").is_file()):
        return None
    return ".".join(file.relative_to(top).with_suffix("").parts)


@cache
def linked() -> tuple[Path, ...]:
    """What the pages link to outside of docs/, from the root of the repository."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    found = {repository_path(page, target) for page in pages for target in targets(page)}
    return tuple(sorted(file for file in found if file.parts[0] != "docs"))


def targets(page: Path) -> Iterator[str]:
    """The files that a page links to, without headings."""
    for match in LINK.finditer(FENCE.sub("", page.read_text("utf-8"))):
        name = match["target"].partition("#")[0]
        if name and "://" not in name:
            yield name


def shown() -> list[Path]:
    """Linked files that the site shows as they are."""
    return [file for file in linked() if module_of(file) is None]
