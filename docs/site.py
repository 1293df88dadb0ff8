"""The documentation site beside docs/*.md: pages that lie elsewhere in the tree, and the API. A MkDocs hook."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "launch/README.md": "launch.md",
    "benchmarks/RESULTS.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
API = {
    "losses": (
        "The batch-level losses, dense and by blocks.",
        ["maths.contrastive", "maths.distillation", "maths.confidence", "maths.blockwise", "maths.masking"],
    ),
    "transport": (
        "Word alignment, and exact ranks.",
        ["maths.optimal_transport", "maths.word_alignment", "maths.ranking", "maths.similarity"],
    ),
    "networks": (
        "Teacher and student as functions of plain parameters.",
        ["models.functional", "models.towers", "models.networks", "models.trained_layers"],
    ),
    "steps": (
        "The objective, the one jitted step, and where its arrays live.",
        ["steps.objective", "steps.train_step", "steps.schedule", "parallel.mesh", "parallel.sharding"],
    ),
    "evaluation": (
        "Metrics, their intervals, and their protocol.",
        ["evaluation.retrieval", "evaluation.bootstrap", "evaluation.report"],
    ),
    "search": (
        "Queries against a gallery, and models that stand alone.",
        ["export.model", "search.model", "search.gallery", "search.query"],
    ),
    "config": ("Every field and what it may hold.", ["config.fields", "config.checks"]),
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for name, (title, modules) in API.items():
        blocks = "".join(f"\n::: cl2cm_jax.{module}\n" for module in modules)
        files.append(File.generated(config, f"api/{name}.md", content=f"# {title.rstrip('.')}\n{blocks}"))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links that are right in the repository into links of the site; those to code into its name."""
    place = next((name for name, site in PAGES.items() if site == page.file.src_uri), f"docs/{page.file.src_uri}")
    if place.startswith("docs/api/"):
        return markdown

    def of_site(match: re.Match[str]) -> str:
        target = (ROOT / place).parent.joinpath(match[1]).resolve()
        if not target.exists():
            raise ValueError(f"{place}: the link to {match[1]} leads nowhere")
        name = target.relative_to(ROOT).as_posix()
        name = PAGES.get(name, name.removeprefix("docs/"))
        if (ROOT / "docs" / name).exists() or name in PAGES.values():
            return f"]({name}{match[2] or ''})"
        return f"] (`{name}`)"

    return re.sub(r"\[([^\]]*)\] \(`", r"\1 (`", LINK.sub(of_site, markdown))
