// Who has signed out keeps nothing of the pages in the browser.
for (const registration of (await navigator.serviceWorker?.getRegistrations()) ?? []) await registration.unregister();
for (const name of await (globalThis.caches?.keys() ?? [])) if (name.startsWith("slotproxy-")) await caches.delete(name);

// After a link from another site, browsers do not send the session cookie, even if the user is
// signed in. This script asks for the session again, and opens the page if there is one.

const page = document.getElementById("signin");
const answer = await (await fetch(page.dataset.session)).json();
if (answer.signed_in && page.dataset.to) location.replace(page.dataset.to);
