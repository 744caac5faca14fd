"""Web search: `engines` asks search engines, and `fetch` is a bounded HTTP client."""
