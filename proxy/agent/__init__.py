"""The agent's tools: a calculator, the time, functions of other packages, and tools of MCP servers.

`toolbox` collects them. Search tools belong to `dialogue`.
"""
