"""The configs of the paper's sets train for one step on small copies of the published file trees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import paper_trees
from support.command import Outcome, call
from support.paper_trees import TEST, TRAIN, VALIDATION

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

from cl2cm_jax import main
from cl2cm_jax.config import read, read_argument
from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation.gallery import training_gallery
from cl2cm_jax.search import __main__ as search

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "text.max_tokens": 16,
    "student.text.trainable": "layers 1-2",
    "teacher.text.trainable": "layers 1-2",
    "student.dim": 8,
    "student.hidden": 8,
    "student.heads": 2,
    "teacher.hidden": 8,
    "teacher.heads": 2,
    "word.iterations": 3,
    "teacher.steps": 1,
    "train.steps": 1,
    "train.batch_size": 8,
    "train.evaluate_every": 1,
    "train.checkpoint_every": 1,
    "evaluation.batch_size": 8,
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paper_trees.write_bert(tmp_path_factory.mktemp("bert") / "bert")


def one_step(root: Path, bert: Path, config: str, *, mode: str = "train", **changes: object) -> Outcome:
    fields = SMALL | {"data.root": root, "data.dir": root / "data", "text.path": bert} | changes
    if "vision.backbone" not in fields:
        fields["vision.path"] = paper_trees.GOLDEN / "clip"
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    return call(
        main.main, f"--config={ROOT / 'configs' / config}", f"--workdir={root / 'run'}", f"--mode={mode}", *flags
    )


def results(root: Path) -> dict:
    return json.loads((root / "run" / "results.json").read_text())


@pytest.mark.slow
def test_multi30k(tmp_path: Path, bert: Path) -> None:
    paper_trees.write_multi30k(tmp_path)
    outcome = one_step(tmp_path, bert, "multi30k.py:lang=de,task=2", **{"evaluation.query": "fused"})
    assert outcome.code == 0, outcome.err
    assert "query=fused" in outcome.out
    assert set(results(tmp_path)["test"]) == {"en", "de"}
    assert "the train split has 8 images or videos, 29,000 as published" in outcome.err
    found = call(search.main, f"--workdir={tmp_path / 'run'}", "--json", "a de sentence")
    assert found.code == 0, found.err
    assert json.loads(found.out)[0]["results"][0]["path"].endswith(".jpg")


@pytest.mark.slow
def test_multi30k_without_english_evaluation_captions(tmp_path: Path, bert: Path) -> None:
    paper_trees.write_multi30k(tmp_path, task=1, languages=("fr", "cs", "de"), english=False)
    changes = {"vision.backbone": "precomputed", "data.features": "resnet_152", "text.lowercase": True}
    outcome = one_step(tmp_path, bert, "multi30k.py:lang=all,task=1", **changes)
    assert outcome.code == 0, outcome.err
    assert "the test split has no caption in 'en', which is not evaluated on it" in outcome.err
    assert set(results(tmp_path)["test"]) == {"de", "fr", "cs"} and results(tmp_path)["language_gap"] is None
    caches = set((tmp_path / "data" / "features").iterdir())
    outcome = one_step(
        tmp_path, bert, "multi30k.py:lang=all,task=1", mode="check", **changes | {"text.lowercase": False}
    )
    assert outcome.code == 0 and set((tmp_path / "data" / "features").iterdir()) > caches
    changes["confidence.kind"] = "posterior"
    outcome = one_step(tmp_path, bert, "multi30k.py:lang=fr,task=1", mode="check", **changes)
    assert outcome.code == 2 and "learns from validation captions in 'en'" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(("config", "language"), [("mscoco.py", "zh"), ("mscoco.py:lang=ja", "ja")])
def test_mscoco(tmp_path: Path, bert: Path, config: str, language: str) -> None:
    paper_trees.write_mscoco(tmp_path, language=language)
    outcome = one_step(tmp_path, bert, config)
    assert outcome.code == 0, outcome.err
    assert results(tmp_path)["protocol"]["captions"] == {language: 6}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "prefix", "features"),
    [("vatex.py", "vatex", "i3d_kinetics"), ("msrvtt_cn.py:lang=zh", "msrvtt10kcn", "resnext101-resnet152")],
)
def test_videos(tmp_path: Path, bert: Path, config: str, prefix: str, features: str) -> None:
    paper_trees.write_videos(tmp_path, folder=prefix, prefix=prefix, features=features)
    outcome = one_step(tmp_path, bert, config, **{"vision.backbone": "precomputed"})
    assert outcome.code == 0, outcome.err
    assert set(results(tmp_path)["test"]) == {"zh"}
    assert training_gallery(tmp_path / "run").ids == (*TRAIN, *VALIDATION, *TEST)
    found = call(search.main, f"--workdir={tmp_path / 'run'}", "--json", "--top=2", "a zh sentence")
    assert found.code == 0 and len(json.loads(found.out)[0]["results"]) == 2, found.err
    pictures = call(search.main, f"--workdir={tmp_path / 'run'}", f"--images={tmp_path}", "a")
    assert pictures.code == 2 and "cannot read pictures" in pictures.err


def test_missing_files_are_one_line(tmp_path: Path, bert: Path) -> None:
    (tmp_path / "vatex").mkdir()
    outcome = one_step(tmp_path, bert, "vatex.py", **{"vision.backbone": "precomputed"})
    assert outcome.code == 2 and len(outcome.err.strip().splitlines()) == 1
    assert "vatex lacks vatextrain.caption.txt, " in outcome.err and "published at https://" in outcome.err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("multi30k.py:lang=it", "config argument 'lang=it': lang is one of de, fr, cs, all"),
        ("multi30k.py:task=3", "config argument 'task=3': task is one of 2, 1"),
        ("multi30k.py:lnag=de", "config argument 'lnag=de' is unknown; did you mean 'lang'?, as in ':lang=de,task=2'"),
        ("multi30k.py:de", "config argument 'de' is unknown"),
        ("mscoco.py:lang=zh,lang=ja", "config argument 'lang=zh,lang=ja' names 'lang' twice"),
        ("mscoco.py:task=2", "config argument 'task=2' is unknown"),
        ("emoji.py:lang=de", "config argument 'lang=de': this config takes none; leave out ':lang=de'"),
        ("captions.py:x", "config argument 'x' is unknown; one of model, as in ':model=small'"),
    ],
)
def test_a_wrong_argument_is_one_line(config: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read(str(ROOT / "configs" / config))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_arguments() -> None:
    allowed = {"lang": ("de", "fr"), "task": ("2", "1")}
    assert read_argument("", **allowed) == {"lang": "de", "task": "2"}
    assert read_argument(" task=1, lang=fr", **allowed) == {"lang": "fr", "task": "1"}
    assert read_argument("") == {}
    assert read(str(ROOT / "configs" / "multi30k.py:lang=all,task=1")).data.targets == ("de", "fr", "cs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.root": ""}, "config.data.root='' must name the folder of the published files"),
        ({"data.source": "fr"}, "config.data.source='fr' must be 'en'"),
        ({"data.targets": "it"}, "config.data: 'mscoco' has no 'it'; one of zh, ja"),
        ({"data.targets": "zh,ja"}, "train one at a time"),
        ({"data.task": "3"}, "config.data.task=3 must be between 1 and 2"),
        ({"vision.backbone": "precomputed"}, "config.data.features='' must name the features"),
        ({"data.features": "resnet_152"}, "needs config.vision.backbone='precomputed', not 'clip_vit'"),
        ({"data.name": "vatex", "data.targets": "zh"}, "config.data.features='' must name a folder in FeatureData/"),
    ],
)
def test_invalid_fields_for_a_paper_set_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(str(ROOT / "configs" / "mscoco.py"), changes)
    assert message in str(error.value)
