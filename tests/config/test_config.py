from pathlib import Path

import pytest

from cl2cm_jax import config
from cl2cm_jax.errors import UserError
from cl2cm_jax.runtime import command_line

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path):
    assert config.flatten(config.read(str(path))).keys() == config.flatten(config.defaults()).keys()


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("train.bach_size", "3", "did you mean 'train.batch_size'"),
        ("train", "3", "is a group of fields"),
        ("train.batch_size", "abc", "must be a whole number"),
        ("optimizer.clip", "much", "must be a number"),
        ("contrastive.learn_temperature", "maybe", "must be True or False"),
        ("student.dropout", "2", "must be between 0 and 0.99"),
        ("train.batch_size", "1", "must be at least 2"),
        ("weights.transfer", "much", "must be 0 or more, or a schedule"),
        ("weights.word", "0:0 -5%:1", "must be 0 or more, or a schedule"),
        ("transfer.sentence", "0", "leave no relation to learn from"),
        ("teacher.head", "liner", "did you mean 'linear'"),
        ("transfer.relations", "cros", "did you mean 'cross'"),
        ("data.targets", "de,de", "named twice"),
        ("data.targets", "", "name at least one target language"),
        ("train.accumulation", "3", "not divisible by config.train.accumulation=3"),
        ("vision.backbone", "precomputed", "config.data.features"),
        ("data.features", "f.npy", "needs config.vision.backbone='precomputed', not 'efficientnet_lite0'"),
        ("student.heads", "0", "must be between 1 and 64"),
        ("optimizer.learning_rate", "inf", "must be a finite number"),
        ("data.translation_noise", "nan", "must be a finite number"),
        ("data.dir", "", "must name a folder"),
        ("data.train_origin", "humans", "did you mean 'human'"),
        ("data.train_share", "0", "must be between 1e-06 and 1"),
        ("data.engine", "deepl", "config.data.engine='deepl' is unknown"),
        ("data.name", "flickr8k_cn", "config.data.root='' must name the folder of the published files"),
        ("teacher.hidden", "0", "must be at least 1"),
        ("seed", "-1", "must be between 0 and"),
        ("text.max_tokens", "2", "must be between 3 and 512"),
        ("optimizer.exclude", "(", "is not a regular expression"),
        ("evaluation.query", "fuse", "did you mean 'fused'"),
        ("evaluation.fusion_weight", "1.5", "must be between 0 and 1"),
        (
            "student.text_tower",
            "attention",
            "config.student.text_pool='backbone' leaves the output of the",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(field, text, message):
    with pytest.raises(UserError) as error:
        changed = config.defaults()
        config.override(changed, field, text)
        config.validate(changed)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert f"config.{field.split('.')[0]}" in str(error.value)


def test_a_value_of_another_type_in_a_file_is_refused():
    changed = config.defaults()
    with changed.ignore_type():
        changed.train.batch_size = "many"
    with pytest.raises(UserError, match="config.train.batch_size='many' must be a whole number"):
        config.validate(changed)


def test_config_flags_are_split_from_the_command_line():
    given = ["--workdir=w", "--config.seed=3", "--config.data.targets", "de,fr", "--x"]
    rest, overrides = command_line.split_flags(given)
    assert rest == ["--workdir=w", "--x"]
    assert overrides == {"seed": "3", "data.targets": "de,fr"}
    for lacking in (["--config.seed"], ["--config.data.captions", "--mode=check"]):
        with pytest.raises(UserError, match="needs a value"):
            command_line.split_flags(lacking)


def test_a_flattened_config_round_trips():
    changed = config.defaults()
    config.override(changed, "data.targets", "de, fr")
    flat = {
        name: list(v) if isinstance(v, tuple) else v for name, v in config.flatten(changed).items()
    }  # as JSON has it
    assert config.differences(config.flatten(config.from_flat(flat)), config.flatten(changed)) == {}


@pytest.mark.parametrize(
    ("flat", "message"),
    [({"train.size": 3}, "config.train.size is not a field"), ({"train.batch_size": "x"}, "must be a whole number")],
)
def test_a_wrong_flattened_config_is_refused(flat, message):
    with pytest.raises(UserError, match=message):
        config.from_flat(flat)


def nested(value: object, levels: int = 900) -> object:
    for _ in range(levels):
        value = [value] if isinstance(value, list) else {"a": value}
    return value


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.targets", nested([]), "must be a list of names"),
        ("data.targets", nested({}), "must be a list of names"),
        ("terms", nested([]), "must be a list of names"),
        ("text.backbone", nested([]), "must be text"),
        ("student.dim", nested({}), "must be a whole number"),
        ("student.dim", 2**70, "must be between 1 and"),
        ("student.hidden", 10**400, "must be a finite number"),
        ("optimizer.learning_rate", 10**400, "must be a finite number"),
        ("train.steps", "9" * 4000, "is not a duration"),
        ("train.steps", "1" + " " * 4000 + "x", "is not a duration"),
        ("data.root", "a" * 4097, "has 4,097 characters; use at most 4,096"),
        ("data.targets", ["de"] * 1001, "has 1,001 items"),
        ("data.targets", ["d" * 5000], "has 5,000 characters"),
        ("text.path", "a\0b", "has NUL"),
        ("text.path", "\ud800", "half a character"),
        ("optimizer.exclude", "a{99999999999999999999}", "is not a regular expression"),
        ("optimizer.exclude", "(" * 3000, "has 3,000 characters"),
        ("optimizer.exclude", "(" * 150, "is not a regular expression"),
        ("optimizer.exclude", "(a*)*b", "could take very long"),
        ("optimizer.exclude", "(a|aa)+$", "could take very long"),
        ("optimizer.exclude", "a?" * 25 + "a" * 25, "could take very long"),
        ("optimizer.exclude", "(?x)(a|a) *b", "could take very long"),
        ("optimizer.exclude", "(?-i:(?ix:(a|a) *b))", "could take very long"),
        ("optimizer.exclude", "(.|.)" * 30 + "~", "could take very long"),
        ("optimizer.exclude", ".*[^|].*[^|].*[^|].*[^|].*~", "could take very long"),
        ("optimizer.exclude", r".*\|?.*\|?.*\|?.*~", "could take very long"),
        ("optimizer.exclude", ".*.*.*.*a|.*b", "could take very long"),
    ],
)
def test_a_field_of_a_strangers_config_takes_neither_time_nor_a_traceback(field, value, message):
    with pytest.raises(UserError, match=message) as error:
        config.from_flat(config.flatten(config.defaults()) | {field: value})
    assert str(error.value).startswith(f"config.{field}")


def test_limits_leave_room_for_what_is_in_use():
    used = {"seed": 2**32 - 1, "data.root": "/mnt/\udcff", "text.prompt": "\u67e5\u8be2: ", "optimizer.clip": 1e30}
    used |= {"optimizer.exclude": r"(?i)^teacher/.*(bias|scale)$|positions", "train.steps": "123456789012examples"}
    assert used.items() <= config.flatten(config.from_flat(config.flatten(config.defaults()) | used)).items()


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "bias",
        ".*bias.*|.*scale.*|.*norm.*",
        ".*/bias$|.*/scale$|.*norm.*/.*|.*embedding.*",
        "^(?:.*/)?(bias|scale)$",
        r"\.(bias|scale)$|layer_?norm|embeddings?/.*",
        "(?i)(bias|scale|(layer|batch)norm).*$",
    ],
)
def test_patterns_that_people_write_are_taken(pattern):
    changed = config.defaults()
    config.override_all(changed, {"optimizer.exclude": pattern})
    assert changed.optimizer.exclude == pattern


def test_a_teacher_tower_may_serve_the_word_term_alone():
    changed = config.defaults()
    config.override_all(changed, {"teacher.head": "tower", "teacher.pool": "backbone", "weights.word": "1.0"})
    with pytest.raises(UserError, match="config.teacher.pool='backbone' leaves"):
        config.override_all(changed, {"weights.word": "0"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"word.loss": "transport"}, "config.transfer.word=0.5 needs the word scores of config.word.loss='contrast'"),
        ({"teacher.pool": "backbone"}, "config.transfer.word=0.5 needs a teacher that reads words"),
        ({"transfer.relations": "intra_target"}, "config.transfer.word=0.5 is part of the relation 'cross'"),
        ({"word.plan_from": "backbone"}, "config.word.plan_from='backbone' is not for config.word.loss='contrast'"),
        ({"word.candidates": "1"}, "config.word.candidates=1 must be at least 2"),
        ({"transfer.word": "-1"}, "config.transfer.word=-1.0 must be at least 0"),
    ],
)
def test_word_scores_need_a_word_teacher_and_the_cross_relation(changes, message):
    whole = {"teacher.head": "linear", "word.loss": "contrast", "transfer.word": "0.5"}
    config.override_all(config.defaults(), whole)
    with pytest.raises(UserError, match=message):
        config.override_all(config.defaults(), whole | changes)


def test_a_baseline_has_no_word_scores():
    whole = {"teacher.head": "linear", "word.loss": "contrast", "transfer.word": "0.5", "method": "baseline"}
    assert config.effective(config.override_all(config.defaults(), whole)).transfer.word == 0


def test_a_set_of_pictures_takes_no_features():
    changes = {"vision.backbone": "precomputed", "data.features": "f.npy"}
    with pytest.raises(UserError, match="data.name='emoji' has pictures"):
        config.override_all(config.defaults(), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.beam_runner": "DirectRunner"}, "data.name='emoji' need no Beam"),
        ({"data.beam_options": "project=mine"}, "needs config.data.beam_runner"),
        ({"data.name": "captions"}, "config.data.shards a folder of webdataset shards"),
    ],
)
def test_beam_and_shards_belong_to_captions(changes, message):
    with pytest.raises(UserError, match=message):
        config.override_all(config.defaults(), changes)


def test_beam_options_are_separated_by_commas():
    changed = config.defaults()
    changes = {"data.name": "captions", "data.shards": "shards", "data.beam_runner": "DirectRunner"}
    config.override_all(changed, changes | {"data.beam_options": "project=mine,region=here"})
    assert changed.data.beam_options == ("project=mine", "region=here")


def test_a_name_of_an_earlier_version_is_accepted(tmp_path):
    assert config.override_all(config.defaults(), {"teacher.update": "joint"}).teacher.schedule == "joint"
    flat = config.flatten(config.defaults())
    old = {name: flat[name] for name in flat if name not in ("teacher.schedule", "evaluation.evaluators")}
    assert config.from_flat(old | {"teacher.update": "joint"}).teacher.schedule == "joint"
    text = (
        "from cl2cm_jax.config import defaults\ndef get_config():\n c = defaults()\n c.teacher%s = 'joint'\n return c\n"
    )
    for place in (".update", "['update']"):
        (tmp_path / "c.py").write_text(text % place)
        read = config.read(str(tmp_path / "c.py"))
        assert read.teacher.schedule == "joint"
        assert config.flatten(read).keys() == config.flatten(config.defaults()).keys()


def test_differences_are_named():
    changed = config.defaults()
    changed.seed = 4
    assert config.differences(config.flatten(changed), config.flatten(config.defaults())) == {"seed": (4, 0)}


def test_a_failing_or_missing_config_file_is_one_line(tmp_path):
    (tmp_path / "c.py").write_text("def get_config(argument=''):\n    raise ValueError('broken')\n")
    with pytest.raises(UserError, match="ValueError: broken"):
        config.read(str(tmp_path / "c.py"))
    with pytest.raises(UserError, match="no such file"):
        config.read(str(tmp_path / "none.py"))
