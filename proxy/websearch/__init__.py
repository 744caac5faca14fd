"""Web search: `engines` has the request and the parser of each HTTP engine, and a library in a
child process; `search` keeps their results for a while. `fetch` is a bounded HTTP client, and
`guard` tells public addresses.
"""
