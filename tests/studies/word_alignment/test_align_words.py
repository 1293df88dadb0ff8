"""The align-words command on a few dozen synthetic sentences, and its measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor
from support.command import call
from support.tiny_set import COLOURS, THINGS

from cl2cm_jax.evaluation.retrieval import load_ranks
from cl2cm_jax.studies.rows import run_folder
from cl2cm_jax.studies.word_alignment import __main__ as align_words
from cl2cm_jax.studies.word_alignment import plans
from cl2cm_jax.studies.word_alignment.ibm_model import fit, links
from cl2cm_jax.studies.word_alignment.plan_chart import DEEP, ShownPair, draw_plans, label
from cl2cm_jax.studies.word_alignment.runs import BEFORE, ROWS, SENTENCES_ONLY, TRANSPORT

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "word_level.py"
FRAMES = {
    "en": ["I see a {colour} {thing} over there today", "where is the {colour} {thing} of my sister"],
    "de": ["ich sehe dort heute {thing} {colour}", "wo ist {thing} {colour} meiner Schwester"],
    "fr": ["je vois aujourd'hui {thing} {colour} là-bas", "où est {thing} {colour} de ma soeur"],
}
PARTS = {"train": slice(0, 40), "val": slice(40, 52), "test": slice(52, 64)}
SHORT = (
    "--config.train.batch_size=8",
    "--config.teacher.steps=4",
    "--config.train.steps=4",
    "--config.train.evaluate_every=2",
    "--config.text.max_tokens=24",
    "--config.data.targets=de,fr",
)


def write_text(folder: Path) -> Path:
    """64 sentences in three languages, in an order that mixes colours, things and frames."""
    pairs = [(c, t, f) for c in COLOURS for t in THINGS for f in (0, 1)]
    pairs = [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]
    folder.mkdir()
    for place, language in enumerate(FRAMES):
        lines = []
        for colour, thing, frame in pairs:
            words = (colour, thing) if language == "en" else (COLOURS[colour][place - 1], THINGS[thing][place - 1])
            lines.append(FRAMES[language][frame].format(colour=words[0], thing=words[1]))
        for part, lines_of in PARTS.items():
            (folder / f"{part}.{language}").write_text("\n".join(lines[lines_of]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """A folder of results, the arguments that made it, and what was printed."""
    folder = tmp_path_factory.mktemp("words")
    text = write_text(folder / "text")
    arguments = [f"--text={text}", f"--config={CONFIG}", f"--out={folder / 'out'}", "--seeds=2", *SHORT]
    arguments.append(f"--config.data.dir={folder / 'data'}")
    outcome = call(align_words.main, *arguments)
    assert outcome.code == 0, outcome.err
    return folder / "out", arguments, outcome.out


@pytest.mark.slow
def test_every_row_is_trained_and_measured(finished: tuple[Path, list[str], str]) -> None:
    out, _, printed = finished
    table = (out / "word_level.md").read_text(encoding="utf-8")
    for name in ROWS:
        assert f"| {name} |" in table and name in printed
        for seed in (0, 1):
            folder = run_folder(out, name, seed)
            results = json.loads((folder / "results.json").read_text())
            assert results["step"] == (0 if name == BEFORE else results["step"]) <= 4
            ranks = load_ranks(folder / "ranks.npz")
            assert list(ranks) == ["de", "fr"] and len(ranks["de"].text_to_vision) == 12
    assert "Retrieval of 12 test sentences, en and fr" in table and "en-fr R@1" in table


@pytest.mark.slow
def test_untrained_vectors_do_not_depend_on_the_seed_and_training_changes_them(
    finished: tuple[Path, list[str], str],
) -> None:
    out, _, _ = finished

    def alike(name: str, seed: int) -> float:
        results = json.loads((run_folder(out, name, seed) / "results.json").read_text())
        return results["quality"]["de"]["alike"]

    assert alike(BEFORE, 0) == alike(BEFORE, 1)
    assert alike(SENTENCES_ONLY, 0) == alike(BEFORE, 0)  # its head makes no words
    untrained = (BEFORE, SENTENCES_ONLY)
    trained = [alike(name, seed) for name in ROWS if name not in untrained for seed in (0, 1)]
    assert len({alike(BEFORE, 0), *trained}) == 1 + len(trained)


@pytest.mark.slow
def test_a_plan_has_uniform_marginals(finished: tuple[Path, list[str], str]) -> None:
    out, _, _ = finished
    arrays = np.load(run_folder(out, BEFORE, 0) / "plans.npz")
    assert len(arrays.files) == len(plans.LANGUAGE_OF_PAIR)
    for name in arrays.files:
        m, n = arrays[name].shape
        assert np.allclose(arrays[name].sum(axis=1), 1 / m, atol=5e-3)
        assert np.allclose(arrays[name].sum(axis=0), 1 / n, atol=1e-5)


@pytest.mark.slow
def test_the_chart_has_every_pair(finished: tuple[Path, list[str], str]) -> None:
    with Image.open(finished[0] / "transport_plans.png") as picture:
        assert picture.width > 800 and picture.height > 5 * 150


@pytest.mark.slow
def test_finished_runs_are_not_repeated_but_a_missing_one_is(finished: tuple[Path, list[str], str]) -> None:
    out, arguments, printed = finished
    lost = run_folder(out, TRANSPORT, 1)
    kept = (run_folder(out, TRANSPORT, 0) / "results.json").stat().st_mtime_ns
    before = (lost / "results.json").read_text()
    (lost / "results.json").unlink()  # as a kill leaves it
    outcome = call(align_words.main, *arguments)
    assert outcome.code == 0 and [line.split(":")[0] for line in outcome.err.splitlines()] == [f"seed 1 {TRANSPORT}"]
    assert json.loads((lost / "results.json").read_text()) == json.loads(before)
    assert (run_folder(out, TRANSPORT, 0) / "results.json").stat().st_mtime_ns == kept
    assert outcome.out.splitlines()[:-1] == printed.splitlines()[:-1]


@pytest.mark.slow
def test_other_text_or_another_configuration_needs_another_workdir(
    finished: tuple[Path, list[str], str], tmp_path: Path
) -> None:
    _, arguments, _ = finished
    outcome = call(align_words.main, *arguments, "--config.optimizer.learning_rate=0.01")
    assert outcome.code == 2 and "optimizer.learning_rate" in outcome.err and outcome.err.count("\n") == 1
    outcome = call(align_words.main, *arguments, "--limit=30")
    assert outcome.code == 2 and "was trained on other data" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text=none"], "--text=none is not a folder"),
        (["--text=x", "--seeds=0"], "argument --seeds: '0'"),
        (["--text=x", "--limit=-1"], "--limit=-1 must be 0 or more"),
        (["--text=x", "--rows=sentence los"], "did you mean 'sentence loss'"),
        (["--text=x", "--config.teacher.folds=2"], "config.teacher.folds=2 trains several teachers; use 1"),
        (
            ["--text=x", "--config.teacher.update=joint"],
            "config.teacher.schedule='joint' does not train the teacher on its own",
        ),
        (["--text=x", "--config.weights.word=0.0"], "config.weights.word='0.0'"),
        ([], "--text"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    outcome = call(align_words.main, f"--config={CONFIG}", f"--out={tmp_path}", *arguments)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_the_ibm_model_links_words_that_occur_together() -> None:
    # 0 1 2 are translated by 10 11 12 in another order; 3 is translated by nothing
    source = [np.array(s) for s in ([0, 1, 3], [1, 2, 3], [2, 0, 3], [0, 3], [1, 3], [2, 3], [3, 2, 1, 0])]
    target = [np.array([10 + word for word in s[::-1] if word != 3]) for s in source]
    tables = fit(source, target), fit(target, source)
    found = links(*tables, np.array([0, 1, 2]), np.array([12, 10, 11]))
    assert sorted(map(tuple, found.tolist())) == [(0, 1), (1, 2), (2, 0)]
    assert len(links(*tables, np.array([7]), np.array([12]))) == 0  # never seen
    assert links(*tables, np.array([0, 0, 1]), np.array([10, 11])).tolist() == [[2, 1]]  # which 0 is meant?


def test_probabilities_of_a_source_word_sum_to_one() -> None:
    table = fit([np.array([0, 1]), np.array([0])], [np.array([5, 6]), np.array([5])])
    assert np.allclose(table.of(np.array([0, 1]), np.array([5, 6])).sum(axis=1), 1)


def test_plan_quality_counts_links_equal_words_and_mutual_ones() -> None:
    source, target = ["▁Boston", "▁dog", "▁a", "."], ["▁ein", "▁Boston", ".", "▁Hund"]
    same = plans._same(source, target)
    assert same.tolist() == [[0, 1], [3, 2]]
    linked = np.array([[1, 3], [2, 0]])
    rows = np.arange(1)
    pairs = plans.Pairs(rows, rows, [source], [target], [linked], [same])
    plan = np.array([[0, 0.25, 0, 0], [0, 0, 0, 0.25], [0, 0, 0.2, 0.05], [0.05, 0, 0.2, 0]])
    measured = plans.plan_quality([plan], [0.5], pairs)
    assert measured == plans.Quality(linked=50.0, linked_mass=50.0, same=100.0, mutual=75.0, alike=50.0)


def test_labels_mark_pieces_that_continue_a_word() -> None:
    assert [label(piece) for piece in ("▁dog", "s", "##s", ".", "▁")] == ["dog", "-s", "-s", ".", "_"]


def test_a_chart_of_one_pair_is_darkest_where_the_mass_is(tmp_path: Path) -> None:
    plan = np.array([[0.5, 0.0], [0.0, 0.5]])
    pair = ShownPair("de", ["▁red", "▁dog"], ["▁roter", "▁Hund"], {"before": plan}, np.zeros((0, 2), int))
    draw_plans(tmp_path / "plans.png", [pair], title="title", notes=("note",))
    with Image.open(tmp_path / "plans.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels[..., :3] == ImageColor.getrgb(DEEP)).all(axis=2).sum() >= 2 * 15**2
