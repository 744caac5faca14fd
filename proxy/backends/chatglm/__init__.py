"""The driver for chatglm_cpp, a library that runs ChatGLM models inside a Python process.

The library holds Python's global lock during every token and a whole prompt evaluation, so the
engine lives in a child process, and the gateway only reads a pipe:

    driver ── supervisor ══ pipes ══ engine ── library ── chatglm_cpp
    (requests) (one child)          (the loop)

`protocol` has the messages between both; `prompt` is pure.
"""
