"""Sign-in at an OpenID provider: the authorization code flow with PKCE, state and nonce."""
