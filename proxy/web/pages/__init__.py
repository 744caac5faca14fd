"""Pages for people: chat, knowledge, status, sign-in."""
