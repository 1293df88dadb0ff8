"""Every choice of a run, one comment a field.

A config file in `configs/` starts from `defaults()` and changes what it needs; the command line changes
single fields (`--config.train.batch_size=512`). Marks: (paper), (siblings) and (ours) say where a choice
comes from; the paper's own hyperparameters are not public, so those of its losses are ours.
"""

from __future__ import annotations

from ml_collections import ConfigDict


def defaults() -> ConfigDict:
    """The default of every field: CL2CM on frozen backbones with cached features."""
    c = ConfigDict()
    # "cl2cm" | "baseline": contrastive(V, S) and contrastive(V, T) without teacher, transfer, confidence and 1-to-K
    # (config/method.py)
    c.method = "cl2cm"
    c.seed = 0  # initial weights, order of examples, choice of captions, translation noise

    c.data = ConfigDict()
    # "emoji" | "captions" (your own pictures or clips) | "fluent" (animated emoji) | "stamps"
    # | "flickr8k_cn" (photographs) | the paper's sets: "multi30k" | "mscoco" | "vatex" | "msrvtt_cn"
    c.data.name = "emoji"
    c.data.dir = "data"  # built sets and cached features lie here
    c.data.source = "en"  # the language that the pictures were captioned in
    c.data.targets = ("de",)  # languages to search in; the headline numbers are their mean
    c.data.reported = ()  # trained and evaluated like targets, but kept out of the headline
    c.data.translation_noise = 0.0  # share of training targets swapped within their language (ours)
    # training captions of the targets by who wrote them: "any" | "machine" (paper: translations) | "human" (ceiling)
    c.data.train_origin = "any"
    c.data.train_share = 1.0  # share of the training pictures, chosen by a hash of their ids whatever the seed (ours)
    # fluent, stamps, flickr8k_cn, the paper's sets: the published files (the paper's: TextData/ and FeatureData/)
    c.data.root = ""
    c.data.engine = "baidu"  # flickr8k_cn: whose Chinese translations are read, "baidu" | "google"
    c.data.task = 2  # multi30k: 2 (five captions an image) | 1 (one)
    c.data.frames = 1  # captions, fluent: most frames of a clip, evenly spaced, at most 64; 1: pictures
    # captions: folder with the pictures; flickr8k_cn, the paper's sets: one other than the published
    c.data.images = ""
    # captions: CSV, TSV or JSONL (also .gz) with image, language, caption[, split[, origin]]; stamps: the translations;
    # flickr8k_cn: captions in further languages, or without data.root all of them
    c.data.captions = ""
    # instead of pictures; captions, flickr8k_cn: .npy of features, (n, d) or (n, frames, d); the paper's sets: name in
    # FeatureData/
    c.data.features = ""
    c.data.feature_ids = ""  # captions, flickr8k_cn: text file, the image id of each feature row
    c.data.shards = ""  # captions: webdataset tar shards instead of a folder; a folder, or a pattern "shards/*.tar"
    c.data.beam_runner = ""  # captions: "" | "DirectRunner", "DataflowRunner" ...: Apache Beam builds the set
    c.data.beam_options = ()  # of that runner, e.g. ("project=mine", "region=europe-west1")
    c.data.on_error = "stop"  # "stop" | "skip" (bad captions and pictures are listed in a report)

    c.text = ConfigDict()  # text backbone; what is frozen of it is run once and cached
    # "use_multilingual" | "e5_small" (multilingual E5; extra e5) | "bert" (mBERT, XLM-R, MiniLM ...; needs text.path)
    c.text.backbone = "use_multilingual"
    c.text.path = ""  # bert: a model folder of the Hugging Face layout, or a hub id; else weights not in the package
    c.text.prefix = ""  # put before every caption and query; E5's authors use "query: "
    c.text.max_tokens = 32  # longer captions are cut
    c.text.lowercase = False  # lower-case and strip accents, even for a cased model; to compare with the siblings
    c.text.length_multiple = 8  # words are padded to a multiple of it; 0: always to max_tokens
    c.text.pack = True  # trained layers: short captions share rows, which changes no result; False: one a row (ours)
    c.text.remat = False  # trained layers: compute activations again in the backward pass, to save memory
    c.text.scan = True  # trained layers: one compiled layer in a loop; False compiles longer and may run faster

    c.vision = ConfigDict()  # vision backbone; its outputs are cached if it is frozen
    c.vision.backbone = "efficientnet_lite0"  # "efficientnet_lite0" | "clip_vit" (needs vision.path) | "precomputed"
    c.vision.path = ""  # clip_vit (CLIP, SigLIP): a model folder of the Hugging Face layout, or a hub id
    c.vision.image_size = 0  # clip_vit: side of a picture in pixels, positions are interpolated; 0: the model's own
    c.vision.pool = "backbone"  # "backbone" (its global vector) | "tokens" (its grid, for vision_tower="attention")
    c.vision.remat = False  # trained layers: as text.remat
    c.vision.scan = True  # trained layers: as text.scan

    c.student = ConfigDict()  # cross-modal network; alone at inference (paper)
    c.student.dim = 512  # D, the shared space
    c.student.vision_tower = "linear"  # "linear" | "attention" (siblings)
    c.student.text_tower = "linear"  # "linear" | "attention" (siblings)
    c.student.text_pool = "backbone"  # "backbone" (its sentence vector) | "mean" (of words) | "both"
    c.student.text_residual = False  # start at the backbone's own sentence vectors; needs D = their size (ours)
    c.student.hidden = 256  # width of the attention block
    c.student.heads = 4
    c.student.dropout = 0.0  # on the towers' inputs
    c.student.text = ConfigDict()  # its own layers of the text backbone (tuned, and which ones: siblings)
    c.student.text.trainable = ""  # "" (none) | "layers 3-11" (the rest frozen, run once, cached) | "all"
    c.student.text.dropout = 0.1  # behind attention and MLP of these layers
    # steps of the student before these layers begin to learn, e.g. "600", or "60%" of train.steps; until then the heads
    # learn alone, on the frozen backbone's outputs, which are cached (as LP-FT, arXiv 2202.10054)
    c.student.text.start = "0"

    c.student.vision = ConfigDict()  # its own layers of the vision backbone (ours); pictures are read in every step
    c.student.vision.trainable = ""  # "" (none) | "layers 9-11" (the rest frozen) | "all"; of clip_vit
    c.student.vision.crop = 0.8  # least share of a picture's area that a random crop keeps; 1.0: no crop (ours)
    c.student.vision.flip = True  # half of the pictures left to right; off for pictures with text (ours)

    c.teacher = ConfigDict()  # cross-lingual network (paper)
    c.teacher.head = "none"  # "none" (the backbone's own vectors) | "linear" | "tower" (attention)
    c.teacher.update = (
        "frozen"  # "frozen" after a first stage | "joint" (read it as teacher["update"]: a method's name)
    )
    c.teacher.steps = "50"  # length of the first stage, e.g. "100" or "10epochs"; used by update="frozen"
    c.teacher.learning_rate = 0.0  # peak of its stage; 0: optimizer.learning_rate (ours)
    c.teacher.folds = 1  # 2 or more: cross-fitted, each row is scored by a head that did not train on it (ours)
    c.teacher.residual = True  # a head that starts at the backbone's own vectors (ours)
    c.teacher.pool = "both"  # as student.text_pool
    c.teacher.dim = 256  # without residual
    c.teacher.hidden = 256
    c.teacher.heads = 4
    c.teacher.temperature = 0.05  # of its own sentence-level contrastive loss
    c.teacher.text = ConfigDict()  # its own layers of the text backbone, as student.text
    c.teacher.text.trainable = ""
    c.teacher.text.dropout = 0.1

    c.contrastive = ConfigDict()
    c.contrastive.loss = "infonce"  # "infonce" | "triplet" (siblings: NRCCR) | "sigmoid"
    c.contrastive.temperature = 0.07  # initial value (siblings)
    c.contrastive.learn_temperature = True
    c.contrastive.margin = 0.2  # triplet (siblings)
    c.contrastive.reduction = "mean"  # "mean" | "sum" over the batch (siblings sum the triplet loss)
    c.contrastive.labels = "uniform"  # positives of an image: "uniform" | "soft" (by teacher confidence; ours)
    # of every term that couples all pairs: "dense" | "blockwise" (no B x B matrix exists; sharded over the mesh)
    c.contrastive.form = "dense"
    c.contrastive.block = 512  # side of a tile of the blockwise form
    c.contrastive.exchange = "ring"  # how its devices share images: "ring" (least memory) | "gather" (for pods)

    # loss terms of your own: modules that define term(inputs), e.g. ("mine.uniformity",), each with its weight in
    # config.weights under the last part of its name, weights.uniformity (1.0 where there is none)
    c.terms = ()
    c.weights = ConfigDict()  # of the terms: a number, or a schedule "0:0 20%:1" (step or share : value)
    c.weights.source = "1.0"  # contrastive(V, S) (siblings, as the next one)
    c.weights.target = "1.0"  # contrastive(V, T), alpha (siblings: 0.6)
    c.weights.sentence = "1.0"  # teacher: contrastive(S, T)
    c.weights.word = "0.0"  # teacher: word alignment by optimal transport
    c.weights.transfer = "1.0"  # relational distillation, teacher to student

    c.word = ConfigDict()  # word-level alignment (paper: optimal transport, self-supervised; details ours)
    # "transport" (<plan, cost>) | "self_labelled" (pointer at mutual best matches) | "contrast" (InfoNCE over the word
    # scores of a caption with the sources that the teacher's sentences confuse it with)
    c.word.loss = "transport"
    c.word.score = (
        "late_interaction"  # contrast: "late_interaction" (mean best cosine) | "transport" (1 - <plan, cost>)
    )
    c.word.candidates = 4  # contrast, transfer.word: sources a target caption is scored with by words, its own included
    c.word.temperature = 0.05  # contrast
    c.word.dim = 128  # contrast: size that words are projected to
    c.word.solver = "ipot"  # "ipot" | "sinkhorn"
    c.word.iterations = 50
    c.word.beta = 0.5  # ipot: proximal weight
    c.word.epsilon = 0.05  # sinkhorn: entropic regularisation
    c.word.marginals = "uniform"  # "uniform" | "norm" (mass by the word vector's length)
    c.word.plan_from = "tower"  # words that the plan is solved on: the "tower"'s or the "backbone"'s

    c.transfer = ConfigDict()
    c.transfer.relations = ("cross",)  # any of "cross", "intra_target", "intra_vision"
    # "cross" is taught by a sum of similarities, each with its weight (ours): the teacher's S-T between sentences, and
    # the student's own V-S, from which its V-T learns (no gradient into V-S)
    c.transfer.sentence = 1.0
    c.transfer.own = 0.0
    c.transfer.temperature = 0.05  # tau_k of the teacher's rows
    c.transfer.student_temperature = 0.05  # of the student's rows
    c.transfer.word = (
        0.0  # weight of the word score beside the sentence score in "cross" (ours); needs word.loss="contrast"
    )

    c.confidence = ConfigDict()  # beyond the paper: a wrong translation counts less in contrastive(V, T)
    c.confidence.kind = "none"  # "none" | "softmax" (teacher's p_ii in the batch) | "posterior" (mixture per language)

    c.train = ConfigDict()
    c.train.batch_size = 256  # images in a step, over all devices
    c.train.steps = "300"  # "300" | "20epochs" | "50000examples"
    c.train.targets_per_image = 1  # K target captions an image in a step; -1: every language (1-to-K; ours)
    c.train.compute = "float32"  # "float32" | "bfloat16": the towers' products; parameters, scores, losses stay fp32
    c.train.accumulation = 1  # micro-batches a step; features are cached, so the gradient is exact
    c.train.evaluate_every = "50"  # validation
    c.train.early_stop = 0  # stop after so many evaluations without a better validation SumR; 0: never
    c.train.select = "best"  # parameters for the test split: "best" on validation | "last"
    c.train.ema = 0.0  # decay of averaged parameters that are evaluated in place of the raw ones; 0: off
    c.train.log_every = "20"
    c.train.checkpoint_every = "100"
    c.train.keep = 2  # newest checkpoints to keep, beside the best
    c.train.watchdog_seconds = 300.0  # dump every thread's stack when no step completes for so long

    c.optimizer = ConfigDict()  # AdamW
    c.optimizer.learning_rate = 1e-3
    c.optimizer.backbone_rate = 0.1  # learning rate of a backbone's trained layers, as a share of the others' (ours)
    c.optimizer.warmup = "5%"
    c.optimizer.schedule = "cosine"  # "cosine" | "constant"
    c.optimizer.weight_decay = 0.01  # decoupled
    c.optimizer.exclude = r"(bias|scale|temperature|positions)$"  # parameters without weight decay
    c.optimizer.clip = 1.0  # global gradient norm; 0: off
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.999

    c.mesh = ConfigDict()  # devices along each axis; -1: what is left
    c.mesh.data = -1
    c.mesh.fsdp = 1
    c.mesh.tensor = 1

    c.evaluation = ConfigDict()
    c.evaluation.captions_per_image = "all"  # "all" | "first": two protocols in print; named in every table
    c.evaluation.query = "target"  # "target" | "fused" with its translation to the source (siblings); needs "de2en"
    c.evaluation.fusion_weight = 0.5  # fused: weight of the translation's score (siblings)
    c.evaluation.batch_size = 512
    c.evaluation.block = 1024  # side of a tile when ranks are counted
    c.evaluation.pictures = ("en", "de", "fr", "ru", "ar", "zh", "ja", "ko")  # languages shown in retrieval.png
    return c
