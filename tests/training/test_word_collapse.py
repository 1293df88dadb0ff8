"""What training does to words on real text: the contrast keeps them apart, the cost of a plan makes them one."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from cl2cm_jax.config import override_all, read
from cl2cm_jax.data.captions import CaptionTable, by_split
from cl2cm_jax.data.corpus import text_inputs
from cl2cm_jax.data.readers.parallel_text import read_parallel
from cl2cm_jax.features.cache import Corpora
from cl2cm_jax.maths.similarity import normalize
from cl2cm_jax.maths.word_alignment import mean_word_cosine
from cl2cm_jax.models.towers import Text
from cl2cm_jax.studies.text_features import parallel_text_corpora
from cl2cm_jax.studies.word_alignment.teacher_training import train_teacher
from cl2cm_jax.training.experiment import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "multi30k"
FIELDS = {
    "data.targets": "de",
    "text.max_tokens": "24",
    "word.iterations": "10",
    "teacher.steps": "60",
    "train.steps": "60",
    "train.evaluate_every": "60",
    "train.batch_size": "64",
    "optimizer.learning_rate": "0.01",
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Corpora:
    if not REAL.is_dir():
        pytest.skip("../shared/data/multi30k is not there: no real text to train on")
    table = read_parallel(REAL, languages=("en", "de"), limit=256)
    kept = [row for rows in by_split(table.rows).values() for own in list(rows.values())[:64] for row in own]
    train = [row for row in table.rows if row.split == "train"]
    table = CaptionTable(train + [row for row in kept if row.split != "train"])
    fields = FIELDS | {"data.dir": str(tmp_path_factory.mktemp("words"))}
    return parallel_text_corpora(read(str(ROOT / "configs" / "word_level.py"), fields), table)


def alike(corpora: Corpora, **word: str) -> float:
    """Mean cosine of two words of a test sentence after a short training of the teacher."""
    config = read(str(ROOT / "configs" / "word_level.py"), FIELDS)
    run = build(override_all(config, {f"word.{name}": value for name, value in word.items()}), corpora)
    taught = train_teacher(run)
    rows = corpora.test.captions_of("en")
    text = Text(**text_inputs(corpora.test.text, rows, length=24, with_words=True))
    words = jax.jit(run.networks.encode_teacher)(taught.params, text).words
    assert words is not None and text.mask is not None
    mask = np.asarray(text.mask)
    return float(mean_word_cosine(normalize(words[0]) * mask[..., None], mask).mean)


@pytest.mark.parametrize("score", ["late_interaction", "transport"])
def test_the_contrastive_word_loss_keeps_words_distinct(corpora: Corpora, score: str) -> None:
    cosine = alike(corpora, loss="contrast", score=score)
    assert cosine < 0.5


def test_the_transport_cost_collapses_words(corpora: Corpora) -> None:
    cosine = alike(corpora, loss="transport")
    assert cosine > 0.9
