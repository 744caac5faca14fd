"""Servers that speak OpenAI's API: vLLM, SGLang, Ollama, LM Studio, another slotproxy …"""
