"""Faults of llama.cpp's releases that matter to an operator: pure.

Only published ones, with the build that has the correction, from the security advisories of
ggml-org/llama.cpp (https://github.com/ggml-org/llama.cpp/security/advisories).
"""

from __future__ import annotations

import re

from msgspec import Struct


class Fault(Struct, frozen=True):
    """A fault of all builds before `fixed`."""

    fixed: int
    name: str
    effect: str


FAULTS = (
    Fault(5662, "CVE-2025-49847", "a crafted model file overwrites memory"),
    Fault(5721, "CVE-2025-52566", "a crafted text overwrites memory"),
    Fault(8146, "CVE-2026-27940", "a crafted model file overwrites memory"),
    Fault(8911, "CVE-2026-21869", "a negative n_discard overwrites memory"),
)


def build_number(build: str) -> int:
    """The number in llama-server's `build_info`, such as "b6097-9515c613"; 0 if there is none, as
    in builds without git."""
    found = re.match(r"b(\d{1,6})-", build)
    number = int(found[1]) if found else 0
    return number if number > 1 else 0


def faults_of(build: str) -> tuple[Fault, ...]:
    number = build_number(build)
    return tuple(fault for fault in FAULTS if 0 < number < fault.fixed)
