// Who follows a link from another site arrives without the session's cookie, though signed in.

const page = document.getElementById("signin");
const answer = await (await fetch(page.dataset.session)).json();
if (answer.signed_in && page.dataset.to) location.replace(page.dataset.to);
