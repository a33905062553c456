"""What the documentation site adds to the pages in docs/ (mkdocs calls these functions while it builds): an API page for every
package, made from the sources, and addresses for links that leave docs/.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
LINK = re.compile(r"\]\((\.\./[^)#\s]+)")
FRAGMENT = "```toml fragment\n"  # a part of a configuration, as the tests of the pages know it


def packages() -> Iterator[tuple[str, list[str]]]:
    """Every package that has modules of its own, as (dotted name, dotted names of the modules), outer ones first.

    The command line is no API: its reference is written by hand.
    """
    for folder in sorted({path.parent for path in SOURCES.rglob("*.py")} - {SOURCES / "bitroute" / "cli"}):
        modules = sorted(path for path in folder.glob("*.py") if path.stem != "__init__" or path.read_text().strip())
        names = [".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__") for path in modules]
        if names:
            yield ".".join(folder.relative_to(SOURCES).parts), names


def api_page(package: str, modules: list[str]) -> str:
    """The text of a package's page: the docstrings of its modules."""
    return "\n\n".join([f"# {package}", *(f"::: {module}" for module in modules)]) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the API pages after the reference."""
    pages = [{package.removeprefix("bitroute."): f"api/{package}.md"} for package, _ in packages()]
    assert config.nav is not None
    place = next(i for i, entry in enumerate(config.nav) if isinstance(entry, dict) and "Reference" in entry)
    config.nav.insert(place + 1, {"API": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API pages, which are written nowhere."""
    for package, modules in packages():
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package, modules)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files outside docs/ (sources, deploy/, the README) to the repository; plain names of languages."""

    def address(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), link[1]))
        return link[0] if target.startswith("docs/") else f"]({config.repo_url}/blob/main/{target}"

    return LINK.sub(address, markdown.replace(FRAGMENT, "```toml\n"))
