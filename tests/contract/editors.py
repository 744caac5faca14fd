"""The requests of llama.vim and llama.vscode to /v1/chat/completions, field by field.

Read from their sources (autoload/llama.vim: inst; src/llama-server.ts: chat edit, chat, tools; the
first versions of chat edit sent the whole form of llama.cpp's own page; without `lora`, which is
sent if the user has set an adapter). Their /infill is in
tests/integration/test_infill.py: it needs a model with tokens for it.
"""

from __future__ import annotations

from typing import Any

SAID = [
    {"role": "system", "content": "You are an expert coder."},
    {"role": "user", "content": "INSTRUCTION: Translate 你好 into a comment."},
]
WARM_UPS: dict[str, dict[str, Any]] = {
    "llama.vim": {
        "id_slot": 0,
        "messages": SAID,
        "samplers": [],
        "n_predict": 0,
        "stream": False,
        "cache_prompt": True,
        "response_fields": [""],
    },
    "llama.vscode": {
        "messages": SAID,
        "n_predict": 0,
        "samplers": [],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1,
    },
}
EDITS: dict[str, dict[str, Any]] = {
    "llama.vim": {
        "id_slot": 17,
        "messages": SAID,
        "min_p": 0.1,
        "temperature": 0.1,
        "samplers": ["min_p", "temperature"],
        "stream": True,
        "cache_prompt": True,
    },
    "llama.vscode of 2025": {
        "messages": SAID,
        "stream": False,
        "cache_prompt": True,
        "samplers": "edkypmxt",
        "temperature": 0.8,
        "dynatemp_range": 0,
        "dynatemp_exponent": 1,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "typical_p": 1,
        "xtc_probability": 0,
        "xtc_threshold": 0.1,
        "repeat_last_n": 64,
        "repeat_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "dry_multiplier": 0,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": -1,
        "max_tokens": -1,
        "timings_per_token": False,
    },
    "llama.vscode of 2026": {
        "messages": SAID,
        "stream": False,
        "cache_prompt": True,
        "temperature": 0.8,
        "top_p": 0.95,
        "model": "any",
    },
}
