"""The driver for chatglm_cpp, a library that runs ChatGLM models inside a Python process.

The library holds Python's global lock during every token and a whole prompt evaluation, so the
engine lives in a child process and the HTTP side only reads a socket:

    driver ── supervisor ── link ══ Unix socket ══ peers ── engine ── library ── chatglm_cpp
    (requests) (one child)  (frames)      ║                (the loop) (0.3 and 0.4)
    … of another worker ── link ══════════╝

`host` starts the child or joins a running one, or starts a thread. `protocol` has the frames that
both sides exchange, and the engine's side of the socket; `prompt` is pure.
"""
