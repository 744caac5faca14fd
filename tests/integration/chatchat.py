"""A client like Langchain-Chatchat 0.2.7's own: the same routes, bodies and parsing.

What matters of it: httpx with nothing but an address, a stream read chunk by chunk with each chunk
taken for one JSON document, plain answers taken for JSON whatever their status.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

CUT = {"chunk_size": 250, "chunk_overlap": 50, "zh_title_enhance": False}
Files = Mapping[str, bytes]


class Chatchat:
    """`base_url` may hold a key: http://any:KEY@host:port."""

    def __init__(self, base_url: str) -> None:
        self.client = httpx.Client(base_url=base_url, timeout=60, trust_env=False)

    def close(self) -> None:
        self.client.close()

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, params=params).json()

    def post(self, path: str, value: Any = None) -> Any:
        return self.client.post(path, json=value).json()

    def stream(self, path: str, value: Any) -> Iterator[Any]:
        with self.client.stream("POST", path, json=value) as response:
            for chunk in response.iter_text(None):
                if chunk:
                    yield json.loads(chunk)

    # dialogues

    def _dialogue(self, path: str, query: str, more: Mapping[str, Any]) -> Iterator[Any]:
        common = {
            "query": query,
            "history": [],
            "stream": True,
            "model_name": "chatglm3-6b",
            "temperature": 0.0,
            "max_tokens": None,
            "prompt_name": "default",
        }
        return self.stream(path, {**common, **more})

    def chat_chat(self, query: str, **more: Any) -> Iterator[Any]:
        return self._dialogue("/chat/chat", query, more)

    def knowledge_base_chat(self, query: str, base: str, **more: Any) -> Iterator[Any]:
        fields = {"knowledge_base_name": base, "top_k": 3, "score_threshold": 2.0, **more}
        return self._dialogue("/chat/knowledge_base_chat", query, fields)

    def file_chat(self, query: str, knowledge_id: str, **more: Any) -> Iterator[Any]:
        fields = {"knowledge_id": knowledge_id, "top_k": 3, "score_threshold": 2.0, **more}
        return self._dialogue("/chat/file_chat", query, fields)

    def search_engine_chat(self, query: str, engine: str, **more: Any) -> Iterator[Any]:
        fields = {"search_engine_name": engine, "top_k": 3, "split_result": False, **more}
        return self._dialogue("/chat/search_engine_chat", query, fields)

    # knowledge bases

    def create(self, base: str) -> Any:
        value = {"knowledge_base_name": base, "vector_store_type": "faiss", "embed_model": "m3e"}
        return self.post("/knowledge_base/create_knowledge_base", value)

    def delete(self, base: str) -> Any:
        return self.post("/knowledge_base/delete_knowledge_base", base)

    def bases(self) -> list[str]:
        names: list[str] = self.get("/knowledge_base/list_knowledge_bases")["data"]
        return names

    def files(self, base: str) -> list[str]:
        names: list[str] = self.get("/knowledge_base/list_files", knowledge_base_name=base)["data"]
        return names

    def upload(self, base: str, files: Files, **more: Any) -> Any:
        form = {
            "knowledge_base_name": base,
            "override": False,
            "to_vector_store": True,
            **CUT,
            "docs": "{}",
            "not_refresh_vs_cache": False,
            **more,
        }
        return self._upload("/knowledge_base/upload_docs", form, files)

    def upload_temporary(self, files: Files, knowledge_id: str | None = None) -> Any:
        form = {"knowledge_id": knowledge_id, **CUT}
        return self._upload("/knowledge_base/upload_temp_docs", form, files)

    def _upload(self, path: str, form: dict[str, Any], files: Files) -> Any:
        parts = [("files", (name, data)) for name, data in files.items()]
        return self.client.post(path, data=form, files=parts).json()

    def search(self, base: str, query: str = "", file: str = "", top_k: int = 3) -> Any:
        value = {
            "query": query,
            "knowledge_base_name": base,
            "top_k": top_k,
            "score_threshold": 2.0,
            "file_name": file,
            "metadata": {},
        }
        return self.post("/knowledge_base/search_docs", value)

    def delete_files(self, base: str, names: Sequence[str], content: bool = True) -> Any:
        value = {
            "knowledge_base_name": base,
            "file_names": list(names),
            "delete_content": content,
            "not_refresh_vs_cache": False,
        }
        return self.post("/knowledge_base/delete_docs", value)

    def download(self, base: str, name: str) -> httpx.Response:
        params = {"knowledge_base_name": base, "file_name": name}
        return self.client.get("/knowledge_base/download_doc", params=params)
