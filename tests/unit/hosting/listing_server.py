"""A server with nothing but OpenAI's list of models: `listing_server.py PORT NAME...`."""

from __future__ import annotations

import http.server
import json
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_list = self.path == "/v1/models"
        text = json.dumps({"data": [{"id": name} for name in sys.argv[2:]]}).encode()
        self.send_response(200 if is_list else 404)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if __name__ == "__main__":
    with http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler) as server:
        server.serve_forever()
