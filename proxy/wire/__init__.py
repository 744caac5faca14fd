"""Pure codecs for the formats between gateway and backend: bytes in, values out."""
