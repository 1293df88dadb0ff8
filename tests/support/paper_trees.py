"""Writes small copies of the published file trees of the paper's sets: names, tags and quirks, with made-up content.

The names are written out here and not asked of the package, so that the tests compare two independent statements.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"
TRAIN, VALIDATION, TEST = (
    [f"10{i}" for i in range(8)],
    [f"20{i}" for i in range(3)],
    [f"30{i}" for i in range(3)],
)
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
FRAME_DIM, IMAGE_DIM = 6, 5
LONG_VIDEO = 70  # frames of the first one


def captions(file: Path, medias: Iterable[str], tag: str, *, each: int = 2, ending: str = "") -> None:
    """Lines "media#tag#k sentence"; the last one has no newline."""
    lines = [f"{media}{ending}#{tag}#{k} a {tag} sentence {k} of {media}" for media in medias for k in range(each)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines), encoding="utf-8")


def write_multi30k(root: Path, *, task: int = 2, languages: Sequence[str] = ("de",), english: bool = True) -> Path:
    """multi30k/ with TextData/, FeatureData/ (lists and ResNet features) and flickr30k-images/."""
    tree = root / "multi30k"
    text = tree / "TextData"
    for xx in languages:
        if task == 2:
            captions(text / "Flickr30ktrain_enc.caption.txt", TRAIN, "enc", ending=".jpg")
            captions(text / f"Flickr30ktrain_google_enc2{xx}.caption.txt", TRAIN, f"enc2{xx}")
            captions(text / f"Flickr30ktrain_google_enc2{xx}2enc.caption.txt", TRAIN, f"enc2{xx}2enc")
        else:
            captions(text / "multi30ktrain_enc.caption.txt", TRAIN, "enc", each=1)
            captions(text / f"multi30ktrain_google_enc2{xx}.caption.txt", TRAIN, f"enc2{xx}", each=1)
        end = "_task1" if task == 1 and xx == "de" else ""
        captions(text / f"multi30kval_{xx}{end}.caption.txt", VALIDATION, xx)
        captions(text / f"multi30kval_google_{xx}2enc{end}.caption.txt", reversed(VALIDATION), f"{xx}2enc")
        captions(text / f"multi30ktest_{xx}_2016{end}.caption.txt", TEST, xx)
        captions(text / f"multi30ktest_google_{xx}2enc_2016{end}.caption.txt", TEST, f"{xx}2enc")
    if english:
        captions(text / "multi30kval_en.caption.txt", VALIDATION, "en")
        captions(text / "multi30ktest_enc_2016.caption.txt", TEST, "enc")
    write_pictures(tree / "flickr30k-images", [f"{media}.jpg" for media in TRAIN + VALIDATION + TEST])
    write_image_features(tree / "FeatureData")
    return tree


def write_raw_multi30k(root: Path, *, task: int = 1, languages: Sequence[str] = ("en", "de")) -> Path:
    """A copy of the raw text's repository, and pictures beside it."""
    import gzip

    folder = root / "data" / f"task{task}"
    names = {1: ("train", "val", "test_2016_flickr"), 2: ("train", "val", "test_2016")}[task]
    for part, medias in zip(names, SPLITS.values(), strict=True):
        listed = folder / "image_splits" / (f"{part}.txt" if task == 1 else f"{part}_images.txt")
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{media}.jpg\n" for media in medias))
        (folder / "raw").mkdir(exist_ok=True)
        for language in languages:
            for stem in [part] if task == 1 else [f"{part}.{k}" for k in range(1, 6)]:
                content = "".join(f"{stem} {language} {media}\u2028\n" for media in medias)
                (folder / "raw" / f"{stem}.{language}.gz").write_bytes(gzip.compress(content.encode()))
    write_pictures(root / "flickr30k-images", [f"{media}.jpg" for media in TRAIN + VALIDATION + TEST])
    return root


def write_mscoco(root: Path, *, language: str = "zh") -> Path:
    """mscoco/ with TextData/, lists in FeatureData/, image_ids.txt and all_pics/."""
    tree, xx = root / "mscoco", language
    text = tree / "TextData"
    captions(text / "mscocotrain_enc.caption.txt", TRAIN, "enc")
    captions(text / f"mscocotrain_google_enc2{xx}.caption.txt", TRAIN, f"enc2{xx}")
    captions(text / f"mscocotrain_google_enc2{xx}2enc.caption.txt", TRAIN, f"enc2{xx}2enc")
    captions(text / f"mscocoval_{xx}.caption.txt", VALIDATION, xx)
    captions(text / f"mscocoval_google_{xx}2enc.caption.txt", VALIDATION, f"{xx}2enc")
    captions(text / ("mscocotest_zh.caption.txt" if xx == "zh" else "mscocotest_1k_ja.caption.txt"), TEST, xx)
    write_ids(tree / "FeatureData" / "train_id.txt", TRAIN)
    write_ids(tree / "FeatureData" / f"{xx}_val_id.txt", VALIDATION)
    write_ids(tree / "FeatureData" / f"{xx}_test_id.txt", TEST)
    everything = TRAIN + VALIDATION + TEST
    files = {media: f"COCO_val2014_{int(media):012}.jpg" for media in everything}
    (tree / "image_ids.txt").write_text("\n".join(f"{media} {file}" for media, file in files.items()))
    write_pictures(tree / "all_pics", files.values())
    return tree


def write_videos(root: Path, *, folder: str, prefix: str, features: str, each: int = 10, back: str = "zh2enc") -> Path:
    """vatex/ or msrvttcn/ with TextData/ and one folder of frame features."""
    tree = root / folder
    text = tree / "TextData"
    captions(text / f"{prefix}train.caption.txt", TRAIN, "enc", each=each, ending=".mp4")
    captions(text / f"{prefix}train_google_enc2zh.caption.txt", TRAIN, "enc2zh", each=each)
    captions(text / f"{prefix}train_google_enc2zh2enc.caption.txt", TRAIN, "enc2zh2enc", each=each)
    captions(text / f"{prefix}val_zh.caption.txt", VALIDATION, "zh", each=each)
    captions(text / f"{prefix}val_google_zh2enc.caption.txt", VALIDATION, "zh2enc", each=each)
    captions(text / f"{prefix}test_zh.caption.txt", TEST, "zh", each=each)
    captions(text / f"{prefix}test_google_{back}.caption.txt", TEST, back, each=each)
    write_frames(tree / "FeatureData" / features)
    return tree


def write_frames(folder: Path) -> None:
    """shape.txt, id.txt, feature.bin and video2frames.txt: 2 frames a video, `LONG_VIDEO` of the first one."""
    folder.mkdir(parents=True)
    videos = TRAIN + VALIDATION + TEST
    frames = {video: [f"{video}_{i}" for i in range(LONG_VIDEO if video == videos[0] else 2)] for video in videos}
    ids = [frame for names in frames.values() for frame in names]
    (folder / "shape.txt").write_text(f"{len(ids)} {FRAME_DIM}")
    (folder / "id.txt").write_bytes(" ".join(ids).encode("iso-8859-1"))
    frame_values(len(ids)).astype("<f4").tofile(folder / "feature.bin")
    (folder / "video2frames.txt").write_text(repr(frames))


def frame_values(number: int) -> np.ndarray:
    """What feature.bin holds: row i starts with i."""
    return np.arange(number, dtype=np.float32)[:, None] + np.linspace(0, 0.9, FRAME_DIM, dtype=np.float32)


def write_image_features(folder: Path, name: str = "resnet_152") -> None:
    """Id lists beside the feature folder, and its .npy files, one of float16."""
    parts = ("train", "val", "test_2016_flickr")
    lists = ("train_id.txt", "val_id.txt", "test_id_2016.txt")
    (folder / name).mkdir(parents=True)
    for part, listed, medias in zip(parts, lists, SPLITS.values(), strict=True):
        write_ids(folder / listed, medias)
        values = np.array([[float(media)] * IMAGE_DIM for media in medias])
        np.save(folder / name / f"{part}-{name}-avgpool.npy", values.astype("f2" if part == "val" else "f4"))


def write_ids(file: Path, medias: Iterable[str]) -> None:
    """One id a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{media}\n" for media in medias))


def write_pictures(folder: Path, names: Iterable[str]) -> None:
    """One small picture a name, no two alike."""
    folder.mkdir(parents=True)
    for index, name in enumerate(names):
        Image.new("RGB", (30, 26), (15 * index, 100, 50)).save(folder / name)


def write_bert(folder: Path) -> Path:
    """The small random BERT of the golden files, with a tokenizer of whole words."""
    import tokenizers

    shutil.copytree(GOLDEN / "bert", folder)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "sentence", "of", "#", "enc", "de", "fr", "zh", "ja", "2"]
    words += [str(number) for number in range(20)]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
