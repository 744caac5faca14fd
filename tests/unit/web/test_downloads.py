"""Downloads by Ollama's routes: rights, streamed lines, deleted files. A test writes the child
that transfers nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.config import keys as api_keys
from proxy.downloads import download
from proxy.runtime import subprocesses
from tests.fakes import ScriptedDriver, client, services_of, wait_until

LIST = {
    "models": [
        {
            "name": "m-Q4_0",
            "quantization": "Q4_0",
            "files": [{"path": "m-Q4_0.gguf", "size": 100}],
        }
    ],
    "chosen": "m-Q4_0",
    "size": 100,
}
LINES = "root sk-root\nann sk-ann\nben sk-ben pull=true\n"
NAME = "hf.co/maker/m-GGUF:Q4_0"


class Site:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.folder = tmp_path / "models"
        self.folder.mkdir()
        self._program = tmp_path / "child.py"
        monkeypatch.setattr(download, "is_installed", lambda: True)
        child = [sys.executable, "-I", "-S", str(self._program)]
        monkeypatch.setattr(subprocesses, "command", lambda module: child)
        settings = {"models_dir": str(self.folder), **settings}
        keys = api_keys.read(LINES, "keys.txt")
        self.http: FlaskClient = client(
            ScriptedDriver(), file_keys=keys, admins=("root",), **settings
        )
        services = services_of(self.http.application)
        self.downloads = services.downloads
        self.changes = 0
        services.life.reload = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def child_says(self, *lines: dict[str, Any], then: str = "") -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._program.write_text(
            "import sys\nsys.stdin.readline()\n"
            f"sys.stdout.write({text!r})\nsys.stdout.flush()\n{then}\n"
        )

    def post(self, path: str, who: str = "root", **body: Any) -> Any:
        headers = {"Authorization": f"Bearer sk-{who}"}
        return self.http.post(path, json=body, headers=headers)

    def delete(self, who: str = "root", **body: Any) -> Any:
        headers = {"Authorization": f"Bearer sk-{who}"}
        return self.http.delete("/api/delete", json=body, headers=headers)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize("who", ["root", "ben"])
def test_who_has_the_right_downloads(site: Site, who: str) -> None:
    site.child_says(LIST, {"done": True})
    answer = site.post("/api/pull", who, model=NAME, stream=False)
    assert (answer.status_code, answer.json) == (200, {"status": "success"})
    wait_until(lambda: site.changes == 1)  # the server rereads its models


def test_other_keys_are_refused_and_nothing_begins(site: Site) -> None:
    assert site.post("/api/pull", "ann", model=NAME).status_code == 403
    assert site.delete("ann", model="m").status_code == 403
    assert site.downloads.last is None


def test_progress_is_streamed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from proxy.apis.ollama import routes

    monkeypatch.setattr(routes, "PERIOD", 0.01)
    parts = site.folder / "parts"
    parts.mkdir()
    (parts / "m-Q4_0.gguf.part").write_bytes(b"x" * 40)
    go = site.folder / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    done = "print('{\"done\": true}', flush=True)"
    site.child_says({**LIST, "folder": str(parts)}, then=wait + done)
    answer = site.post("/api/pull", name=NAME)
    assert answer.mimetype == "application/x-ndjson"
    lines = (json.loads(line) for line in answer.response)
    first = next(lines)
    assert first["status"].startswith("pulling ") and first["digest"].startswith("sha256:")
    assert (first["total"], first["completed"]) == (100, 40)
    go.touch()
    assert [*lines][-1] == {"status": "success"}


def test_a_client_that_leaves_ends_the_download(site: Site) -> None:
    site.child_says(LIST, then="sys.stdin.read()")
    site.post("/api/pull", model=NAME).close()
    assert site.downloads.last is not None
    assert site.downloads.last.ended.wait(60)
    assert site.changes == 0


def test_one_download_at_a_time(site: Site) -> None:
    site.child_says(LIST, then="sys.stdin.read()")
    answer = site.post("/api/pull", model=NAME)
    other = site.post("/api/pull", model="hf.co/a/b")
    assert other.status_code == 400
    assert "under way: hf:maker/m-GGUF:Q4_0" in other.json["error"]
    answer.close()


@pytest.mark.parametrize("stream", [True, False])
def test_an_error_before_the_first_byte_has_its_status(site: Site, stream: bool) -> None:
    site.child_says({"error": "there is no repository maker/m-GGUF", "status": 404})
    answer = site.post("/api/pull", model=NAME, stream=stream)
    assert answer.status_code == 404
    assert "no repository" in answer.json["error"]


def test_a_later_error_is_the_last_line(site: Site) -> None:
    site.child_says(LIST, {"error": "the disk is full", "status": 400}, then="")
    answer = site.post("/api/pull", model=NAME)
    if answer.status_code == 200:  # else it came before the answer began
        assert json.loads(answer.data.splitlines()[-1]) == {"error": "the disk is full"}
    else:
        assert answer.json["error"] == "the disk is full"


def test_a_name_of_ollamas_library_is_refused_with_the_remedy(site: Site) -> None:
    answer = site.post("/api/pull", model="llama3.2")
    assert answer.status_code == 400
    assert "hf:OWNER/REPO" in answer.json["error"]


def test_without_a_folder_the_error_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch, models_dir="")
    answer = site.post("/api/pull", model=NAME)
    assert answer.status_code == 400
    assert "--models-dir" in answer.json["error"]
    assert site.delete(model="m").status_code == 404


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"GGUF")


def _left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("a", {"a.gguf"}),
        ("a:latest", {"a.gguf"}),
        ("eyes", {"eyes/text.gguf", "eyes/mmproj-F16.gguf"}),
        ("parts", {"parts/p-00001-of-00002.gguf", "parts/p-00002-of-00002.gguf"}),
        ("two/x", {"two/x.gguf"}),
    ],
)
def test_delete_removes_the_files_of_a_model_alone(site: Site, name: str, gone: set[str]) -> None:
    files = "a.gguf mmproj-a.gguf eyes/text.gguf eyes/mmproj-F16.gguf two/x.gguf two/y.gguf"
    files += " two/mmproj.gguf parts/p-00001-of-00002.gguf parts/p-00002-of-00002.gguf parts/my.txt"
    _fill(site.folder, *files.split())
    assert site.delete("ben", model=name).status_code == 200
    assert _left(site.folder) == {*files.split()} - gone
    assert (site.folder / "eyes").exists() == (name != "eyes")
    assert site.changes == 1


@pytest.mark.parametrize("name", ["", "b", "../secret", "/etc", "eyes/..", "a.gguf", ".downloads"])
def test_what_is_no_model_of_the_folder_is_not_deleted(site: Site, name: str) -> None:
    _fill(site.folder, "a.gguf", "eyes/text.gguf")
    _fill(site.folder.parent, "secret.gguf")
    assert site.delete(model=name).status_code in (400, 404)
    assert _left(site.folder.parent) >= {"secret.gguf", "models/a.gguf", "models/eyes/text.gguf"}


def test_a_stop_ends_the_download(site: Site) -> None:
    site.child_says(LIST, then="sys.stdin.read()")
    answer = site.post("/api/pull", model=NAME)
    services_of(site.http.application).life.leave()
    assert site.downloads.last is not None
    assert site.downloads.last.ended.wait(60)
    answer.close()


def test_the_audit_says_who_did_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, monkeypatch, data=str(tmp_path / "data"))
    if services_of(site.http.application).accounts is None:
        pytest.skip("the extra knowledge is not installed")
    site.child_says(LIST, {"done": True})
    site.post("/api/pull", "ben", model=NAME, stream=False)
    _fill(site.folder, "m-Q4_0/m-Q4_0.gguf")
    site.delete(model="m-Q4_0")
    headers = {"Authorization": "Bearer sk-root"}
    entries = site.http.get("/v1/audit", headers=headers).json["data"]
    said = [(each["actor"], each["action"], each["kind"], each["subject"]) for each in entries]
    assert said == [
        ("root", "delete", "model", "m-Q4_0"),
        ("ben", "download", "model", "maker/m-GGUF"),
    ]


# -- the models page

PAGE = "/pages/api/models"


def _asked(site: Site, method: str, path: str, who: str = "root", **body: Any) -> Any:
    headers = {"Authorization": f"Bearer sk-{who}"}
    return site.http.open(f"{PAGE}{path}", method=method, json=body or None, headers=headers)


def test_page_lists_what_a_repository_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path, monkeypatch, memory="100")
    site.child_says({**LIST, "context": 4096, "done": True})
    answer = _asked(site, "POST", "/downloads/list", "ben", model="hf:maker/m-GGUF")
    models = [{"name": "m-Q4_0", "size": 100, "fits": False}]
    assert answer.json == {"models": models, "context": 4096}
    assert site.downloads.last is None
    assert _asked(site, "POST", "/downloads/list", "ann", model="hf:a/b").status_code == 403


def test_page_shows_the_progress_and_cancels(site: Site) -> None:
    parts = site.folder / "parts"
    parts.mkdir()
    (parts / "m-Q4_0.gguf.part").write_bytes(b"x" * 40)
    site.child_says({**LIST, "folder": str(parts)}, then="sys.stdin.read()")
    assert _asked(site, "GET", "").json["download"] is None
    assert _asked(site, "POST", "/downloads", "ann", model="hf:maker/m-GGUF").status_code == 403
    assert _asked(site, "POST", "/downloads", "ben", model="hf:maker/m-GGUF").status_code == 204
    wait_until(lambda: _asked(site, "GET", "").json["download"]["size"])
    state = _asked(site, "GET", "").json["download"]
    assert (state["name"], state["bytes"], state["ended"]) == ("m-Q4_0", 40, False)
    assert _asked(site, "GET", "", "ann").json["download"] is None
    assert _asked(site, "DELETE", "/downloads", "ann").status_code == 403
    assert _asked(site, "DELETE", "/downloads", "ben").status_code == 204
    wait_until(lambda: _asked(site, "GET", "").json["download"]["ended"])
    assert "cancelled" in _asked(site, "GET", "").json["download"]["error"]


def test_page_deletes(site: Site) -> None:
    _fill(site.folder, "a.gguf", "two/x.gguf", "two/y.gguf")
    assert _asked(site, "GET", "", "ben").json["deletable"] == ["a", "two/x", "two/y"]
    assert _asked(site, "GET", "", "ann").json["deletable"] == []
    assert _asked(site, "DELETE", "/files/two/x", "ann").status_code == 403
    assert _asked(site, "DELETE", "/files/two/x", "ben").status_code == 204
    assert _asked(site, "DELETE", "/files/two/x", "ben").status_code == 404
    assert _left(site.folder) == {"a.gguf", "two/y.gguf"}


@pytest.mark.parametrize(("folder", "has_form"), [(True, True), (False, False)])
def test_page_has_the_form_where_models_can_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool, has_form: bool
) -> None:
    monkeypatch.setattr(download, "is_installed", lambda: True)
    http = client(ScriptedDriver(), models_dir=str(tmp_path) if folder else "")
    page = http.get("/models", headers={"Accept": "text/html"}).text
    assert ('data-part="pull-form"' in page) == has_form
