"""Values that were settings once, until nobody had a reason to change them."""

# Seconds without output before a comment that keeps a stream alive: within the 60 s after which
# common load balancers and browsers give up.
PING = 15.0
CONNECT_TIMEOUT = 5.0  # seconds to connect to a backend: they are near

# Seconds within which a health check must return a token: a server without a free slot answers
# when its first one is free, and one that evaluates a long prompt between two batches.
HEALTH_DEADLINE = 30.0
UNLOAD_EMBEDDINGS = 300.0  # idle seconds of the local embedding model, which loads in a second

# Seconds after which a client that does not read its answer is disconnected, as nginx's
# send_timeout, and seconds for the body of a request, besides one for each 500 bytes.
SEND_TIMEOUT = 60.0
BODY_TIMEOUT = 60.0
THREADS = 64  # of waitress: as many requests at once, of which most wait for a slot

# The reader of documents, a child process: seconds without output, and bytes of address space. The
# largest of PDFs that were tried takes a third of both.
READING_TIMEOUT = 600
READING_MEMORY = 1 << 30

# Rows of each API key; what grows large is bounded in bytes, by --quota-bytes.
QUOTA_FILES = 10_000
QUOTA_DOCUMENTS = 10_000
STORED_RESPONSES = 1_000

SIDE_JOBS = ("### Task:",)  # begins a background task (title, tags) of Open WebUI
