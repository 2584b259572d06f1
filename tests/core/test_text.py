"""Text to tokens and back; token files, mapped and cut into blocks."""

import os
import pickle

import numpy as np
import pytest

from phalanx.core.data import (
    DataLoader,
    Placement,
    TokenDataset,
    fingerprint,
    set_placement,
    text,
    tokenize_file,
    write_tokens,
)
from phalanx.core.errors import DataError, RangeError

LINES = "It's a good film.\nÄh, a bad film? A good one!\n"


@pytest.mark.parametrize("make", [text.ByteTokenizer, lambda: text.CharTokenizer(LINES)])
def test_there_and_back(make, tmp_path):
    tokenizer = make()
    tokens = tokenizer(LINES)
    assert tokens.dtype == np.int64 and tokens.min() >= 0 and tokens.max() < tokenizer.vocab_size
    assert tokenizer.decode(tokens) == LINES
    tokenizer.save(tmp_path / "tokenizer.json")
    assert (text.load_tokenizer(tmp_path / "tokenizer.json").encode(LINES) == tokens).all()


def test_vocabularies(tmp_path):
    known = text.Vocabulary.from_texts(LINES.splitlines(), min_count=2)
    assert known.tokens == ["<pad>", "<unk>", "a", "film", "good"]
    assert known.encode("A new, good film").tolist() == [2, 1, 1, 4, 3] and known.decode([2, 4]) == "a good"
    known.save(tmp_path / "v.json")
    assert (
        text.load_tokenizer(tmp_path / "v.json").encode("a film").tolist() == [2, 3] and len(known) == known["good"] + 1
    )
    assert text.Vocabulary.from_texts(["b a b"], max_size=1, specials=(), tokenize=str.split).tokens == ["b"]
    with pytest.raises(DataError, match="no <unk>"):
        text.Vocabulary(["a"]).encode("b")
    with pytest.raises(DataError, match="more than once"):
        text.Vocabulary(["a", "a"])
    with pytest.raises(DataError, match="character 'x' at place 2"):
        text.CharTokenizer("abc").encode("abx")
    (tmp_path / "other.json").write_text('{"kind": "BPE"}')
    with pytest.raises(DataError, match="kind 'BPE'"):
        text.load_tokenizer(tmp_path / "other.json")
    with pytest.raises(DataError, match="no tokenizer can be read"):
        text.load_tokenizer(tmp_path / "none.json")


def test_padding():
    rows = [[1], [2, 3, 4], []]
    assert text.pad_sequences(rows).tolist() == [[0, 0, 1], [2, 3, 4], [0, 0, 0]]
    assert text.pad_sequences(rows, 2, padding="post", truncating="post", value=9).tolist() == [[1, 9], [2, 3], [9, 9]]
    assert text.pad_sequences(rows, 2, dtype="float32").dtype == np.float32
    assert text.pad_sequences([], 0).shape == (0, 0) and text.pad_sequences([[1]], 0).shape == (1, 0)
    with pytest.raises(RangeError, match="padding"):
        text.pad_sequences(rows, padding="both")
    samples = [(np.arange(n), n % 2) for n in (3, 1, 4, 1, 5)]
    set_placement(Placement(0, 1, 2))
    try:
        batches = [batch for step in DataLoader(samples, 5, collate_fn=text.PadCollate(-1)).steps() for batch in step]
    finally:
        set_placement(Placement())
    assert [tokens.shape for tokens, _, _ in batches] == [(3, 4), (2, 5)]
    assert batches[0][0].tolist()[1] == [0, -1, -1, -1] and batches[0][1].tolist() == [3, 1, 4]
    assert batches[1][2].tolist() == [1, 1]
    assert text.PadCollate(maxlen=2)(samples)[1].tolist() == [2, 1, 2, 1, 2]


def test_blocks_of_several_files(tmp_path):
    whole = np.arange(1000, dtype=np.uint16)
    cuts = [whole[:401], whole[401:409], whole[409:]]
    paths = [tmp_path / f"{number}.bin" for number in range(3)]
    for path, part in zip(paths, cuts, strict=True):
        part.tofile(path)
    data = TokenDataset(paths, 16)
    expected = [part[start : start + 17] for part in cuts for start in range(0, len(part) - 16, 16)]
    assert len(data) == len(expected) == 25 + 36
    for index in (0, 24, 25, -1):
        x, y = data[index]
        assert (x.numpy() == expected[index][:-1]).all() and (y.numpy() == expected[index][1:]).all()
        assert x.dtype == np.int64
    seen = [row for x, _ in DataLoader(data, 7, shuffle=True, seed=1) for row in x.numpy()[:, 0].tolist()]
    assert sorted(seen) == [part[0] for part in expected]
    assert len(TokenDataset(paths[0], 16, stride=1)) == 401 - 16
    again = pickle.loads(pickle.dumps(data))  # as a worker process gets it
    assert (again[30][0].numpy() == data[30][0].numpy()).all() and len(pickle.dumps(data)) < 2000
    assert fingerprint(data) == fingerprint(again) != fingerprint(TokenDataset(paths, 15))
    with pytest.raises(IndexError):
        data[61]


def test_tokenized_files_say_what_they_are(tmp_path):
    (tmp_path / "text").write_text(LINES * 9)
    letters = tokenize_file(tmp_path / "text", tmp_path / "t.bin", "chars")
    data = TokenDataset(tmp_path / "t.bin", 10)
    assert data.dtype == np.uint8 and data.tokenizer.vocab_size == letters.vocab_size == len(set(LINES))
    assert data.tokenizer.decode(data[0][0]) == LINES[:10] and data.tokenizer.decode(data[0][1]) == LINES[1:11]
    assert write_tokens("añb", tmp_path / "b.bin").vocab_size == 256 and os.path.getsize(tmp_path / "b.bin") == 4
    many = text.Vocabulary([str(i) for i in range(70000)])
    write_tokens("5 69999", tmp_path / "w.bin", many)
    assert TokenDataset(tmp_path / "w.bin", 1)[0][1].tolist() == [69999]
    np.zeros(3, np.uint8).tofile(tmp_path / "odd.bin")
    for make, words in (
        (lambda: TokenDataset(tmp_path / "odd.bin", 1), "no whole number of uint16"),
        (lambda: TokenDataset(tmp_path / "odd.bin", 3, np.uint8), "no file has the 4 tokens.*longest has 3"),
        (lambda: TokenDataset(tmp_path / "none.bin", 3), "cannot be mapped"),
        (lambda: TokenDataset(tmp_path / "odd.bin", 1, np.uint8).tokenizer, "no tokenizer is noted"),
        (lambda: tokenize_file(tmp_path / "none", tmp_path / "x.bin"), "cannot be read as text"),
    ):
        with pytest.raises(DataError, match=words):
            make()
    for make in (
        lambda: TokenDataset(tmp_path / "odd.bin", 0),
        lambda: TokenDataset(tmp_path / "odd.bin", 1, np.float32),
        lambda: write_tokens("a", tmp_path / "x.bin", "words"),
    ):
        with pytest.raises(RangeError):
            make()
