from __future__ import annotations

import errno
import hashlib
import io
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from objectwise.core import UserError
from objectwise.data import download
from objectwise.data.download import DOWNLOADS, Download, RemoteFile, fetch

CONTENT = {"a.gz": bytes(range(256)) * 1000, "b.gz": b"labels" * 50}


class Server:
    """A file server that can misbehave: `faults` are consumed one per request for a file."""

    def __init__(self) -> None:
        self.content = dict(CONTENT)
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/mnist/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        name = handler.path.removeprefix("/mnist/")
        self.requests.append((name, wanted))
        fault = self.faults.pop(0) if self.faults else ""
        if fault.isdigit() or name not in self.content:
            handler.send_error(int(fault or 404))
            return
        body = self.content[name]
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and fault != "ignore range" else 0  # type: ignore[index]
        if fault == "other range":
            start = 0
        if start >= len(body):
            handler.send_error(416)
            return
        handler.send_response(206 if wanted and fault != "ignore range" else 200)
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        handler.wfile.write(body[start : start + 100_000] if fault == "break" else body[start:])
        handler.close_connection = True

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    files = tuple(RemoteFile(name, len(data), hashlib.md5(data).hexdigest()) for name, data in CONTENT.items())
    monkeypatch.setitem(DOWNLOADS, "mnist", Download(files, (running.url,)))
    yield running
    running.close()


def fetched(folder: Path, **settings: object) -> list[float]:
    """Fetch, check the bytes, and return the waits between rounds."""
    waits: list[float] = []
    assert fetch("mnist", folder=folder, wait=waits.append, timeout=5, **settings) == folder  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    return waits


def test_table_of_mnist(shared_data: Path) -> None:
    """The official checksums and sizes agree with the real files at hand."""
    files = {file.name: file for file in DOWNLOADS["mnist"].files}
    assert len(files) == 4
    real = sorted((shared_data / "mnist").glob("*-ubyte.gz"))
    assert len(real) == 3
    for path in real:
        assert files[path.name].size == path.stat().st_size
        assert files[path.name].md5 == hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "folder", "least"),
    [("omniglot", "omniglot", 3), ("clevr-assets", "clevr_assets/image_generation/data", 7)],
)
def test_table_of_github_files(shared_data: Path, name: str, folder: str, least: int) -> None:
    """Checksums and sizes agree with the real files at hand; where one is at hand its size is known."""
    agree = 0
    for file in DOWNLOADS[name].files:
        assert re.fullmatch("[0-9a-f]{32}", file.md5)
        path = shared_data / folder / file.name
        if path.is_file():
            assert file.size == path.stat().st_size
            assert file.md5 == hashlib.md5(path.read_bytes()).hexdigest()
            agree += 1
    assert agree >= least
    assert all(url.startswith("https://raw.githubusercontent.com/") for url in DOWNLOADS[name].base_urls)


@pytest.fixture
def unsized(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The same files in sub-folders, their sizes not in the table."""
    server.content = {f"below/{name}": data for name, data in CONTENT.items()}
    files = tuple(RemoteFile(name, None, hashlib.md5(data).hexdigest()) for name, data in server.content.items())
    monkeypatch.setitem(DOWNLOADS, "mnist", Download(files, (server.url,)))
    return server


def test_sub_folders_and_unknown_sizes(unsized: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    unsized.faults = ["break", "break"]
    waits: list[float] = []
    fetch("mnist", folder=tmp_path, wait=waits.append, progress=lambda done, total: seen.append((done, total)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "below").iterdir()} == CONTENT
    assert unsized.requests[1] == ("below/a.gz", "bytes=100000-")
    assert waits == [1.0, 2.0]
    assert seen == sorted(seen)
    assert seen[-1] == (sum(map(len, CONTENT.values())),) * 2
    unsized.requests.clear()
    fetch("mnist", folder=tmp_path)
    assert unsized.requests == []


def test_wrong_bytes_of_unknown_size(unsized: Server, tmp_path: Path) -> None:
    unsized.content["below/a.gz"] = b"<html>please log in</html>"
    with pytest.raises(UserError, match=r"gave bytes with MD5 \w{32} instead"):
        fetch("mnist", folder=tmp_path, wait=lambda _: None)
    assert list((tmp_path / "below").iterdir()) == []


def test_complete_part_of_unknown_size(unsized: Server, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.gz.part").write_bytes(CONTENT["a.gz"])
    fetch("mnist", folder=tmp_path, wait=lambda _: None)
    assert (tmp_path / "below" / "a.gz").read_bytes() == CONTENT["a.gz"]


def test_plain_and_again(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert fetched(tmp_path, progress=lambda done, total: seen.append((done, total))) == []
    whole = sum(map(len, CONTENT.values()))
    assert seen == sorted(seen)
    assert seen[0] == (0, whole)
    assert seen[-1] == (whole, whole)
    server.requests.clear()
    fetched(tmp_path)
    assert server.requests == []


def test_default_folder_is_in_the_cache(server: Server, tmp_path: Path) -> None:
    assert fetch("mnist") == tmp_path / "cache" / "mnist"


def test_resumes_within_one_call(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "break"]
    assert fetched(tmp_path) == [1.0, 2.0]
    assert server.requests[:3] == [("a.gz", None), ("a.gz", "bytes=100000-"), ("a.gz", "bytes=200000-")]


def test_resumes_in_a_later_call(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "503", "503"]
    with pytest.raises(UserError, match=r"could not reach .*HTTP 503.*put a\.gz into .* yourself"):
        fetch("mnist", folder=tmp_path, rounds=3, wait=lambda _: None)
    assert (tmp_path / "a.gz.part").stat().st_size == 100_000
    assert not (tmp_path / "a.gz").exists()
    server.requests.clear()
    fetched(tmp_path)
    assert server.requests[0] == ("a.gz", "bytes=100000-")


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "ignore range"]
    assert fetched(tmp_path) == [1.0]


def test_server_that_sends_another_range(server: Server, tmp_path: Path) -> None:
    server.faults = ["break", "other range"]
    assert fetched(tmp_path) == [1.0, 2.0]


def test_damaged_part_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.gz.part").write_bytes(b"x" * 1000)
    assert fetched(tmp_path) == [1.0]
    assert [wanted for name, wanted in server.requests if name == "a.gz"] == ["bytes=1000-", None]


def test_oversized_part_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.gz.part").write_bytes(b"x" * 999_999)
    fetched(tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT["a.gz"]
    assert not (tmp_path / "a.gz.part").exists()


def test_wrong_bytes(server: Server, tmp_path: Path) -> None:
    server.content["a.gz"] = CONTENT["a.gz"][::-1]
    with pytest.raises(UserError, match=r"gave bytes with MD5 \w{32} instead of \w{32}, which were removed"):
        fetch("mnist", folder=tmp_path, wait=lambda _: None)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 1


def test_a_login_page_is_not_the_file(server: Server, tmp_path: Path) -> None:
    server.content["a.gz"] = b"<html>please log in</html>"
    with pytest.raises(UserError, match="is 26 bytes long, not 256000; it is not the file wanted"):
        fetch("mnist", folder=tmp_path, wait=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_missing_on_the_server(server: Server, tmp_path: Path) -> None:
    del server.content["a.gz"]
    with pytest.raises(UserError, match=r"a\.gz cannot be had \(HTTP 404\)"):
        fetch("mnist", folder=tmp_path, wait=lambda _: None)
    assert len(server.requests) == 1


def test_second_place_helps_out(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = DOWNLOADS["mnist"].files
    monkeypatch.setitem(DOWNLOADS, "mnist", Download(files, ("http://127.0.0.1:9/", server.url)))
    assert fetched(tmp_path) == []


def test_own_base_url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOWNLOADS, "mnist", Download(DOWNLOADS["mnist"].files, ("http://127.0.0.1:9/",)))
    fetched(tmp_path / "http", base_url=server.url.rstrip("/"))
    fetched(tmp_path / "file", base_url=(tmp_path / "http").as_uri())
    with pytest.raises(UserError, match="does not begin with http://"):
        fetch("mnist", folder=tmp_path, base_url="127.0.0.1/mnist")


def test_offline(tmp_path: Path) -> None:
    waits: list[float] = []
    with pytest.raises(
        UserError, match=r"could not reach http://127.0.0.1:9/ \(.*refused\).*put .* into .* yourself"
    ) as caught:
        fetch("mnist", folder=tmp_path, base_url="http://127.0.0.1:9/", wait=waits.append)
    assert waits == [1.0, 2.0, 4.0]
    assert "\n" not in str(caught.value)


def test_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_open_part", lambda part, mode: FullDisk(part, mode))
    with pytest.raises(UserError, match=r"the disk is full.*goes on from there"):
        fetch("mnist", folder=tmp_path)


def test_folder_that_cannot_be(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create the folder"):
        fetch("mnist", folder=tmp_path / "file" / "below")


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="there is no download 'mnits'; did you mean 'mnist'"):
        fetch("mnits")


def test_a_damaged_file_of_unknown_size_is_fetched_again(unsized: Server, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.gz").write_bytes(CONTENT["a.gz"][::-1])
    fetch("mnist", folder=tmp_path, wait=lambda _: None)
    assert (tmp_path / "below" / "a.gz").read_bytes() == CONTENT["a.gz"]
