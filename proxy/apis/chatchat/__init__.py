"""Langchain-Chatchat 0.2.7's API: its four kinds of dialogue, knowledge bases, models and server.

The {messages, ...} form of /chat/chat comes from a modification for chatglm_cpp. Ordinary answers
are {"code", "msg", "data"}. Streams are not SSE, despite their content type: each HTTP chunk is one
JSON document, which the client parses by itself.
"""
