"""Uploads on a real gateway: bounded by --max-document, in pieces, gone with the key's data."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from tests.integration.asking import openai_client
from tests.integration.conftest import StartGateway

NOBODY = "http://127.0.0.1:9"  # keeping files needs no model
BODY, DOCUMENT = 100_000, 600_000  # bytes
KEPT = ("document", "document_piece", "openai_file", "openai_file_piece", "chunk")
TEXT = b"The zebra runs over the hill.\n" * (DOCUMENT // 30)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_documents_have_their_own_size_bound_and_are_deleted_with_their_key(
    gateway: StartGateway, tmp_path: Path, server: str
) -> None:
    flags = ["--llama-api", NOBODY, "--data", str(tmp_path), "--chatchat", "--server", server]
    bounds = ["--max-body", str(BODY), "--max-document", str(DOCUMENT)]
    running = gateway(*flags, *bounds, ready=0)
    api = openai_client(running)
    with httpx.Client(base_url=running.url, timeout=60, trust_env=False) as http:
        file = api.files.create(file=("a.txt", BytesIO(TEXT)), purpose="assistants")
        assert file.bytes == len(TEXT) > 5 * BODY
        assert api.files.content(file.id).read() == TEXT
        store = api.vector_stores.create(name="b")
        api.vector_stores.files.create(store.id, file_id=file.id)

        temporary = "/knowledge_base/upload_temp_docs"
        done = http.post(temporary, files={"files": ("b.txt", TEXT)}).json()
        assert done["data"]["failed_files"] == []
        for path in ("/v1/files", temporary):
            form = {"data": {"purpose": "assistants"}, "files": {"file": ("c.txt", TEXT + b"x")}}
            assert http.post(path, **form).status_code == 413  # type: ignore[arg-type]
            long = {"data": {"purpose": "x" * (BODY + 1)}, "files": {"file": ("c.txt", b"x")}}
            assert http.post(path, **long).status_code == 413  # type: ignore[arg-type]
        body = {"model": "x", "messages": [{"role": "user", "content": "x" * BODY}]}
        alone = {"Connection": "close"}  # the body is not read to its end
        done = http.post("/v1/chat/completions", json=body, headers=alone)
        assert done.status_code == 413

        assert all(rows(tmp_path).values())
        gone = http.delete("/v1/data").json()["deleted"]
        assert (gone["files"], gone["knowledge_bases"]) == (1, 2)
        assert rows(tmp_path) == dict.fromkeys(KEPT, 0)


def rows(folder: Path) -> dict[str, int]:
    with closing(sqlite3.connect(folder / "slotproxy.db")) as db:
        return {name: db.execute(f"select count(*) from {name}").fetchone()[0] for name in KEPT}
