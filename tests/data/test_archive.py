"""Archives come out whole, and nothing in them leaves its folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

import pytest
from bioaudio_data.archive import unpack

CONTENT = {"a.txt": b"alpha", "deep/er/b.bin": bytes(range(256)) * 999, "empty": b""}

TAR_MODES: dict[str, Literal["w:", "w:gz", "w:xz", "w:bz2"]] = {
    ".tar": "w:",
    ".gz": "w:gz",
    ".tgz": "w:gz",
    ".xz": "w:xz",
    ".bz2": "w:bz2",
}


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
        for name, content in members.items():
            container.writestr(name, content)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, TAR_MODES[path.suffix]) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_tar_member(path: Path, info: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(info)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_refused(archive: Path, message: str) -> None:
    before = set(archive.parent.rglob("*"))
    with pytest.raises(ValueError, match=message):
        unpack(archive, archive.parent / "out" / "data", progress=False)
    assert set(archive.parent.rglob("*")) - before <= {archive.parent / "out"}, "something was left behind"


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.tar.xz", "x.tar.bz2", "x.zip"])
def test_an_archive_comes_out_as_it_went_in(tmp_path: Path, name: str) -> None:
    (write_zip if name.endswith(".zip") else write_tar)(tmp_path / name, CONTENT)
    out = unpack(tmp_path / name, tmp_path / "out", progress=False)
    assert listing(out) == CONTENT


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil", "\\evil"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    archive = tmp_path / f"x.{kind}"
    (write_zip if kind == "zip" else write_tar)(archive, {"fine": b"1", name: b"2"})
    assert_refused(archive, "would leave its folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    write_tar_member(tmp_path / "x.tar.gz", info)
    assert_refused(tmp_path / "x.tar.gz", "neither file nor folder: 'link'")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as container:
        container.writestr(info, "/etc")
    assert_refused(tmp_path / "x.zip", "neither file nor folder: 'link'")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.xz", "x.tar", "x.zip"])
def test_a_cut_archive_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    (write_zip if name.endswith(".zip") else write_tar)(archive, CONTENT)
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    assert_refused(archive, f"{name} is damaged")


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(ValueError, match=r"the name must end in \.tar\.gz"):
        unpack(tmp_path / "x.rar", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip does not exist"):
        unpack(tmp_path / "nothing.zip", tmp_path / "out")


def test_an_older_folder_is_not_overwritten(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", CONTENT)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"")
    with pytest.raises(FileExistsError, match="out exists already"):
        unpack(tmp_path / "x.zip", tmp_path / "out", progress=False)
    assert listing(tmp_path / "out") == {"mine": b""}
