"""MkDocs hook: pages and parts of pages that are generated from the code and from conf/.

    uv run --group docs mkdocs build --strict

Generated pages: index.md (README.md), contributing.md, changelog.md, commands.md (the `--help` of each command), the
notebooks with their saved outputs, and one page for each source file that a page links to, so that the site needs no
code hosting. Markers in other pages:

    <!-- settings: GROUP/CHOICE -->   adds default and source, from conf/GROUP/CHOICE.yaml, to the table that follows
    <!-- deviations: MODULE -->       the deviations that the docstring of nasx/methods/MODULE.py lists
    <!-- choices: GROUP -->           the files of conf/GROUP: name, description, source
    <!-- experiments -->              a table of conf/experiment with a filter

Equations in ```math blocks and in $`...`$ become MathML, which browsers render without a script.
"""

from __future__ import annotations

import ast
import contextlib
import html
import io
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from nasx.cli import listing
from nasx.cli.commands import COMMANDS
from nasx.cli.main import dispatch
from nasx.config import experiments, plugins, provenance

ROOT = Path(__file__).resolve().parent.parent
COPIES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page -> the file at the root of the repository that it shows."""
SHOWN = {name: page for page, name in COPIES.items()}
LINK = re.compile(r"(\]\()((?!\w+:|#)[^)#\s]+)([^)]*\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "bash", ".cff": "yaml", ".j2": "jinja"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    docs = Path(config.docs_dir)
    texts = {page: (ROOT / name).read_text(encoding="utf-8") for page, name in COPIES.items()}
    texts["commands.md"] = commands()
    for path in sorted(docs.glob("notebooks/*.ipynb")):
        texts[f"notebooks/{path.stem}.md"], pictures = notebook(path)
        for name, data in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=data))
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    texts |= {str(path.relative_to(docs).as_posix()): path.read_text(encoding="utf-8") for path in docs.rglob("*.md")}
    for source in sorted({target for page, text in texts.items() for target in sources(page, text)}):
        files.append(File.generated(config, f"source/{source}.md", content=code(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace markers and equations, and point links to files outside docs/ at the pages that show these files."""
    name = page.file.src_uri
    if name.startswith("source/"):
        return markdown

    def link(match: re.Match[str]) -> str:
        target = resolved(name, match[2])
        if target in SHOWN:
            there = SHOWN[target]
        elif target.startswith("docs/"):
            there = target.removeprefix("docs/")
            if there.endswith(".ipynb") and not name.startswith("notebooks/"):  # its page, not the file
                there = f"{there.removesuffix('.ipynb')}.md"
        elif (ROOT / target).is_file():
            there = f"source/{target}.md"
        else:
            return match[0]
        return match[1] + posixpath.relpath(there, posixpath.dirname(name) or ".") + match[3]

    text = re.sub(r"<!-- settings: (\S+) -->\n((?:\|.*\n)*)", lambda m: settings(m[1], m[2]), markdown)
    text = re.sub(r"<!-- deviations: (\S+) -->", lambda m: deviations(m[1]), text)
    text = re.sub(r"<!-- choices: (\S+) -->", lambda m: choices(m[1], name), text)
    text = LINK.sub(link, text.replace("<!-- experiments -->", experiment_table()))
    text = re.sub(
        r"^```math\n(.*?)^```", lambda m: f'<div class="math">{math(m[1], "block")}</div>', text, flags=re.M | re.S
    )
    return re.sub(r"\$`(.+?)`\$", lambda m: math(m[1], "inline"), text)


def math(latex: str, display: str) -> str:
    return str(convert(latex.strip(), display=display))


# ------------------------------------------------------------------------------------------------------------- links
def resolved(page: str, target: str) -> str:
    """Return the path, from the root of the repository, of the file that a page links to."""
    folder = "" if page in COPIES else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(folder, target))


def sources(page: str, text: str) -> Iterator[str]:
    """Yield the files outside docs/ that a page links to, including those in generated tables."""
    for group in re.findall(r"<!-- choices: (\S+) -->", text):
        yield from (f"conf/{group}/{path.name}" for path in (ROOT / "conf" / group).glob("*.yaml"))
    for match in LINK.finditer(text):
        target = resolved(page, match[2])
        if target not in SHOWN and not target.startswith("docs/") and (ROOT / target).is_file():
            yield target


def code(source: str) -> str:
    """Return a page with the text of a file."""
    text = (ROOT / source).read_text(encoding="utf-8")
    head = f"---\ntitle: {source}\nsearch:\n  exclude: true\nhide: [toc]\n---\n\n# {source}\n\n"
    return f"{head}````{LANGUAGES.get(Path(source).suffix, 'text')}\n{text.rstrip()}\n````\n"


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by name."""
    text, resources = MarkdownExporter().from_filename(str(path), resources={"unique_key": path.stem})
    head, _, rest = re.sub(r"\n(\s*\n){3,}", "\n\n", text.lstrip()).partition("\n")
    return f"{head}\n\n[Download this notebook]({path.name})\n{rest}", resources["outputs"]


# --------------------------------------------------------------------------------------------------- generated parts
def commands() -> str:
    """Return a page with the help of every command."""
    parts = [
        "# Commands\n\nThis page shows the `--help` of each command. If a command also chooses components, it lists "
        "their settings, with defaults and sources: `nasx search method=idarts space=s2 --help`.\n"
    ]
    os.environ["COLUMNS"] = "110"
    for words in (["--help"], *([name, "--help"] for name in COMMANDS), ["bench", "rank", "--help"]):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            dispatch(words)
        title = " ".join(["nasx", *words[:-1]])
        parts.append(f"## {title}\n\n```text\n{out.getvalue().strip()}\n```\n")
    return "\n".join(parts)


def settings(choice: str, meanings: str) -> str:
    """Return the settings of a file in conf/: the table of meanings in a page, with defaults and sources added.

    Raises PluginError for a setting that the file does not have.
    """
    meaning = {key: " ".join(text.split()) for key, text in re.findall(r"^\| `([\w.]+)` \| (.*) \|$", meanings, re.M)}
    rows = list(provenance.values((ROOT / "conf" / f"{choice}.yaml").read_text(encoding="utf-8")))
    for i, (key, value, source) in enumerate(rows):
        rows[i] = (key, value, rows[i - 1][2] if i and source == "the same" else source)
    names = [key.removeprefix(f"{choice.partition('/')[0]}.") for key, _, _ in rows]
    if unknown := meaning.keys() - set(names):
        raise PluginError(f"conf/{choice}.yaml has no setting {', '.join(sorted(unknown))}")
    lines = [
        f"| `{name}` | `{cell(value)}` | {meaning.get(name, '')} | {cell(source)} |"
        for name, (_, value, source) in zip(names, rows)
    ]
    return "\n".join(["| setting | default | meaning | source of the default |", "|---|---|---|---|", *lines, ""])


def deviations(module: str) -> str:
    """Return the numbered deviations in a module's docstring as a list."""
    doc = ast.get_docstring(ast.parse((ROOT / "nasx" / "methods" / f"{module}.py").read_text(encoding="utf-8"))) or ""
    found = re.search(r"^Deviations?:?\s*(.*)\Z", doc, re.M | re.S)
    if found is None:
        raise PluginError(f"nasx/methods/{module}.py lists no deviations")
    items = re.split(r"(?:^|(?<=\s))\d+\. ", found[1].strip())
    text = [" ".join(item.split()) for item in items if item.strip()]
    return "\n".join(f"{i}. {prose(item)}" for i, item in enumerate(text, 1)) if len(items) > 1 else prose(text[0])


def choices(group: str, page: str) -> str:
    """Return the choices of a group as a table, for a page in docs/."""
    folder = posixpath.relpath(f"conf/{group}", posixpath.join("docs", posixpath.dirname(page)))
    rows = [
        f"| [`{entry.name}`]({folder}/{entry.name}.yaml) | {cell(entry.line)} |"
        for entry in listing.entries(group, [ROOT / "conf"])
    ]
    return "\n".join([f"| `{group}=` | description |\n|---|---|", *rows])


def experiment_table() -> str:
    """Return all experiments as a table with an input that filters it."""
    rows = ["| experiment | what it is | cost |", "|---|---|---|"]
    for name in plugins.choices("experiment", ROOT / "conf"):
        found = experiments.find(name)
        assert found is not None, name
        printed = [
            f"{cell(row.row)}: {cell(row.text)}" + f", with `{' '.join(row.overrides)}`" * bool(row.overrides)
            for row in found.published
        ]
        shown = "".join(f"<br>`{cell(line)}`" for line in found.commands)
        if printed:
            count = f"{len(printed)} published row{'s' * (len(printed) > 1)}"
            shown += f"<details><summary>{count}</summary>{'<br>'.join(printed)}</details>"
        groups = ("space", "method", "dataset", "stages")
        choice = "<br>".join(f"{group}={found.choices[group]}" for group in groups if group in found.choices)
        rows.append(f"| **{name}**<br>{choice} | {cell(found.summary)}{shown} | {cell(found.cost)} |")
    box = '<input class="filter" type="search" placeholder="Filter, for example: idarts nb201" aria-label="Filter">'
    return box + "\n\n" + "\n".join(rows)


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return html.escape(text, quote=False).replace("|", "\\|")


def prose(text: str) -> str:
    """Convert the text of a docstring to Markdown: outside `code`, escape stars, underscores and angle brackets."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
