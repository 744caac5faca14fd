"""Web search: search engines behind one interface, and guarded reading of pages.

`engines` has the request and the parser of each HTTP engine; `metasearch` uses a library. `fetch`
is a bounded HTTP client that connects to checked addresses only, and `passages` selects the
relevant parts of a page. `reading` runs both in a child process. `search` combines everything.
"""
