"""The driver for chatglm_cpp, a library that runs ChatGLM models inside a Python process. It holds
Python's global lock during every token, so the engine lives in a child process:

    driver ── supervisor ══ socket ══ engine ── chatglm_cpp
"""
