// The service worker of the pages: shows a page of its own while the gateway cannot be reached.
//
// It keeps only the files that `SHELL` lists, which hold nothing of any user, and never an answer of
// the API or another page. The gateway writes `SHELL` before this script: a name made of the
// contents of the files, and their addresses. When they change, so does the script, and browsers
// install it anew.

const { name: STORE, page: PAGE, files: FILES } = self.SHELL;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(keep());
});

async function keep() {
  const cache = await caches.open(STORE);
  // Without cookies: the page without a connection is the same for everybody.
  const asked = [PAGE, ...FILES].map((address) => new Request(address, { credentials: "omit", cache: "no-cache" }));
  await cache.addAll(asked);
}

self.addEventListener("activate", (event) => event.waitUntil(activated()));

async function activated() {
  for (const name of await caches.keys()) if (name.startsWith("slotproxy-") && name !== STORE) await caches.delete(name);
  await self.clients.claim();
}

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET") return;
  const { origin, pathname, search } = new URL(request.url);
  if (request.mode === "navigate") event.respondWith(page(request));
  else if (origin === location.origin && FILES.includes(pathname + search)) event.respondWith(file(request));
});

async function page(request) {
  try {
    return await fetch(request);
  } catch {
    return (await kept(PAGE)) ?? Response.error();
  }
}

const file = async (request) => (await kept(request)) ?? fetch(request);

async function kept(asked) {
  const cache = await caches.open(STORE);
  return cache.match(asked);
}
