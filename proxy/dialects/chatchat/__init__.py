"""Langchain-Chatchat 0.2.7's API: its four dialogues, knowledge bases, models and server.

The source is the project's own client (ApiRequest of webui_pages/utils.py), the signatures of its
routes, and, for the form {messages, ...} of /chat/chat, the modification for chatglm_cpp.

Plain answers are {"code", "msg", "data"}. A stream is no SSE, though it says so: each HTTP chunk is
one JSON document, and the client parses every chunk by itself.
"""
