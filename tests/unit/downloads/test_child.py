"""The child process of a download, in this process and before a scripted hub without sockets."""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.downloads import child
from proxy.downloads.child import HIDDEN, Job, Said, carry_out
from proxy.downloads.choice import Reference
from proxy.errors import BadRequest, GatewayError, UpstreamFault
from tests.extras import need
from tests.scripted_hub import REVISION, Hub

need("pull", "huggingface_hub")

SMALL, LARGE = b"GGUF" + b"s" * 200_000, b"GGUF" + bytes(range(256)) * 2000
REPOSITORY = Reference("maker/Small-GGUF")
LOCK = child._lock


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import httpx2
    from huggingface_hub import close_session, constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory
    from huggingface_hub.utils.tqdm import disable_progress_bars

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", constants.DOWNLOAD_CHUNK_SIZE)
    monkeypatch.setattr(child, "CHUNK", 1000)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # as the child's environment
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    disable_progress_bars()
    made = Hub({"Small-Q2_K.gguf": SMALL, "Small-Q4_K_M.gguf": LARGE})
    transport = made.transport()
    set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))
    yield made
    close_session()
    set_client_factory(default_client_factory)


@pytest.fixture(autouse=True)
def _unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held until the process ends, which is this one here."""
    monkeypatch.setattr(child, "_lock", lambda folder: None)


def pull(folder: Path, quantization: str = "", **job: Any) -> list[Said]:
    said: list[Said] = []
    reference = Reference(REPOSITORY.repository, quantization)
    carry_out(Job(reference, str(folder), **job), said.append)
    return said


def broken_off(hub: Hub, folder: Path, *cuts: int | None) -> None:
    """A pull whose transfers are cut there, and after which the hub sends nothing for a time."""
    import httpx2

    hub.cuts = [*cuts, *[0] * 100]
    with pytest.raises(httpx2.ReadError):
        pull(folder)
    hub.cuts = []
    hub.seen.clear()


def contents(hub: Hub) -> list[str]:
    """The ranges of the requests for contents."""
    return [range_ for _, path, range_, _ in hub.seen if "/resolve/" in path]


def test_a_model_gets_a_folder_of_its_name(hub: Hub, tmp_path: Path) -> None:
    first, *_, last = pull(tmp_path)
    assert [model.quantization for model in first.models] == ["Q2_K", "Q4_K_M"]
    assert (first.chosen, first.size, first.context) == ("Small-Q4_K_M", len(LARGE), 32768)
    assert last.done
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE
    assert [path.name for path in (tmp_path / HIDDEN).iterdir()] == []
    assert {token for *_, token in hub.seen} == {"Bearer hf_secret"}


def test_a_list_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    said: list[Said] = []
    carry_out(Job(REPOSITORY), said.append)
    assert [model.name for model in said[0].models] == ["Small-Q2_K", "Small-Q4_K_M"]
    assert said[-1].done
    assert contents(hub) == []


def test_room_chooses(hub: Hub, tmp_path: Path) -> None:
    assert pull(tmp_path, room=len(SMALL))[0].chosen == "Small-Q2_K"


def test_cuts_continue_where_they_were(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [100_000, 0, 0, 70_000, 0, 1]
    pull(tmp_path)
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE
    assert contents(hub)[0] == ""
    assert contents(hub)[1:4] == ["bytes=100000-"] * 3
    assert contents(hub)[-1] == "bytes=170000-"


def test_a_hub_that_sends_nothing_more_is_given_up_and_the_next_time_continues(
    hub: Hub, tmp_path: Path
) -> None:
    broken_off(hub, tmp_path, 100_000)
    assert not (tmp_path / "Small-Q4_K_M").exists()
    pull(tmp_path)
    assert contents(hub) == ["bytes=100000-"]
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE


def test_a_hub_that_ignores_ranges_begins_again(hub: Hub, tmp_path: Path) -> None:
    hub.cuts, hub.ignores_ranges = [100_000], True
    pull(tmp_path)
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE


def test_parts_are_one_model_and_complete_ones_are_not_fetched_again(
    hub: Hub, tmp_path: Path
) -> None:
    names = [f"Big-Q8_0-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    hub.files = {f"Q8_0/{name}": SMALL + name.encode() for name in names}
    hub.files["mmproj-F16.gguf"] = SMALL
    broken_off(hub, tmp_path, None, 1000)
    pull(tmp_path)
    assert contents(hub) == ["bytes=1000-", "", ""]
    made = {path.name: path.read_bytes() for path in (tmp_path / "Big-Q8_0").iterdir()}
    assert made == {name.rpartition("/")[2]: data for name, data in hub.files.items()}


def test_damaged_contents_are_never_a_model(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = True
    with pytest.raises(UpstreamFault, match="checksum"):
        pull(tmp_path)
    assert not (tmp_path / "Small-Q4_K_M").exists()
    hub.damaged = False
    hub.seen.clear()
    pull(tmp_path)
    assert contents(hub) == [""]  # nothing of the damaged file is used
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE


def test_a_part_of_other_contents_is_not_continued(hub: Hub, tmp_path: Path) -> None:
    broken_off(hub, tmp_path, 100_000)
    hub.files["Small-Q4_K_M.gguf"] = LARGE[::-1]  # a new revision
    pull(tmp_path)
    assert contents(hub) == [""]
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE[::-1]
    assert [path.name for path in (tmp_path / HIDDEN).iterdir()] == []


def test_a_part_that_is_too_long_begins_again(hub: Hub, tmp_path: Path) -> None:
    broken_off(hub, tmp_path, 100_000)
    (part,) = (tmp_path / HIDDEN).glob("*/*.part")
    part.write_bytes(LARGE + b"more")
    pull(tmp_path)
    assert (tmp_path / "Small-Q4_K_M" / "Small-Q4_K_M.gguf").read_bytes() == LARGE


def test_the_cache_of_the_library_saves_the_transfer(hub: Hub, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "models--maker--Small-GGUF" / "snapshots" / REVISION
    cached.mkdir(parents=True)
    (cached / "Small-Q4_K_M.gguf").write_bytes(LARGE)
    pull(tmp_path / "models")
    assert contents(hub) == []
    assert (tmp_path / "models/Small-Q4_K_M/Small-Q4_K_M.gguf").read_bytes() == LARGE


def test_the_token_stays_at_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.cdn = "https://cdn.example"
    pull(tmp_path)
    tokens = {path.startswith("/cdn"): token for _, path, _, token in hub.seen}
    assert tokens == {False: "Bearer hf_secret", True: ""}


@pytest.mark.parametrize("existing", ["Small-Q4_K_M", "Small-Q4_K_M.gguf"])
def test_an_existing_model_is_not_replaced(hub: Hub, tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).mkdir()
    with pytest.raises(BadRequest, match="exists already"):
        pull(tmp_path)
    assert contents(hub) == []


def test_what_the_disk_cannot_hold_is_not_begun(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = child.SPARE + len(LARGE) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(BadRequest, match="GB more, and the disk has"):
        pull(tmp_path)
    assert contents(hub) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free + 1))
    broken_off(hub, tmp_path, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free - 900))
    pull(tmp_path)  # files that are there need no room


def test_a_second_download_into_the_folder_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_lock", LOCK)
    (tmp_path / HIDDEN).mkdir()
    with (tmp_path / HIDDEN / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BadRequest, match="another download"):
            pull(tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "kind", "message"),
    [
        (401, "", 404, "no repository maker/Small-GGUF, or it is private: set HF_TOKEN"),
        (403, "GatedRepo", 403, "is gated: accept its terms"),
        (403, "", 403, r"refuses maker/Small-GGUF \(status 403\): set HF_TOKEN"),
        (404, "RepoNotFound", 404, "no repository"),
        (500, "", 502, "answers with status 500"),
    ],
)
def test_refusals_of_the_hub_say_what_to_do(
    hub: Hub, tmp_path: Path, status: int, code: str, kind: int, message: str
) -> None:
    hub.status, hub.code = status, code
    failure = _failed(tmp_path)
    assert failure.status == kind
    assert "hf_secret" not in failure.message
    assert re.search(message, failure.message)


@pytest.mark.parametrize("status", [401, 403])
def test_contents_that_are_refused_say_so(hub: Hub, tmp_path: Path, status: int) -> None:
    hub.content_status, hub.code = status, "GatedRepo"
    assert "is gated" in _failed(tmp_path).message


def test_a_full_disk_is_named(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert _failed(tmp_path).message == "the disk is full"


def test_a_cut_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.cuts = [0] * 100
    assert _failed(tmp_path).message == "Hugging Face cannot be reached (ReadError)"


def _failed(folder: Path) -> GatewayError:
    with pytest.raises(Exception) as raised:
        pull(folder)
    assert isinstance(raised.value, Exception)
    return child._failure(raised.value, REPOSITORY.repository)


@pytest.mark.parametrize(
    "listing",
    [
        {"siblings": []},
        {"siblings": [{"rfilename": "../../evil.gguf/.."}]},
        {"siblings": [{"rfilename": "a.gguf", "size": "9"}]},
        {"gguf": {"context_length": "many"}, "siblings": []},
    ],
)
def test_a_list_of_nonsense_has_no_model(hub: Hub, tmp_path: Path, listing: dict[str, Any]) -> None:
    hub.told = listing
    with pytest.raises(GatewayError, match="no GGUF file"):
        pull(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []
