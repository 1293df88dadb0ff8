from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from support.flipped_bits import flipped_bits
from support.small_files import no_file_larger_than

from cl2cm_jax.errors import UserError
from cl2cm_jax.evaluation import report
from cl2cm_jax.evaluation.report import (
    Group,
    Protocol,
    Results,
    evaluator_tables,
    language_table,
    rank_tables,
    read_report,
    read_results,
    report_tables,
    summarise,
    text_report,
    to_json,
    weakest,
    write_results,
)
from cl2cm_jax.evaluation.retrieval import DIRECTIONS
from cl2cm_jax.evaluation.table import RULE, Table

NAMES = [f"{d}/R@{k}" for d in ("text_to_vision", "vision_to_text") for k in (1, 5, 10)]
PROTOCOL = Protocol("test", 300, {"en": 900, "de": 300, "zh": 300})


def values(base: float) -> dict[str, float]:
    recalls = {name: base + step for step, name in enumerate(NAMES)}
    ranks = {f"{d}/{name}": base / 2 for d in DIRECTIONS for name in ("median_rank", "mean_rank", "mAP")}
    return {**recalls, **ranks, "SumR": sum(recalls.values())}


TEST = {"en": values(50), "de": values(30), "zh": values(20)}


def results() -> Results:
    apart = Group({"fa": values(3)}, Protocol("test", 300, {"fa": 300}))
    flags = Group({"en": values(7), "de": values(5)}, Protocol("test", 40, {"en": 80, "de": 40}))
    return Results(
        source="en", targets=("de", "zh"), protocol=PROTOCOL, test=TEST, validation=TEST,
        config={"seed": 1, "train": {"rate": np.float32(0.5)}}, seconds={"training": 12.5},
        groups={"untrained by the text backbone": apart, "flags": flags},
    )  # fmt: skip


def test_mean_and_gap() -> None:
    summary = summarise(TEST, source="en", targets=("de", "zh"))
    assert summary["mean_target"]["text_to_vision/R@1"] == 25
    assert summary["mean_target"]["SumR"] == 6 * 25 + 15
    assert summary["language_gap"] == 6 * 50 + 15 - (6 * 25 + 15)
    assert summarise({"de": values(1)}, source="en", targets=("de",))["language_gap"] is None


def test_the_weakest_language_is_named_beside_its_number_and_its_protocol() -> None:
    assert summarise(TEST, source="en", targets=("de", "zh"))["weakest_target"] == "zh"
    assert weakest({"de": values(3), "fr": values(3)}, ("fr", "de")) == "fr"  # the first of equals
    headline, alone, flags = report_tables(results())
    assert headline.notes[1:] == ("weakest of 2 targets: zh, SumR 135.0", PROTOCOL.line)
    assert flags.notes[0] == "weakest of 2 languages: de, SumR 45.0"
    assert len(alone.notes) == 1  # one language is not the weakest of any
    assert not any("weakest" in note for table in rank_tables(results()) for note in table.notes)


def test_protocol_is_named_in_full() -> None:
    for part in ("text-to-vision", "vision-to-text", "test split", "300 images", "1,500 captions in 3 languages",
                 "captions_per_image=all", "ties against us", "query=target"):  # fmt: skip
        assert part in PROTOCOL.line
    fused = Protocol("test", 1, {"de": 1}, captions_per_image="first", query="fused", fusion_weight=0.25)
    assert "captions_per_image=first" in fused.line and "query=fused, fusion_weight=0.25" in fused.line
    assert "1 language," in fused.line and fused.as_dict()["fusion_weight"] == 0.25


def test_every_table_names_its_protocol_and_groups_have_their_own() -> None:
    tables = report_tables(results())
    assert [table.rows[0][0] for table in tables] == ["en (source)", "fa", "en"]
    for table, images in zip(tables, (300, 300, 40), strict=True):
        assert any(f"{images} images" in note for note in table.notes)
    assert "untrained by the text backbone" in text_report(results())
    assert not any("fa" in row[:1] for row in tables[0].rows)


def test_ranks_and_average_precision_have_tables_of_their_own_in_both_directions() -> None:
    tables = rank_tables(results())
    assert [table.rows[0][0] for table in tables] == ["en (source)", "fa", "en"]
    for table, images in zip(tables, (300, 300, 40), strict=True):
        assert table.columns[1:] == ("t2v MedR", "t2v MeanR", "t2v mAP", "v2t MedR", "v2t MeanR", "v2t mAP")
        assert f"{images} images" in table.notes[-1] and "captions_per_image=all" in table.notes[-1]
    assert tables[0].rows[-1] == ("mean of 2 targets", *["12.5"] * 6)
    assert "mAP" not in text_report(results())  # the terminal shows recalls alone


def test_a_column_of_words_is_left_aligned() -> None:
    table = Table("t", ("name", "n", "why"), (("a", "1", "so"), ("b", "22", "because")), words=("why",))
    assert table.text().splitlines()[4] == "a      1  so"
    assert "| --- | ---: | --- |" in table.markdown()


def test_language_table_reads_as_text_and_as_markdown() -> None:
    table = language_table(TEST, source="en", targets=("de", "zh"), protocol=PROTOCOL, title="Retrieval")
    text, markdown = table.text(), table.markdown()
    assert re.search(r"^mean of 2 targets +25\.0 +26\.0 +27\.0 +28\.0 +29\.0 +30\.0 +165\.0$", text, re.MULTILINE)
    assert "| zh | 20.0 | 21.0 | 22.0 | 23.0 | 24.0 | 25.0 | 135.0 |" in markdown
    assert "language gap (en SumR - mean target SumR): 150.0" in text
    assert PROTOCOL.line in text and PROTOCOL.line in markdown
    assert "t2v R@1" in text and "v2t R@10" in text


def test_table_escapes_pipes_and_draws_rules() -> None:
    table = Table("t", ("name", "n"), (("a|b", "1"), RULE, ("c", "22")))
    assert r"| a\|b | 1 |" in table.markdown()
    assert table.text().splitlines() == [
        "t",
        "--------",
        "name   n",
        "--------",
        "a|b    1",
        "--------",
        "c     22",
        "--------",
    ]


def test_layout_of_results_json_and_md(tmp_path) -> None:
    json_path, markdown_path = write_results(tmp_path, results())
    content = json.loads(json_path.read_text(encoding="utf-8"))
    assert {"protocol", "test", "validation", "mean_target", "language_gap", "config", "seconds"} <= set(content)
    assert content["test"]["zh"]["SumR"] == 135
    assert content["weakest_target"] == "zh"
    assert content["protocol"]["ties"] == "against us"
    assert content["config"]["train"]["rate"] == 0.5
    assert content["groups"]["flags"]["test"]["de"]["text_to_vision/R@1"] == 5
    markdown = markdown_path.read_text(encoding="utf-8")
    assert markdown.count("**Reported apart") == 2 and markdown.count("mAP, reported apart") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checksums.json", "results.json", "results.md"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    write_results(tmp_path, results())
    before = (tmp_path / "results.json").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError):
        write_results(tmp_path, results())
    assert (tmp_path / "results.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_results_json_is_written_last(tmp_path, monkeypatch) -> None:
    written = []
    monkeypatch.setattr(report, "write_checked", lambda path, _: written.append(path.name))
    write_results(tmp_path, results())
    assert written == ["results.md", "results.json"]  # the second marks the workdir as finished


def test_every_flipped_bit_of_the_results_is_seen(tmp_path) -> None:
    write_results(tmp_path, results())
    for name, read in (("results.json", read_results), ("results.md", read_report)):
        for _ in flipped_bits(tmp_path / name, count=40):
            with pytest.raises(UserError, match=rf"{name} changed after it was written.*--mode=evaluate"):
                read(tmp_path)
    assert read_report(tmp_path) == (tmp_path / "results.md").read_text(encoding="utf-8")


def test_a_full_disk_names_the_file(tmp_path) -> None:
    with no_file_larger_than(100), pytest.raises(OSError, match=r"File too large: '.*results\.md'"):
        write_results(tmp_path, results())
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("results")]


def test_json_is_strict() -> None:
    assert json.loads(to_json({"a": float("nan"), "b": np.int64(3), "c": (True, None)})) == {
        "a": None,
        "b": 3,
        "c": [True, None],
    }


def test_few_images_are_named_beside_their_numbers(tmp_path) -> None:
    small = dataclasses.replace(results(), protocol=Protocol("test", 8, {"en": 8, "de": 8, "zh": 8}))
    note = "only 8 images: one more hit is 12.5 points of a recall"
    headline, alone, flags = report_tables(small)
    assert any(line.startswith(note) for line in headline.notes)
    assert not any("only" in line for line in alone.notes)  # of 300 images
    assert any(line.startswith("only 40 images: one more hit is 2.5 points") for line in flags.notes)
    assert note in text_report(small) and small.protocol.notes[0].startswith(note)
    further = dataclasses.replace(small, evaluators={"mine": {"test": {"de": {"hits": 1.0}}, "validation": {}}})
    assert evaluator_tables(further)[0].notes[0].startswith(note)
    write_results(tmp_path, small)
    assert note in (tmp_path / "results.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "results.json").read_text())["protocol"]["notes"][0].startswith(note)
    assert "only" not in " ".join(report_tables(results())[0].notes)
