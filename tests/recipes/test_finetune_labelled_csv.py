"""Labelled sequences from a CSV: what is read, and what is refused, with file and line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bioaudio_data.vocabulary import DNA
from bioaudio_recipes.finetune.labelled_csv import LabelledSequences, read_labelled_csv
from bioaudio_recipes.finetune.sequence_task import SequenceTask


def read(tmp_path: Path, text: str | bytes, seed: int = 0) -> LabelledSequences:
    path = tmp_path / "task.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labelled_csv(path, test_fraction=0.25, seed=seed)


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    text = "\ufefflabel,Sequence,split\r\nb,acgtN,train\r\na,GG,test\r\nb,T,test\r\n\r\na,CC,train\r\n"
    data = read(tmp_path, text)
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [1, 0, 1, 0]
    assert [DNA.decode(data.sequence(row)) for row in range(4)] == ["ACGTN", "GG", "T", "CC"]
    assert data.rows("test").tolist() == [1, 2]
    assert data.longest == 5


def test_sequences_longer_than_a_csv_cell_may_usually_be(tmp_path: Path) -> None:
    data = read(tmp_path, f"sequence,label\n{'A' * 200_000},x\nC,x\nG,y\nT,y\n")
    assert data.longest == 200_000


def test_without_a_split_column_each_class_is_divided_alike(tmp_path: Path) -> None:
    text = "sequence,label\n" + "".join(f"ACGT,{'rare' if i % 5 == 0 else 'often'}\n" for i in range(100))
    data = read(tmp_path, text)
    rows = zip(data.labels.tolist(), data.splits.tolist(), strict=True)
    assert Counter(rows) == {(0, "train"): 60, (0, "test"): 20, (1, "train"): 15, (1, "test"): 5}
    assert np.array_equal(read(tmp_path, text).splits, data.splits)
    assert not np.array_equal(read(tmp_path, text, seed=1).splits, data.splits)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column sequence or label; the header has nothing"),
        ("seq,label\nA,x\n", "line 1: no column sequence; the header has seq, label"),
        ("sequence,label\n", "at least two labels, found no rows"),
        ("sequence,label\nA,x\nC,x\n", "at least two labels, found x"),
        ("sequence,label\nACGT,x\n,y\n", "line 3: the sequence is empty"),
        ("sequence,label\nACGT, \n", "line 2: the label is empty"),
        ("sequence,label\nACGR,x\n", "line 2: unknown letter 'R' at position 4; allowed are A C G T N"),
        ("sequence,label\nACGé,x\n", "line 2: unknown letter 'é' at position 4"),
        ("sequence,label\nACGT\n", "line 2: 1 cells, the header has 2"),
        ("sequence,label,split\nA,x,dev\n", "line 2: split 'dev'; allowed are train, valid, test"),
        ("sequence,label\nA,x\nC,y\nG,y\n", "label 'x' has one row"),
        ("sequence,label,split\nA,x,train\nC,y,train\nC,y,test\n", "label 'x' has no row in the test split"),
        ('sequence,label\n"ACGT,x\n', "line 2: unexpected end of data"),
        (b"sequence,label\nA\xff,x\n", "not text in UTF-8"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=r"task\.csv") as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_every_pass_reads_every_row_once(tmp_path: Path) -> None:
    text = "sequence,label\n" + "".join(f"{'A' * (i + 1)},{'xy'[i % 2]}\n" for i in range(20))
    task = SequenceTask(data=read(tmp_path, text))
    draw = task.training(20, seed=0)
    count = task.examples_per_epoch
    passes = [[len(draw(0, index)[0]) for index in range(k * count, (k + 1) * count)] for k in range(2)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert len(set(passes[0])) == count
    assert passes[0] != passes[1]
    assert len(draw(0, 3)[0]) == passes[0][3]


def test_length_below_the_longest_sequence_is_refused(tmp_path: Path) -> None:
    task = SequenceTask(data=read(tmp_path, "sequence,label\nAAAA,x\nC,x\nG,y\nT,y\n"))
    with pytest.raises(ValueError, match="--length 3 is shorter than the longest sequence, of 4 bases"):
        task.training(3, seed=0)
