"""Downloads survive cuts, stubborn servers and changed files, and never leave a wrong file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bioaudio_data.download import download, download_source
from bioaudio_data.sources import GROUPS, SOURCES, Source, find_sources
from bioaudio_data.transfer import Patience
from bioaudio_recipes.cli import main
from data.flaky_server import Answer, FlakyServer, flaky_server

BODY = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
GOOD = Answer(body=BODY)
PATIENCE = Patience(attempts=3, pause=0.001, timeout=10)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    with flaky_server() as running:
        yield running


def get(server: FlakyServer, out: Path, *answers: Answer, sha256: str | None = SHA256) -> Path:
    server.answers["/big.bin"] = list(answers)
    (path,) = download(f"{server.address}/big.bin", out, sha256=sha256, patience=PATIENCE, progress=False)
    assert list(out.iterdir()) == [path], "something was left beside the file"
    return path


def test_a_file_comes_whole(server: FlakyServer, tmp_path: Path) -> None:
    assert get(server, tmp_path / "new" / "folder", GOOD).read_bytes() == BODY


def test_a_cut_transfer_goes_on_where_it_stopped(server: FlakyServer, tmp_path: Path) -> None:
    path = get(server, tmp_path, GOOD.but(cut=300_000), GOOD.but(cut=1), GOOD.but(cut=200_000), GOOD)
    assert path.read_bytes() == BODY
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_many_cuts_are_borne_as_long_as_bytes_come(server: FlakyServer, tmp_path: Path) -> None:
    assert get(server, tmp_path, *[GOOD.but(cut=60_000)] * 16, GOOD).read_bytes() == BODY


def test_a_server_without_etag_is_resumed_by_date(server: FlakyServer, tmp_path: Path) -> None:
    dated = GOOD.but(etag=None, last_modified="Mon, 02 Mar 2020 10:00:00 GMT")
    assert get(server, tmp_path, dated.but(cut=9), dated).read_bytes() == BODY
    assert server.requests[1][1] == "bytes=9-"


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_nothing_is_resumed_that_cannot_be_recognised(
    server: FlakyServer, tmp_path: Path, etag: str | None
) -> None:
    assert get(server, tmp_path, GOOD.but(etag=etag, cut=9), GOOD.but(etag=etag)).read_bytes() == BODY
    assert server.requests[1][1] is None


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: FlakyServer, tmp_path: Path) -> None:
    assert get(server, tmp_path, GOOD.but(cut=500_000), GOOD.but(ranges=False)).read_bytes() == BODY


@pytest.mark.parametrize("checks_condition", [True, False])
def test_a_file_that_changes_between_attempts_is_read_anew(
    server: FlakyServer, tmp_path: Path, checks_condition: bool
) -> None:
    old = Answer(body=BODY[::-1], etag='"v0"', cut=500_000)
    path = get(server, tmp_path, old, GOOD.but(checks_condition=checks_condition))
    assert path.read_bytes() == BODY


def test_a_file_that_shrank_is_read_anew(server: FlakyServer, tmp_path: Path) -> None:
    short = GOOD.but(body=BODY[:1000], checks_condition=False)
    sha256 = hashlib.sha256(BODY[:1000]).hexdigest()
    assert get(server, tmp_path, GOOD.but(cut=5_000), short, sha256=sha256).read_bytes() == BODY[:1000]


def test_an_answer_with_another_range_is_not_believed(server: FlakyServer, tmp_path: Path) -> None:
    assert get(server, tmp_path, GOOD.but(cut=500_000), GOOD.but(serves_from=5), GOOD).read_bytes() == BODY


@pytest.mark.parametrize("status", [500, 503, 429])
def test_passing_errors_are_waited_out(server: FlakyServer, tmp_path: Path, status: int) -> None:
    failing = GOOD.but(status=status)
    assert get(server, tmp_path, failing, failing, GOOD).read_bytes() == BODY


def test_a_later_call_goes_on_after_giving_up(server: FlakyServer, tmp_path: Path) -> None:
    message = r"the server answers 503 .*, 3 times in a row; 400000 bytes are kept"
    with pytest.raises(ConnectionError, match=message):
        get(server, tmp_path, GOOD.but(cut=400_000), GOOD.but(status=503))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.bin.partial", "big.bin.partial.json"]
    assert get(server, tmp_path, GOOD).read_bytes() == BODY
    assert server.requests[-1][1] == "bytes=400000-"


def test_what_was_kept_of_another_address_is_not_continued(server: FlakyServer, tmp_path: Path) -> None:
    (tmp_path / "big.bin.partial").write_bytes(BODY[::-1])
    (tmp_path / "big.bin.partial.json").write_text(
        '{"url": "http://127.0.0.1/big.bin", "etag": "\\"v1\\"", "last_modified": null, "size": 1000000}'
    )
    assert get(server, tmp_path, GOOD).read_bytes() == BODY


def test_a_process_killed_before_the_rename_does_not_fetch_again(server: FlakyServer, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        get(server, tmp_path, GOOD.but(cut=999_999), GOOD.but(status=503))
    with (tmp_path / "big.bin.partial").open("ab") as file:
        file.write(BODY[-1:])
    count = len(server.requests)
    assert get(server, tmp_path, GOOD).read_bytes() == BODY
    assert len(server.requests) == count


def test_a_corrupted_file_is_refused_and_removed(server: FlakyServer, tmp_path: Path) -> None:
    corrupt = GOOD.but(body=BODY[:77] + b"\0\0\0\0" + BODY[81:])
    with pytest.raises(ValueError, match=r"damaged and was removed: it has sha256 .* instead of") as error:
        get(server, tmp_path, corrupt)
    assert SHA256 in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_splice_of_two_versions_is_caught_by_the_checksum(server: FlakyServer, tmp_path: Path) -> None:
    liar = GOOD.but(body=BODY[::-1], cut=500_000)
    with pytest.raises(ValueError, match="damaged and was removed"):
        get(server, tmp_path, liar, GOOD)
    assert not list(tmp_path.iterdir())


def test_a_silent_server_is_asked_again(server: FlakyServer, tmp_path: Path) -> None:
    server.answers["/big.bin"] = [GOOD.but(stall=1.0), GOOD]
    hasty = Patience(attempts=2, pause=0.001, timeout=0.2)
    (path,) = download(f"{server.address}/big.bin", tmp_path, patience=hasty, progress=False)
    assert path.read_bytes() == BODY


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_named_and_not_retried(server: FlakyServer, tmp_path: Path) -> None:
    (tmp_path / "big.bin.partial").symlink_to("/dev/full")
    with pytest.raises(
        OSError, match=f"the disk of {tmp_path} is full after 0 bytes of {server.address}/big.bin"
    ):
        get(server, tmp_path, GOOD)
    assert len(server.requests) == 1
    assert not (tmp_path / "big.bin").exists()


def test_a_missing_file_is_not_asked_for_twice(server: FlakyServer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"big\.bin does not exist: the server answers 404"):
        get(server, tmp_path)
    assert len(server.requests) == 1


def test_a_refusal_is_not_asked_for_twice(server: FlakyServer, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="the server answers 403"):
        get(server, tmp_path, GOOD.but(status=403))
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with flaky_server() as gone:
        address = gone.address
    with pytest.raises(ConnectionError, match=f"{address}/x: .*refused.* 3 times in a row"):
        download(f"{address}/x", tmp_path, patience=PATIENCE, progress=False)


def test_a_whole_file_is_not_fetched_again(server: FlakyServer, tmp_path: Path) -> None:
    path = get(server, tmp_path, GOOD)
    assert get(server, tmp_path, GOOD) == path
    assert len(server.requests) == 1
    path.write_bytes(b"spoilt")
    with pytest.raises(ValueError, match=r"big\.bin exists but has sha256 .*; remove it"):
        get(server, tmp_path, GOOD)
    assert path.read_bytes() == b"spoilt"


@pytest.mark.parametrize("form", ["path", "url"])
def test_a_local_file_is_copied_and_checked(tmp_path: Path, form: str) -> None:
    original = tmp_path / "a name with spaces.bin"
    original.write_bytes(BODY)
    name = str(original) if form == "path" else original.as_uri()
    (copy,) = download(name, tmp_path / "out", md5=MD5, progress=False)
    assert (copy.name, copy.read_bytes()) == (original.name, BODY)
    with pytest.raises(ValueError, match="it has md5"):
        download(name, tmp_path / "other", md5="0" * 32, progress=False)
    assert not list((tmp_path / "other").iterdir())


def fill_mirror(folder: Path, *, whole: bool) -> None:
    for name in GROUPS["great-apes"]:
        content = name.encode() * 100
        place = folder / "goldenPath" / name / "bigZips"
        place.mkdir(parents=True)
        (place / f"{name}.fa.gz").write_bytes(content if whole or name != "gorGor6" else content[:-1])
        lines = [f"{'0' * 32}  other.fa.gz", f"{hashlib.md5(content).hexdigest()}  {name}.fa.gz"]
        (place / "md5sum.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("form", ["folder", "url"])
def test_the_great_apes_come_from_a_mirror(tmp_path: Path, form: str) -> None:
    fill_mirror(tmp_path / "mirror", whole=True)
    mirror = tmp_path / "mirror"
    paths = download(
        "great-apes",
        tmp_path / "out",
        mirror=str(mirror) if form == "folder" else mirror.as_uri(),
        progress=False,
    )
    assert [path.name for path in paths] == [
        f"{name}.fa.gz" for name in ("hg38", "panTro6", "panPan3", "gorGor6", "ponAbe3")
    ]
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)


def test_a_mirror_over_http_may_be_flat(server: FlakyServer, tmp_path: Path) -> None:
    server.answers = {
        "/files/hg38.fa.gz": [GOOD.but(cut=10), GOOD],
        "/files/md5sum.txt": [Answer(body=f"{MD5}  hg38.fa.gz\n".encode())],
    }
    mirror = server.address + "/files/"
    (path,) = download("human", tmp_path, mirror=mirror, patience=PATIENCE, progress=False)
    assert path.read_bytes() == BODY
    assert [name for name, _ in server.requests] == [
        *("/files/goldenPath/hg38/bigZips/md5sum.txt", "/files/md5sum.txt"),
        *["/files/goldenPath/hg38/bigZips/hg38.fa.gz"],
        *["/files/hg38.fa.gz"] * 2,
    ]


def test_a_damaged_mirror_is_refused(tmp_path: Path) -> None:
    fill_mirror(tmp_path / "mirror", whole=False)
    with pytest.raises(
        ValueError, match=r"gorGor6\.fa\.gz: what came is damaged and was removed: it has md5"
    ):
        download("gorilla", tmp_path / "out", mirror=str(tmp_path / "mirror"), progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_a_list_without_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "md5sum.txt").write_text("no checksums here\n")
    with pytest.raises(ValueError, match=r"has no line for hg38\.fa\.gz"):
        download("hg38", tmp_path / "out", mirror=str(tmp_path / "mirror"), progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_interval_files_are_known_by_their_rows(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    bed = tmp_path / "mirror" / "sequences_human.bed"
    bed.write_text("chr4\t50\t60\ttrain\nchr4\t10\t20\tvalid\n")
    source = Source(url="https://example.org/x/sequences_human.bed", split_rows={"train": 1, "valid": 1})
    path = download_source(source, tmp_path / "out", mirror=str(tmp_path / "mirror"), progress=False)
    assert path.read_bytes() == bed.read_bytes()
    with pytest.raises(ValueError, match=r"it has rows .*'train': 1.* instead of .*'train': 34021"):
        download("enformer-intervals", tmp_path / "other", mirror=str(tmp_path / "mirror"), progress=False)
    bed.write_text("<html>not found</html>\n")
    with pytest.raises(ValueError, match="it is no interval file"):
        download("enformer-intervals", tmp_path / "other", mirror=str(tmp_path / "mirror"), progress=False)


def test_names_stand_for_files_that_can_be_checked() -> None:
    for name in (*SOURCES, *GROUPS):
        for source in find_sources(name):
            assert source.url.startswith("https://")
            assert source.md5_list or source.split_rows or source.sha256
    assert SOURCES["hg38"].md5_list == "https://hgdownload.soe.ucsc.edu/goldenPath/hg38/bigZips/md5sum.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["neanderthal"], "unknown download 'neanderthal': choose one of hg38,"),
        (["ftp://example.org/x"], "must begin with http://, https:// or file://"),
        (["file:///no/such/file"], "/no/such/file does not exist"),
        (["hg38", "--md5", "0" * 32], "go with a URL or a path"),
        (["https://example.org/"], "names no file"),
    ],
)
def test_the_command_answers_bad_requests_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["download", *arguments, "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    assert message in error
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = tmp_path / "big.bin"
    original.write_bytes(BODY)
    main(["download", str(original), "--out", str(tmp_path / "out"), "--sha256", SHA256])
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'big.bin'}: 1,000,000 bytes, SHA-256 {SHA256}\n"
