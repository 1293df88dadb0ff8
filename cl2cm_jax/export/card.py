"""The model card of a bundle: README.md with the metadata of the Hugging Face hub, from the results of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax import __version__
from cl2cm_jax.config import has_vision_backbone
from cl2cm_jax.evaluation.report import RANKS, SHOWN, Results, report_tables, summarise, weakest
from cl2cm_jax.export.licences import NOTICES, common_licence, data_licence
from cl2cm_jax.export.render import render
from cl2cm_jax.models.backbone import TextSpec, VisionSpec
from cl2cm_jax.models.configured import text_prompt, text_spec, vision_spec
from cl2cm_jax.models.credits import UNKNOWN, Credits
from cl2cm_jax.trained.bundle_layout import stock_obstacles

PAPER = "https://doi.org/10.1609/aaai.v38i6.28376"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is made of.

    Attributes:
      config, results: of the run.
      credits: of the backbones, "text" and "vision".
      licence: of the bundle, as the hub names it; "" takes that of code and backbones, if they have the same.
      name: of the bundle's folder.
      languages: those that the bundle is for.
      vision_class: the class of transformers that reads the vision backbone; "" if none does.
      notes: sections of the conversions, in Markdown.
    """

    config: ConfigDict
    results: Results
    credits: Mapping[str, Credits]
    licence: str
    name: str
    languages: Sequence[str]
    vision_class: str = ""
    notes: Sequence[str] = ()


def card(facts: Facts) -> str:
    """The text of README.md."""
    c, r = facts.config, facts.results
    specs: list[TextSpec | VisionSpec] = [text_spec(c.text.backbone)]
    specs += [vision_spec(c.vision.backbone)] if has_vision_backbone(c) else []
    licence = facts.licence or common_licence(facts.credits)
    # languages reported apart form one group at most: other groups are of images, in all languages
    apart = [group.per_language for group in r.groups.values() if set(group.per_language) <= set(c.data.reported)]
    measured = {language: r.test[language] for language in r.targets if language in r.test}
    measured = {language: measured[language] for language in measured if language in facts.languages} or measured
    return render(
        "card",
        c=c,
        credits=facts.credits,
        data_licence=data_licence(c),
        images="clips" if c.data.frames > 1 or c.data.name in ("vatex", "msrvtt_cn") else "images",
        languages=facts.languages,
        licence=licence,
        metadata=_metadata(facts, licence=licence),
        name=facts.name,
        notes=facts.notes,
        notices=NOTICES,
        obstacles=stock_obstacles(c),
        paper=PAPER,
        prompt=text_prompt(c),
        requirements=list(dict.fromkeys(one for spec in specs for one in spec.requirement.split())),
        selected_step=r.config.get("selected_step"),
        targets=(*c.data.targets, *c.data.reported),
        tables=[table.markdown() for table in report_tables(r)],
        text_folder=specs[0].model_folder,
        traced=all(spec.traced for spec in specs),
        trained={"text": c.student.text.trainable, "vision": c.student.vision.trainable},
        unknown_licence=any(credit.licence == UNKNOWN for credit in facts.credits.values()),
        version=__version__,
        vision_class=facts.vision_class,
        weakest=_weakest(measured),
        weakest_apart=[_weakest(group) for group in apart],
    )


def _weakest(measured: Mapping[str, Mapping[str, float]]) -> tuple[str, float]:
    """The language of the lowest SumR, and that."""
    language = weakest(measured, measured)
    return language, measured[language]["SumR"]


def _metadata(facts: Facts, *, licence: str) -> str:
    """The card's YAML."""
    from huggingface_hub import ModelCardData

    tags = ["cl2cm", "cross-lingual", "cross-modal-retrieval", "image-text-retrieval", "multilingual", "jax"]
    tags += [] if stock_obstacles(facts.config) else ["sentence-transformers", "transformers"]
    tags += ["onnx"] if any("onnx" in note for note in facts.notes) else []
    base_models = [credit.base_model for credit in facts.credits.values() if credit.base_model]
    other: dict[str, Any] = {}
    if licence == "other":
        other = {"license_name": "see-third-party-notices", "license_link": NOTICES}
    return ModelCardData(
        language=list(facts.languages),
        license=licence,
        **other,
        library_name="cl2cm_jax",
        pipeline_tag="feature-extraction",
        tags=tags,
        base_model=base_models or None,
        metrics=["recall"],
        model_name=facts.name,
        eval_results=_eval_results(facts),
    ).to_yaml()


def _eval_results(facts: Facts) -> list[Any]:
    """The hub's evaluation results: one for each language and metric, with the split that it was measured on."""
    from huggingface_hub import EvalResult

    r, name = facts.results, facts.config.data.name
    measured = [language for language in (r.source, *r.targets) if language in r.test]
    rows = {language: r.test[language] for language in measured if language in facts.languages}
    if len(rows) == len(measured):
        mean = summarise(r.test, source=r.source, targets=r.targets)["mean_target"]
        rows[f"mean of {len(r.targets)} targets"] = mean
    wanted = [*SHOWN, *(f"{d}/{rank}" for d in ("text_to_vision", "vision_to_text") for rank in RANKS)]
    return [
        EvalResult(
            task_type="image-text-retrieval",
            task_name="Image-text retrieval",
            dataset_type=name,
            dataset_name=name,
            dataset_config=language,
            dataset_split=r.protocol.split,
            dataset_args=r.protocol.line,  # pyright: ignore[reportArgumentType]
            metric_type="recall" if "R@" in metric else metric.lower(),
            metric_name=metric,
            metric_value=round(values[metric], 2),
        )
        for language, values in rows.items()
        for metric in wanted
        if metric in values
    ]
