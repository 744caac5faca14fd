// The OpenID provider of the tests: `node oidc_provider.mjs ISSUER REDIRECT_URI`. Everybody signs in
// with any name and password. The name decides the groups, as the table says.

import { Provider } from "oidc-provider";

const [issuer, redirect] = process.argv.slice(2);
const GROUPS = { ops: ["slotproxy-admins", "staff"], carol: ["unknown", "research", "staff"], eve: [] };

const client = (client_id, more) => ({ client_id, redirect_uris: [redirect], ...more });

const provider = new Provider(issuer, {
  clients: [
    client("slotproxy", { client_secret: "a secret: with%signs" }),
    client("posting", { client_secret: "another", token_endpoint_auth_method: "client_secret_post" }),
    client("public", { token_endpoint_auth_method: "none" }),
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["groups"] },
  cookies: { keys: ["of the tests"] },
  pkce: { required: () => true },
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({
      sub,
      email: `${sub}@example.org`,
      email_verified: sub !== "mallory",
      groups: GROUPS[sub] ?? ["staff"],
    }),
  }),
});

// Its pages load a font from the internet.
provider.use(async (ctx, next) => {
  await next();
  if (typeof ctx.body === "string") ctx.body = ctx.body.replace(/@import url\([^)]*\);?/g, "");
});
provider.listen(Number(new URL(issuer).port), "127.0.0.1");
