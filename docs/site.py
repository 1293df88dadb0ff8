"""The documentation site beside docs/*.md: pages that lie elsewhere in the tree, and the API. A MkDocs hook."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

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
    "notebooks/quick_start.ipynb": "notebook_quick_start.md",
    "notebooks/your_own_pictures.ipynb": "notebook_your_own_pictures.md",
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
        "Metrics, their intervals and their protocol; evaluation by other libraries.",
        [
            "evaluation.retrieval",
            "studies.bootstrap",
            "evaluation.report",
            "studies.external_eval.captioned",
            "studies.external_eval.mteb_retrieval",
            "studies.external_eval.clip_benchmark_retrieval",
        ],
    ),
    "search": (
        "Trained models, and queries against a gallery.",
        ["trained.model", "trained.bundle", "trained.student", "evaluation.gallery", "search.query"],
    ),
    "config": ("Every field and what it may hold.", ["config.fields", "config.checks"]),
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    for source, page in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        if source.endswith(".ipynb"):
            content, pictures = notebook_page(json.loads(content), name=page.removesuffix(".md"))
            for name, picture in pictures.items():
                files.append(File.generated(config, name, content=picture))
        files.append(File.generated(config, page, content=content))
    for name, (title, modules) in API.items():
        blocks = "".join(f"\n::: cl2cm_jax.{module}\n" for module in modules)
        files.append(File.generated(config, f"api/{name}.md", content=f"# {title.rstrip('.')}\n{blocks}"))
    return files


def notebook_page(notebook: dict[str, Any], *, name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by the names that it shows them under, which begin with `name`."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}_{len(pictures)}.png"
                pictures[picture] = base64.b64decode("".join(data["image/png"]))
                parts.append(f'<img alt="What the cell shows" src="{picture}">')
            else:
                text = "".join(output.get("text", data.get("text/plain", ()))).strip("\n")
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n", pictures


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
