"""OpenAI's Responses API, POST /v1/responses, as its API reference and client types define it.

`request` parses a body, `items` its input items, `answer` builds the Response object and its
events. Pure: a callback receives the response to store.
"""
