"""OpenAI's Responses API, POST /v1/responses. Pure: a callback receives the response to store."""
