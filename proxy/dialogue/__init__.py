"""The four kinds of dialogue: chat, knowledge base, web search and agent; and answers that run
tools on the way.

`events` defines requests and events, and `run` turns the one into the other. `finding` gets
documents and inserts them into a conversation. `loop` is an answer with tools, and what runs them.
"""

from ..agent.functions import RunnableTool, ToolError, arguments, schema_of

__all__ = ["RunnableTool", "ToolError", "arguments", "schema_of"]
