"""Every field of a configuration: its default, the values that it accepts, and what it does.

A config file in `configs/` starts from `defaults()` and changes what it needs; the command line changes
single fields (`--config.train.batch_size=512`). The first value of a `choice` is the default. Marks say where a choice
comes from: (paper), or (NRCCR) and (LECCR), code of the same authors. The paper's own hyperparameters are not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cl2cm_jax.config.declarations import (
    AUTO,
    Field,
    choice,
    choices,
    duration,
    number,
    place,
    plugin,
    prompt,
    weight,
)
from cl2cm_jax.text.languages import canonical

# target languages of the paper's sets, whose source is English
LANGUAGES_OF = {"multi30k": ("de", "fr", "cs"), "mscoco": ("zh", "ja"), "vatex": ("zh",), "msrvtt_cn": ("zh",)}
# names of earlier versions, still accepted on the command line, in config files and in saved configurations
OLD_NAMES = {"teacher.update": "teacher.schedule", "text.prefix": "text.prompt"}
LANGUAGES = ("data.source", "data.targets", "data.reported", "evaluation.pictures")  # fields that name languages

FIELDS: dict[str, Field] = {
    # "baseline": contrastive(V, S) and contrastive(V, T) alone, see config/method.py
    "method": choice("cl2cm", "baseline"),
    "seed": number(0, 0, 2**32 - 1),  # initial weights, order of examples, choice of captions, translation noise
    # Data. "emoji" | "stamps" | "captions" (your own pictures or clips) | "fluent" (animated emoji) | "flickr8k_cn"
    # (photographs) | the paper's sets: "multi30k" | "mscoco" | "vatex" | "msrvtt_cn"
    "data.name": plugin("cl2cm_jax.data.sets", "emoji"),
    "data.dir": place("data"),  # folder of built sets and cached features
    "data.source": Field("en"),  # the language that the pictures were captioned in
    "data.targets": Field(("de",)),  # languages to search in; the main results are their mean
    "data.reported": Field(()),  # trained and evaluated like targets, but not part of that mean
    "data.translation_noise": number(0.0, 0.0, 1.0),  # share of target captions given to other pictures (training)
    # training captions of the targets by who wrote them: "machine" (paper: translations), "human" (upper bound)
    "data.train_origin": choice("any", "machine", "human"),
    "data.train_share": number(1.0, 1e-6, 1.0),  # share of the training pictures, chosen by a hash of their ids
    # fluent, stamps, flickr8k_cn, the paper's sets: folder of the published files; those of the paper's sets are in its
    # folders TextData/ and FeatureData/
    "data.root": place(),
    "data.engine": choice("baidu", "google"),  # flickr8k_cn: whose Chinese translations are read
    "data.task": number(2, 1, 2),  # multi30k: 2 (five captions per image) or 1 (one)
    "data.frames": number(1, 1, 64),  # captions, fluent: maximum number of evenly spaced frames of a clip; 1: pictures
    # captions: folder of the pictures; flickr8k_cn, the paper's sets: a folder to use instead of the published one
    "data.images": place(),
    # captions: CSV, TSV or JSONL (also .gz) with image, language, caption[, split[, origin]]; stamps: the translations;
    # flickr8k_cn: captions in further languages, or without data.root all of them
    "data.captions": place(),
    # features instead of pictures. captions, flickr8k_cn: an .npy file, (n, d) or (n, frames, d); the paper's sets: a
    # name in FeatureData/
    "data.features": place(),
    "data.feature_ids": place(),  # captions, flickr8k_cn: text file, the image id of each feature row
    "data.shards": place(),  # captions: webdataset tar shards instead of a folder; a folder, or "shards/*.tar"
    "data.beam_runner": Field(""),  # captions: "DirectRunner", "DataflowRunner" ...: Apache Beam builds the set
    "data.beam_options": Field(()),  # options of that runner, e.g. ("project=mine", "region=europe-west1")
    "data.on_error": choice("stop", "skip"),  # "skip": bad captions and pictures are listed in a report
    # Text backbone; its frozen layers run once and their outputs are cached
    # "use_multilingual" | "e5_small" (multilingual E5; extra e5) | those of model folders, which need text.path: "bert"
    # (mBERT, XLM-R, MiniLM ...), "modernbert" (mmBERT, ModernBERT), "qwen3" (Qwen3, Qwen3-Embedding), "clip_text"
    # (text towers of CLIP, SigLIP, MetaCLIP 2, OpenCLIP), "transformers" (any other, frozen; extra torch)
    "text.backbone": plugin("cl2cm_jax.models.backbones.text", "use_multilingual"),
    "text.path": place(),  # a Hugging Face model folder or hub id; of the first two: weights outside the package
    # put before every caption and query, e.g. "query: " for E5; "": nothing; "auto": what the model folder names, see
    # models/files/prompts.py. "{query}" may stand at its end, for the text
    "text.prompt": prompt(AUTO),
    "text.max_tokens": number(32, 3, 512),  # longer captions are truncated
    "text.lowercase": Field(False),  # lower-case and strip accents, even for a cased model; to compare with NRCCR
    "text.length_multiple": number(8, 0, 512),  # words are padded to a multiple of it; 0: always to max_tokens
    "text.pack": Field(True),  # trained layers: short captions share a row; changes no result
    "text.remat": Field(False),  # trained layers: recompute activations in the backward pass to save memory
    "text.scan": Field(True),  # trained layers: one compiled layer in a loop; False compiles longer, may run faster
    # Vision backbone; its outputs are cached if it is frozen
    "vision.backbone": plugin("cl2cm_jax.models.backbones.vision", "efficientnet_lite0", also=("precomputed",)),
    # clip_vit (CLIP, SigLIP, OpenCLIP), dino (DINOv2, DINOv3), transformers (any other, frozen): a folder or hub id
    "vision.path": place(),
    "vision.image_size": number(0, 0, 4096),  # of the first two: pixels a side, positions interpolated; 0: model's own
    "vision.pool": choice("backbone", "tokens"),  # its global vector, or its grid, which an attention tower reads
    "vision.remat": Field(False),
    "vision.scan": Field(True),
    # Student: the cross-modal network, used alone at inference (paper)
    "student.dim": number(512, 1),  # D, the shared space
    "student.vision_tower": choice("linear", "attention"),  # attention: NRCCR, LECCR
    "student.text_tower": choice("linear", "attention"),
    "student.text_pool": choice("backbone", "mean", "both"),  # its sentence vector, the mean of its words, or both
    # start at the backbone's own sentence vectors, or global vectors of pictures; needs D = their size. With both of
    # them, of the towers of one model, the student is that model before its first step
    "student.text_residual": Field(False),
    "student.vision_residual": Field(False),
    "student.hidden": number(256, 1),  # width of the attention block
    "student.heads": number(4, 1, 64),
    "student.dropout": number(0.0, 0.0, 0.99),  # on the inputs of the towers
    # layers of the text backbone that it trains: "" (none) | "layers 3-11" (the rest is frozen and cached) | "all" |
    # "lora 8", low-rank adapters of all layers, here of rank 8 (arXiv 2106.09685) | "lora 8 layers 3-11"
    "student.text.trainable": Field(""),
    "student.text.dropout": number(0.1, 0.0, 0.99),  # after attention and MLP of these layers
    # steps before these layers begin to learn, e.g. "600", or "60%" of train.steps; until then the heads alone learn,
    # from the frozen backbone's cached outputs (as LP-FT, arXiv 2202.10054)
    "student.text.start": duration("0", minimum=0),
    # layers of the vision backbone (clip_vit, dino) that it trains, written as above; every step then reads pictures
    "student.vision.trainable": Field(""),
    "student.vision.crop": number(0.8, 0.01, 1.0),  # minimum share of the area that a random crop keeps; 1.0: no crop
    "student.vision.flip": Field(True),  # mirror half of the pictures; off for pictures with text
    # Teacher: the cross-lingual network (paper)
    "teacher.head": choice("none", "linear", "tower"),  # "none": the backbone's own vectors; "tower": attention
    "teacher.schedule": choice("frozen", "joint"),  # "frozen": trained in a first stage; "joint": with the student
    "teacher.steps": duration("50", of_training=False),  # length of the first stage, e.g. "100" or "10epochs"
    "teacher.learning_rate": number(0.0, 0.0),  # peak in the first stage; 0: optimizer.learning_rate
    "teacher.folds": number(1, 1, 16),  # 2 or more: cross-fitting; a head scores only rows that it was not trained on
    "teacher.residual": Field(True),  # start the head at the backbone's own vectors
    "teacher.pool": choice("both", "backbone", "mean"),  # as student.text_pool
    "teacher.dim": number(256, 1),  # size of the head's vectors, without teacher.residual
    "teacher.hidden": number(256, 1),
    "teacher.heads": number(4, 1, 64),
    "teacher.temperature": number(0.05, 1e-4),  # of its own sentence-level contrastive loss
    "teacher.text.trainable": Field(""),
    "teacher.text.dropout": number(0.1, 0.0, 0.99),
    # Contrastive loss
    "contrastive.loss": choice("infonce", "triplet", "sigmoid"),  # triplet: NRCCR
    # initial value (NRCCR, LECCR); 0: that of the model folder with both towers, of SigLIP its bias too
    "contrastive.temperature": number(0.07, 0.0),
    "contrastive.learn_temperature": Field(True),
    "contrastive.margin": number(0.2, 0.0),  # triplet (NRCCR)
    "contrastive.reduction": choice("mean", "sum"),  # over the batch (NRCCR sums the triplet loss)
    "contrastive.labels": choice("uniform", "soft"),  # shares of an image's positives; soft: by confidence
    # how pairwise terms are computed; "blockwise": in tiles, sharded over the mesh; no B x B matrix exists
    "contrastive.form": choice("dense", "blockwise"),
    "contrastive.block": number(512, 1),  # side of a tile of the blockwise form
    "contrastive.exchange": choice("ring", "gather"),  # between devices: "ring" (least memory), "gather" (pods)
    # loss terms of your own: modules that define term(inputs), e.g. ("mine.uniformity",), each with its weight in
    # config.weights under the last part of its name, weights.uniformity (1.0 by default)
    "terms": plugin("cl2cm_jax.steps.terms", ()),
    # Weights of the terms
    "weights.source": weight("1.0"),  # contrastive(V, S) (NRCCR)
    "weights.target": weight("1.0"),  # contrastive(V, T), alpha (NRCCR: 0.6)
    "weights.sentence": weight("1.0"),  # teacher: contrastive(S, T)
    "weights.word": weight("0.0"),  # teacher: word alignment by optimal transport
    "weights.transfer": weight("1.0"),  # relational distillation, teacher to student
    # keeps images and source captions near their vectors before training, 1 - cosine; needs both residual heads
    "weights.start": weight("0.0"),
    # Word-level alignment (paper: optimal transport, self-supervised; details are ours)
    # transport: <plan, cost>; self_labelled: a pointer from each word to its mutual best match; contrast: InfoNCE over
    # the word scores of a caption with the source captions whose sentence vectors are most similar to its own
    "word.loss": choice("transport", "self_labelled", "contrast"),
    "word.score": choice("late_interaction", "transport"),  # contrast: mean best cosine, or 1 - <plan, cost>
    "word.candidates": number(4, 2),  # contrast, transfer.word: source captions in these scores, its own included
    "word.temperature": number(0.05, 1e-4),  # contrast
    "word.dim": number(128, 1),  # contrast: size that words are projected to
    "word.solver": choice("ipot", "sinkhorn"),
    "word.iterations": number(50, 1),
    "word.beta": number(0.5, 1e-3),  # ipot: proximal weight
    "word.epsilon": number(0.05, 1e-4),  # sinkhorn: entropic regularisation
    "word.marginals": choice("uniform", "norm"),  # norm: mass in proportion to a word vector's length
    "word.plan_from": choice("tower", "backbone"),  # the words that the plan is computed from
    # Transfer. "cross" learns from a weighted sum of similarities: the teacher's S-T between sentences, and the
    # student's own V-S, from which its V-T learns (no gradient into V-S)
    "transfer.relations": choices(("cross",), of=("cross", "intra_target", "intra_vision")),
    "transfer.sentence": number(1.0, 0.0),  # weight of the teacher's S-T
    "transfer.own": number(0.0, 0.0),  # weight of the student's V-S
    "transfer.temperature": number(0.05, 1e-4),  # tau_p, of the teacher's rows
    "transfer.student_temperature": number(0.05, 1e-4),  # tau_q, of the student's rows
    "transfer.word": number(0.0, 0.0),  # weight of the word score in "cross"; needs word.loss="contrast"
    # Beyond the paper: a wrong translation counts less in contrastive(V, T), by the teacher's p_ii in the batch
    # ("softmax"), or by a mixture per language ("posterior")
    "confidence.kind": choice("none", "softmax", "posterior"),
    # Training
    "train.batch_size": number(256, 2),  # images in a step, over all devices
    "train.steps": duration("300", of_training=False),  # "300" | "20epochs" | "50000examples"
    "train.targets_per_image": Field(1),  # K target captions per image and step; -1: one in every language (1-to-K)
    "train.compute": choice("float32", "bfloat16"),  # towers, backbone layers; parameters, scores, losses stay fp32
    "train.accumulation": number(1, 1),  # micro-batches per step; the gradient is that of the whole batch
    "train.evaluate_every": duration("50"),  # time between validations
    "train.early_stop": number(0, 0),  # stop after this many validations in a row without improvement; 0: never
    "train.select": choice("best", "last"),  # parameters for the test split: "best" on validation
    # of a run that starts at a model (residual heads, --init): a step at which a language has lost more than this share
    # of its SumR on validation is not selected; 1.0: off
    "train.max_forgetting": number(0.05, 0.0, 1.0),
    # of such a run: so many evenly spaced steps from the weights at the start to the selected ones, of which the best
    # on validation is kept (WiSE-FT, arXiv 2109.01903); 10: shares 0, 0.1 ... 1; 0: off
    "train.interpolations": number(0, 0, 100),
    "train.ema": number(0.0, 0.0, 0.999999),  # decay of averaged parameters, which are evaluated instead; 0: off
    "train.log_every": duration("20"),
    "train.checkpoint_every": duration("100"),
    "train.keep": number(2, 1),  # newest checkpoints to keep, in addition to the best one
    "train.watchdog_seconds": number(300.0, 0.0),  # dump all stacks when no step completes for this long
    # AdamW
    "optimizer.learning_rate": number(1e-3, 0.0),
    "optimizer.backbone_rate": number(0.1, 0.0),  # rate of a backbone's trained layers, relative to the others'
    "optimizer.warmup": duration("5%", minimum=0),
    "optimizer.schedule": choice("cosine", "constant"),
    "optimizer.weight_decay": number(0.01, 0.0),  # decoupled
    "optimizer.exclude": Field(r"(bias|scale|temperature|positions)$"),  # parameters without weight decay
    "optimizer.clip": number(1.0, 0.0),  # global gradient norm; 0: off
    "optimizer.b1": number(0.9, 0.0, 0.999999),
    "optimizer.b2": number(0.999, 0.0, 0.999999),
    # Devices along each axis of the mesh; -1: the rest
    "mesh.data": Field(-1),
    "mesh.fsdp": Field(1),
    "mesh.tensor": Field(1),
    # Evaluation
    "evaluation.evaluators": plugin("cl2cm_jax.evaluation.evaluators", ("retrieval",)),
    "evaluation.captions_per_image": choice("all", "first"),  # papers use both; every table states which
    "evaluation.query": choice("target", "fused"),  # fused: mixed with its translation (NRCCR); needs "de2en" captions
    "evaluation.fusion_weight": number(0.5, 0.0, 1.0),  # fused: weight of the translation's score (NRCCR)
    "evaluation.batch_size": number(512, 1),
    "evaluation.block": number(1024, 1),  # rows and columns of a tile of scores
    "evaluation.pictures": Field(("en", "de", "fr", "ru", "ar", "zh", "ja", "ko")),  # languages in retrieval.png
}
PLACES = tuple(name for name, field in FIELDS.items() if field.is_place)
DURATIONS = tuple(name for name, field in FIELDS.items() if field.minimum_steps is not None)


def defaults() -> ConfigDict:
    """The default of every field: CL2CM on frozen backbones with cached features."""
    config = ConfigDict()
    for name, field in FIELDS.items():
        *groups, leaf = name.split(".")
        section = config
        for group in groups:
            if group not in section:
                section[group] = ConfigDict()
            section = section[group]
        section[leaf] = field.default
    return config


def current_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A flattened configuration, fields of earlier versions under their present names, languages by their one code."""
    current = {OLD_NAMES.get(name, name): value for name, value in flat.items()}
    return current | {name: _one_code(current[name]) for name in LANGUAGES if name in current}


def _one_code(value: Any) -> Any:
    """A language code or several in their canonical form; `validate` refuses what is neither."""
    if isinstance(value, tuple | list):
        return type(value)(canonical(code) if isinstance(code, str) else code for code in value)
    return canonical(value) if isinstance(value, str) else value
