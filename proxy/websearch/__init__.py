"""Web search: `engines` asks search engines and keeps their results for a while. `fetch` is a
bounded HTTP client, and `guard` tells public addresses.
"""
