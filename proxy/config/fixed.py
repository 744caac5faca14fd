"""Values that were settings once, until nobody had a reason to change them."""

# The comment that keeps a stream alive, in seconds without output: well within the 60 s after which
# common load balancers and browsers give up.
PING = 15.0

# Seconds to wait for a connection to a backend: they are near, and one that needs longer is down.
CONNECT_TIMEOUT = 5.0

# Seconds within which a health check must return a token: a server without a free slot answers
# when its first one is free, and one that evaluates a long prompt between two batches.
HEALTH_DEADLINE = 30.0

# Idle seconds before the local embedding model goes from memory (160 MB). It loads in a second.
UNLOAD_EMBEDDINGS = 300.0

# Seconds after which a client that does not read its answer is disconnected, as nginx's
# send_timeout, and seconds for the body of a request, besides one for each 500 bytes.
SEND_TIMEOUT = 60.0
BODY_TIMEOUT = 60.0

# Threads of waitress: as many requests at once, of which most wait for a slot.
THREADS = 64

# The reader of documents, a child process: seconds without output, and bytes of address space. The
# largest of PDFs that were tried takes a third of both.
READING_TIMEOUT = 600
READING_MEMORY = 1 << 30

# Of each API key: files, documents and stored responses. What grows large is bounded in bytes, by
# --quota-bytes; these bound the rows of tables.
QUOTA_FILES = 10_000
QUOTA_DOCUMENTS = 10_000
STORED_RESPONSES = 1_000

# How the last message of a background task begins (title, tags): Open WebUI's. It runs in a spare
# slot.
SIDE_JOBS = ("### Task:",)
