import io
import json
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CorruptObject, NotFound
from shared.shards import Sample, class_number, pack, read_index, read_sample, unpack


def sample(slot: int, jpeg: bytes = b"jpeg", **metadata: str) -> Sample:
    return Sample(f"n00000001_{slot:08d}", slot, jpeg, 1, {"slot": slot, **metadata})


@given(st.dictionaries(st.integers(0, 10**6), st.binary(max_size=1500), max_size=20))
def test_every_sample_comes_back_by_range_reads_and_in_order(jpegs: dict[int, bytes]) -> None:
    data = pack([sample(slot, jpeg) for slot, jpeg in jpegs.items()])
    assert [(slot, jpeg) for slot, jpeg, _ in unpack(data)] == sorted(jpegs.items())
    for slot, jpeg in jpegs.items():
        assert read_sample(lambda at, length: data[at : at + length], slot) == (jpeg, {"slot": slot})


def test_order_of_drawing_does_not_change_the_bytes() -> None:
    samples = [sample(slot, bytes([slot]) * 700) for slot in range(5)]
    assert pack(samples) == pack(samples[::-1])


def test_index_of_a_full_shard_fits_the_head() -> None:
    data = pack([sample(slot, b"x" * 60_000) for slot in range(1_000_000, 1_000_128)])
    assert len(read_index(data[:65_536])) == 128


def test_standard_tar_sees_three_plain_members_a_sample() -> None:
    with tarfile.open(fileobj=io.BytesIO(pack([sample(7)]))) as tar:
        members = tar.getmembers()
    assert [(m.name, m.mtime, m.uid, m.mode) for m in members] == [
        (f"n00000001_00000007.{end}", 0, 0, 0o644) for end in ("jpg", "cls", "json")
    ]


def test_webdataset_reads_the_shard(tmp_path: object) -> None:
    path = f"{tmp_path}/shard.tar"
    with open(path, "wb") as file:
        file.write(pack([sample(0, prompt="zero"), sample(1, prompt="zero")]))
    rows = list(webdataset.WebDataset(path, shardshuffle=False, empty_check=False))
    assert [row["__key__"] for row in rows] == ["n00000001_00000000", "n00000001_00000001"]
    assert [row["cls"] for row in rows] == [b"1", b"1"]
    assert json.loads(rows[0]["json"]) == {"prompt": "zero", "slot": 0}


def test_a_slot_that_is_not_there_is_not_found() -> None:
    data = pack([sample(3)])
    with pytest.raises(NotFound, match="slot 4"):
        read_sample(lambda at, length: data[at : at + length], 4)


def test_a_shard_cut_between_members_is_corrupt() -> None:
    data = pack([sample(0, b"x" * 600), sample(1, b"y" * 600)])
    with pytest.raises(CorruptObject, match="slot 1"):
        list(unpack(data[: len(data) // 2]))


def test_bytes_that_are_no_tar_are_corrupt() -> None:
    with pytest.raises(CorruptObject):
        read_index(b"not a tar" * 200)


def test_class_numbers_are_wordnet_offsets_or_follow_from_the_key() -> None:
    assert class_number("n02012849", "n02012849-0123456789ab") == 2012849
    assert class_number("my-cat", "my-cat-ffffffff0000") == 0x7FFFFFFF
