"""Reading prompts from every kind of source, and what is said of bad ones."""

import json

import pytest

from alphasteer.errors import PromptError
from alphasteer.prompts import read_prompts

ROWS = [{"id": "a", "prompt": "One?", "category": "x"}, {"id": "b", "prompt": "Zwei – drei?"}]


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return str(path)


def parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)
    return str(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda d: write(d / "p.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n"),
        lambda d: write(d / "p.json", json.dumps(ROWS)),
        lambda d: write(d / "p.csv", "id,prompt,category\na,One?,x\nb,Zwei – drei?,\n"),
        lambda d: write(d / "p.tsv", "id\tprompt\na\tOne?\nb\tZwei – drei?\n"),
        lambda d: write(d / "p.txt", "One?\n\nZwei – drei?\n"),
        lambda d: parquet(d / "p.parquet"),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path, make):
    prompts = read_prompts(make(tmp_path))
    assert [p.text for p in prompts] == ["One?", "Zwei – drei?"]


def test_a_column_of_another_name_and_chats(tmp_path):
    path = write(tmp_path / "p.jsonl", json.dumps({"goal": "Do it", "x": 1}))
    assert read_prompts(f"{path}:goal").prompts[0].text == "Do it"
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    path = write(tmp_path / "c.jsonl", json.dumps({"messages": chat}))
    (prompt,) = read_prompts(path)
    assert prompt.messages == tuple(chat)
    assert prompt.text == "Go"
    reply = {"role": "assistant", "content": "As training data have it."}
    path = write(tmp_path / "t.jsonl", json.dumps({"messages": [*chat, reply], "prompt": "Hi"}))
    (prompt,) = read_prompts(path)
    assert prompt.messages == tuple(chat), "a prompt ends where a reply is due"


def test_duplicates_are_dropped_and_counted(tmp_path):
    prompts = read_prompts(write(tmp_path / "p.txt", "One\nTwo\n One \nThree\n"))
    assert ([p.text for p in prompts], prompts.dropped) == (["One", "Two", "Three"], 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "line 2: not valid JSON"),
        ("p.jsonl", '{"text": "a"}\n', "no column 'prompt' .it has text.*SPEC:COLUMN"),
        ("p.jsonl", '{"prompt": "  "}\n', "is empty"),
        ("p.jsonl", "[1]\n", "neither an object nor a text"),
        ("p.jsonl", '{"prompt": 3}\n', "no text and no chat"),
        ("p.jsonl", '{"messages": [{"role": "user", "content": null}]}\n', "a turn whose role or content is no text"),
        ("p.jsonl", '{"messages": [{"role": "assistant", "content": "Hi"}]}\n', "is empty"),
        ("p.jsonl", "", "holds no prompts"),
        ("p.json", '{"prompt": "a"}', "no JSON list"),
        ("p.xls", "a", "unknown file type"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name, content, message):
    with pytest.raises(PromptError, match=message):
        read_prompts(write(tmp_path / name, content))


def test_bytes_that_are_no_utf8_and_missing_files(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="UTF-8"):
        read_prompts(str(tmp_path / "p.txt"))
    with pytest.raises(PromptError, match="no such file"):
        read_prompts(str(tmp_path / "absent.jsonl"))
    with pytest.raises(PromptError, match="no starter set 'evil'"):
        read_prompts("starter:evil")
    with pytest.raises(PromptError, match="no such split"):
        read_prompts("starter:benign@train")


def test_one_file_of_a_hub_repository_is_read_as_it_is(tmp_path, monkeypatch):
    """Some data sets come with a script, which nothing runs any more; their files are there."""
    path, asked = tmp_path / "alpaca_eval.json", []
    path.write_text('[{"instruction": "one"}, {"instruction": "two"}]')

    def download(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = read_prompts("hub:tatsu-lab/alpaca_eval/alpaca_eval.json:instruction")
    assert [prompt.text for prompt in found] == ["one", "two"]
    assert asked == [("tatsu-lab/alpaca_eval", "alpaca_eval.json", "dataset")]

    def broken(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    with pytest.raises(PromptError, match="cannot be fetched"):
        read_prompts("hub:tatsu-lab/alpaca_eval/alpaca_eval.json:instruction")
