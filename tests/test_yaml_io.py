"""YAML is read strictly, in bounded time and memory, and its errors are one line."""

import pytest
import yaml

import zoo
from zoo.core import yaml_io
from zoo.core.errors import MAX_MESSAGE, ZooError, one_line
from zoo.core.yaml_io import parse_yaml, read_yaml

PLAIN = {
    # What everybody reads alike.
    "12": 12,
    "-3": -3,
    "+5": 5,
    "0": 0,
    "2.5": 2.5,
    "1.0e-05": 1e-5,
    ".5": 0.5,
    "-.inf": float("-inf"),
    "true": True,
    "False": False,
    "~": None,
    "null": None,
    "": None,
    "'9'": "9",
    "[1, a]": [1, "a"],
    "{a: {b: 1}}": {"a": {"b": 1}},
    "{a: &x [1], b: *x}": {"a": [1], "b": [1]},
    "{<<: {b: 1}, c: 2}": {"b": 1, "c": 2},
    # Octal, base 60, digits in groups, words for truth, dates: text, whose meaning the schema decides.
    **{word: word for word in ("017", "-010", "12:30:45", "1:30", "1_000", "0x10", "0b11", "0o17", "1e3")},
    **{
        word: word
        for word in ("yes", "No", "on", "OFF", "y", "2020-13-45", "2020-01-01", "2001-12-14t21:59:43.10-05:00")
    },
}


@pytest.mark.parametrize(("text", "value"), PLAIN.items())
def test_plain_words_mean_what_everybody_reads(text, value):
    result = parse_yaml(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "value", [word for word in PLAIN.values() if isinstance(word, str)] + [1e-5, 1e22, 10**20, -0.1]
)
def test_what_is_written_is_read_again(value):
    assert parse_yaml(yaml.safe_dump({"a": value, str(value): 1})) == {"a": value, str(value): 1}


def nested_aliases(depth):
    lists = ["&l0 [x, x, x, x, x, x, x, x, x, x]"]
    lists += [f"&l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, depth)]
    return f"[{', '.join(lists)}]"


REFUSED = {
    "growing aliases": (nested_aliases(9), "more than 100,000 values, aliases included"),
    "an alias in itself": ("&a [*a]", "an alias that contains itself"),
    "an unknown alias": ("*a", "undefined alias"),
    "deep lists": ("[" * 60 + "]" * 60, "nested deeper than 50"),
    "very deep lists": ("[" * 100_000, "nest"),
    "deep mappings": ("{a: " * 60 + "1" + "}" * 60, "nested deeper than 50"),
    "many keys": ("\n".join(f"k{i}: 1" for i in range(200_001)), "more than 100,000 values"),
    "an int that is none": ("!!int x", "'x' is no int"),
    "an int in base 60": ("!!int 1:30", "'1:30' is no int"),
    "a float that is none": ("!!float x", "'x' is no float"),
    "a bool that is none": ("!!bool maybe", "'maybe' is no bool"),
    "a date that is none": ("!!timestamp 2020-13-45", "stands for no plain value"),
    "binary": ("!!binary '!'", "stands for no plain value"),
    "a set": ("!!set {a}", "stands for no plain value"),
    "code": ("!!python/object/apply:os.system [ls]", "stands for no plain value"),
    "more digits than Python reads": ("9" * 5000, "4300 digits"),
    "a key twice": ("{a: 1, a: 2}", "'a' stands twice"),
    "a list as a key": ("? [a]\n: 1", "a key that is not a word"),
    "two documents": ("1\n---\n2", "another document"),
    "a null character": ("\x00", "control characters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_plain_data_is_refused_in_one_line(case, tmp_path):
    text, message = REFUSED[case]
    with pytest.raises(yaml.YAMLError) as caught:
        parse_yaml(text)
    assert message in yaml_io.yaml_problem(caught.value)
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ZooError, match="is not YAML") as caught:
        read_yaml(path)
    assert message in str(caught.value)
    if len(text) < 100_000:
        with pytest.raises(ZooError, match="the value is not YAML") as caught:
            zoo.load_recipe("multires-28", [f"train.batch={text}"])
        assert len(one_line(caught.value)) < MAX_MESSAGE + 100


def test_files_that_are_no_text_or_too_large_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "r.yaml"
    for content in ("a: é".encode("latin-1"), "a: 1".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(ZooError, match="is not YAML"):
            read_yaml(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1")  # a byte order mark
    assert read_yaml(path) == {"a": 1}
    monkeypatch.setattr(yaml_io, "MAX_BYTES", 3)
    with pytest.raises(ZooError, match="is larger than"):
        read_yaml(path)


SETTINGS = {
    # What a person meant, ...
    "train.kimg=017": ("train", "kimg", 17.0),
    "train.kimg=1_000": ("train", "kimg", 1000.0),
    "train.kimg=2e1": ("train", "kimg", 20.0),
    "data.xflip=yes": ("data", "xflip", True),
    "data.xflip=Off": ("data", "xflip", False),
    "speed.compile=no": ("speed", "compile", False),
    # ... or a refusal.
    "train.batch=017": "train.batch: must be a whole number or a list of .* not '017'",
    "train.batch=1_000": "train.batch: must be a whole number",
    "train.batch=8.0": "train.batch: must be a whole number",
    "train.kimg=12:30:45": "train.kimg: must be a number, not '12:30:45'",
    "train.kimg=0x10": "train.kimg: must be a number, not '0x10'",
    "train.kimg=2020-01-01": "train.kimg: must be a number",
    "data.xflip=maybe": "data.xflip: must be true or false",
    "data.xflip=1": "data.xflip: must be true or false",
    # Lengths and sizes that overflow.
    "train.kimg=1e-9": "train.kimg: must be at least 0.001",
    "train.kimg=1e308": "train.kimg: must be at least 0.001 and at most 1e\\+09",
    "train.kimg=.inf": "train.kimg: must be a finite number",
    "train.kimg=" + "9" * 400: "train.kimg: must be",
    "train.batch=" + "9" * 400: "train.batch: must be .* not a whole number of more digits than can be shown",
    "train.seed=" + "9" * 30: "train.seed: must be at least",
    "generator.width=1e308": "generator.width: must be above 0 and at most 64",
    "data.resolution=1000000000": "data.resolution: must be at least 8 and at most 8192",
    "data.channels=1000000000": "data.channels: must be at least 1 and at most 1024",
    "name=" + "a" * 5000: "name: must be letters",
    # Values of any size in a message of one short line.
    "train.batch=[" + "[1, 2], " * 2000 + "]": "train.batch: must be a whole number or a list of .* not",
    "train.precision=" + "x" * 5000: "train.precision: must be one of",
    "x" * 5000 + "=1": "unknown key",
    "generator.arch=[dcgan]": "generator.arch: must be one of",
    "penalties={r1: {weight: [[0, 1], [0, 2]]}}": "penalties.r1.weight: must be",
}


@pytest.mark.parametrize("text", SETTINGS, ids=[text[:30] for text in SETTINGS])
def test_settings_are_read_as_meant_or_refused(text):
    expected = SETTINGS[text]
    if isinstance(expected, tuple):
        section, key, value = expected
        assert getattr(getattr(zoo.load_recipe("multires-28", [text]), section), key) == value
        return
    with pytest.raises(ZooError, match=expected) as caught:
        zoo.load_recipe("multires-28", [text])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["\ud800", "a\udcffb", "[\udcff]"])
def test_settings_that_are_no_text_are_refused(text):
    """As bytes of the command line that are no UTF-8 come in."""
    with pytest.raises(ZooError, match=r"the value is not YAML \(not text in UTF-8\)"):
        zoo.load_recipe("multires-28", [f"train.init_from={text}"])
