// What pages do beyond HTML and htmx. Everything works without this file; nothing here decides anything.
"use strict";

const root = document.documentElement;
const toasts = () => document.getElementById("toasts");

const meta = (name) => document.querySelector(`meta[name=${name}]`)?.content;
const storage = (() => {
  try { return window.sessionStorage; } catch { return undefined; } // cookies are switched off
})();

// htmx sends a form's CSRF token; this one is for requests without a form. The tab id keeps the event stream from telling
// this tab what it changed itself.
document.addEventListener("htmx:config:request", (event) => {
  const { headers } = event.detail.ctx.request;
  if (meta("csrf-token")) headers["X-CSRFToken"] = meta("csrf-token");
  if (meta("tab")) headers["X-Tab"] = meta("tab");
  if (isBackground(event.detail.ctx)) headers["X-Background"] = "1"; // which is no activity of the person
});

// Errors leave the page as it is and show a notice: the server's if there is one, otherwise our own. request: the one that
// failed, by requestName; without, it is the network that does not answer.
const requestName = ({ method, action }) => `${method} ${action.split("?")[0]}`;
const showError = (message, request) => {
  const notice = document.getElementById("error-notice").content.firstElementChild.cloneNode(true);
  notice.dataset.subject = message;
  if (request) notice.dataset.request = request;
  else notice.dataset.offline = "";
  notice.querySelector("p").textContent = message;
  toasts().append(notice);
};

// Requests that nobody waits for fail silently.
const isBackground = (context) => Boolean(context?.sourceElement?.closest?.("#stream, [data-background]") || context?.live);

// What a proxy answers in place of the server is no part of the page.
const isForeign = ({ response }) => response?.status >= 400 && !response.headers.get("X-Request-ID");
document.addEventListener("htmx:before:swap", (event) => { if (isForeign(event.detail.ctx)) event.preventDefault(); });

document.addEventListener("htmx:response:error", (event) => {
  const { ctx } = event.detail;
  const { response, request, text } = ctx;
  if (isBackground(ctx) || ctx.outcome) return; // chat.js says what it means
  const notSwapped = response.status >= 500 || [403, 404].includes(response.status) || isForeign(ctx);
  if (!notSwapped) return;
  const isNotice = response.headers.get("HX-Retarget") === "#toasts";
  const notice = isNotice && new DOMParser().parseFromString(text, "text/html").querySelector(".notice");
  const { broken, notLoaded } = toasts().dataset;
  if (notice) toasts().append(notice);
  else if (!isNextPage(ctx)) showError(request.method === "GET" ? notLoaded : broken, requestName(request));
});
document.addEventListener("htmx:error", (event) => {
  const { ctx } = event.detail;
  if (!ctx || isBackground(ctx) || isNextPage(ctx) || ctx.outcome) return;
  showError(ctx.request.method === "GET" ? toasts().dataset.notReached : toasts().dataset.offline);
});
// They leave once their cause is gone: when the same request succeeds, or the network answers anything.
document.addEventListener("htmx:after:request", (event) => {
  const { request, response } = event.detail.ctx;
  if (!response) return;
  const isOver = ({ dataset }) => "offline" in dataset || (response.status < 400 && dataset.request === requestName(request));
  [...toasts().querySelectorAll(".notice[data-kind=error]")].filter(isOver).forEach((notice) => notice.remove());
});

// htmx would also push the URL of a failed request to the history.
document.addEventListener("htmx:before:history:update", (event) => {
  if (event.detail.response?.status >= 400) event.preventDefault();
});

// The next page of a list loads by itself, once. If that fails, its link says so and offers to try again.
const isNextPage = (context) => Boolean(context?.sourceElement?.matches?.("[data-next]"));
const offerRetry = (event) => {
  if (isNextPage(event.detail.ctx)) event.detail.ctx.sourceElement.textContent = toasts().dataset.more;
};
document.addEventListener("htmx:response:error", offerRetry);
document.addEventListener("htmx:error", offerRetry);

// From 1100 px, a list has its detail beside it: the profile or the chat that is chosen in the list. Back and forward
// change only the detail, so that the list stays where it was scrolled to.
const detail = () => document.getElementById("detail");
const isSplit = () => Boolean(detail()?.checkVisibility() && document.querySelector(".split__list")?.checkVisibility());
const isProfile = (path) => /^\/u\/[^/]+$/.test(path);
const chats = () => document.querySelector(".split--chats");
const isDetail = (path) => isProfile(path) || Boolean(chats() && /^\/chats\/\d+$/.test(path));
const currentPath = () => location.pathname + location.search;
// Path and title of the page with the list, while the address is that of the detail; the empty detail, if there was one.
let listPage = {};
let wanted = {}; // the detail that was asked for last: its path, and what had the focus
let shownPath = ""; // of the detail
const rowLink = (path) => [...document.querySelectorAll(".split__list .row__link")].find((link) => link.pathname === path.split("?")[0]);
const markCurrent = () => {
  document.querySelector(".split__list [aria-current=true]")?.removeAttribute("aria-current");
  rowLink(shownPath)?.setAttribute("aria-current", "true");
};
const describeDetail = () => {
  const heading = detail().querySelector("h1");
  const isAddress = isDetail(location.pathname);
  detail().parentElement.toggleAttribute("data-detail", isAddress);
  document.title = isAddress && heading ? `${heading.textContent} · NoxChat` : listPage.title;
  countInTitle();
  markCurrent();
};
// Whether a text is being edited that would be lost.
const isEditing = () => [...document.querySelectorAll("[data-editor] textarea")].some((text) => text.value !== text.defaultValue);
const openDetail = (path, options) => {
  wanted = { path, focused: document.activeElement };
  htmx.ajax("GET", path, { source: detail(), target: detail(), swap: "innerHTML", wanted, ...options });
};
const closeDetail = () => {
  if (!listPage.emptyDetail) {
    location.assign(listPage.path);
    return;
  }
  const link = rowLink(shownPath);
  wanted = {};
  shownPath = "";
  detail().innerHTML = listPage.emptyDetail;
  document.dispatchEvent(new Event("detail-closed")); // for chat.js
  describeDetail();
  if (document.activeElement.matches("input")) return;
  document.activeElement.blur(); // or the browser would reset the focus after going back, if it has not changed
  link?.focus();
};
document.addEventListener("click", (event) => {
  const link = event.target.closest?.(".split a");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (event.defaultPrevented || link.origin !== location.origin || link.search || link.target) return;
  if (!window.htmx || !isDetail(link.pathname) || !isSplit()) return;
  event.preventDefault();
  const leaves = !isEditing() || window.confirm(toasts().dataset.discard);
  if (link.pathname !== wanted.path && leaves) openDetail(link.pathname, { push: "true" });
});
// Somebody may have chosen another, or gone back, before an answer came.
document.addEventListener("htmx:before:response", (event) => {
  const { ctx } = event.detail;
  if (ctx.wanted && ctx.wanted !== wanted) event.preventDefault();
});
document.addEventListener("htmx:after:swap", (event) => {
  const { target } = event.detail.ctx;
  if (target === document.body) setTimeout(beginList); // another page, restored by htmx
  if (!detail()) return;
  if (target.id === "results") describeDetail();
  if (target !== detail()) return;
  shownPath = wanted.path;
  detail().scrollTop = 0;
  if ([wanted.focused, document.body].includes(document.activeElement)) detail().querySelector("h1")?.focus();
  setTimeout(describeDetail); // after the address has changed
});
const detailFailed = (event) => {
  const { ctx } = event.detail;
  if (!ctx?.wanted || ctx.wanted !== wanted) return;
  if (location.pathname === wanted.path) closeDetail(); // by going back
  else wanted = { path: shownPath };
};
document.addEventListener("htmx:response:error", detailFailed);
document.addEventListener("htmx:error", detailFailed);
document.addEventListener("htmx:after:history:replace", (event) => {
  listPage.path = event.detail.path;
  if (detail()) describeDetail();
});
const restoresDetail = () => Boolean(detail()) && (isDetail(location.pathname) || currentPath() === listPage.path);
document.addEventListener("htmx:before:history:restore", (event) => { if (restoresDetail()) event.preventDefault(); });
window.addEventListener("popstate", () => {
  if (!restoresDetail() || currentPath() === shownPath) return; // only the part after # has changed
  if (isDetail(location.pathname)) openDetail(currentPath());
  else closeDetail();
});
const beginList = () => {
  const isOpen = Boolean(detail()) && isDetail(location.pathname);
  listPage = isOpen
    ? { path: "/chats", title: `${chats().dataset.title} · NoxChat` }
    : { path: currentPath(), title: document.title, emptyDetail: detail()?.innerHTML };
  shownPath = isOpen ? currentPath() : "";
  wanted = { path: shownPath };
  if (isOpen) describeDetail();
  if (history.state?.row && window.htmx) scrollToRow(history.state.row);
};
// The address of the page for what belongs to the list.
const pagePath = () => (detail() ? listPage.path : currentPath());

// Live updates: the event stream says with whom something changed; the fragments are fetched by their ordinary routes.
const fetchLive = (path, listName, target, swap = "outerHTML", more = {}) => {
  const query = new URLSearchParams({ list: listName, next: pagePath(), ...more });
  const term = document.getElementById("q")?.value.trim();
  if (term) query.set("q", term);
  return htmx.ajax("GET", `${path}?${query}`, { source: target, target, swap, live: true });
};
// For answers that are swapped out of band only. Each request has a source element of its own, since htmx lets only one
// request of an element wait for another.
const fetchOutOfBand = (path, listName = "", more = {}) => {
  const source = document.createElement("span");
  document.getElementById("stream")?.append(source);
  fetchLive(path, listName, source, "outerHTML", more).finally(() => source.remove());
};
const listOf = (button) => button.querySelector("[name=list]")?.value ?? "";
const pending = new Set(); // several changes of a person at once are fetched once
const updateSoon = (publicId) => {
  if (pending.has(publicId)) return;
  pending.add(publicId);
  setTimeout(() => { pending.delete(publicId); updatePerson(publicId); }, 50);
};
// On a profile, more than the button depends on how two people are related.
const updateRelationship = (button) => {
  const path = `/u/${button.dataset.friend}`;
  const profile = button.closest("#profile");
  if (profile) htmx.ajax("GET", path, { source: button, target: profile, swap: "outerMorph", live: true });
  else fetchLive(`${path}/button`, listOf(button), button);
};
const updatePerson = (publicId) => {
  const buttons = document.querySelectorAll(`[data-friend="${CSS.escape(publicId)}"]`);
  buttons.forEach((button) => {
    if (button.querySelector(":disabled")) setTimeout(updateSoon, 300, publicId); // a request of its own is running
    else updateRelationship(button);
  });
  if (buttons.length) return;
  // Nobody is inserted above a row that somebody may be about to press: a link above the list announces them.
  const rows = document.querySelector("[data-list]");
  const count = Number(document.getElementById("newcomers")?.dataset.count ?? 0) + 1;
  fetchOutOfBand(`/u/${publicId}/row`, rows?.dataset.list, { rows: rows?.children.length ?? 0, count });
};
document.addEventListener("friendship", (event) => updateSoon(event.detail.data));
document.addEventListener("accepted", (event) => {
  updateSoon(event.detail.data);
  fetchOutOfBand(`/u/${event.detail.data}/row`, "", { accepted: 1 });
});

// What happens in conversations changes the number of unread ones, and their rows. Of a list that nobody sees, only the
// number is asked for.
const changedChats = new Set(); // "" stands for all
const MAX_ROWS = 5; // more are asked for as a list
let chatsTimer = 0;
const updateChats = (chat = "") => {
  changedChats.add(chat);
  chatsTimer ||= setTimeout(() => {
    const [changed, home, list] = [[...changedChats], document.getElementById("home"), document.querySelector("#chats[data-newest]")];
    chatsTimer = 0;
    changedChats.clear();
    if (home) fetchLive("/", "", home, "outerMorph");
    const isWhole = changed.includes("") || changed.length > MAX_ROWS;
    if (list?.checkVisibility() && !isWhole) changed.forEach((each) => updateRow(list, each));
    else fetchOutOfBand("/counters");
    if (list?.checkVisibility() && isWhole) updateList(list);
  }, 300);
};
// Rows are ordered by time. One that is older than what is loaded comes with the next page.
const placeRow = (list, row) => {
  const timeOf = (each) => each.querySelector("time").dateTime;
  const old = list.querySelector(`[data-chat="${row.dataset.chat}"]`);
  const hasFocus = old?.contains(document.activeElement);
  old?.remove();
  const next = [...list.querySelectorAll("[data-chat]")].find((each) => timeOf(each) <= timeOf(row));
  const more = list.querySelector(".more");
  if (next) next.before(row);
  else if (!more) list.append(row);
  else if (old) more.before(row);
  if (hasFocus) row.querySelector("a").focus();
};
const fetchRows = async (list, path) => {
  const received = document.createElement("ul");
  stream().append(received);
  await fetchLive(path, "", received, "innerHTML");
  [...received.querySelectorAll("[data-chat]")].reverse().forEach((row) => placeRow(list, row));
  received.remove();
  markCurrent();
};
const updateRow = (list, chat) => fetchRows(list, `/chats/${chat}/row`);
const updateList = (list) => {
  // Of a list of which more than the first page is loaded, the rows of the first page are placed.
  if (list.children.length > 21) fetchRows(list, "/chats");
  else fetchLive("/chats", "", document.getElementById("results"), "outerMorph");
};
["chat", "unread"].forEach((name) => document.addEventListener(name, (event) => updateChats(event.detail.data.split(" ")[0])));
document.addEventListener("membership", () => updateChats());
matchMedia("(width >= 68.75rem)").addEventListener("change", () => updateChats()); // the list may appear
// A hidden tab has no stream, but its title counts.
setInterval(() => { if (document.hidden && stream()) fetchOutOfBand("/counters"); }, 60000);

// A hidden tab has no stream: a browser opens six connections to a host, which would all be in use.
const stream = () => document.getElementById("stream");
document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden && event.detail.ctx.sourceElement === stream()) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && stream() && window.htmx) htmx.trigger(stream(), "reopen");
});

// When the network is back, the stream is opened again at once: the browser may not know that the line was cut.
let connection = null;
document.addEventListener("htmx:sse:before:connection", (event) => { connection = event.detail.connection; });
window.addEventListener("online", () => {
  if (!stream() || !window.htmx) return;
  connection?.reader?.cancel();
  connection?.delayCanceller?.();
  htmx.trigger(stream(), "reopen");
});

// What stands in place of a button after an action stays for some seconds, and until nobody points at it: then the row
// leaves its list, or the button comes back.
const DONE_MILLISECONDS = 10000;
const isInUse = (element) => element.matches(":focus-within") || (matchMedia("(hover: hover)").matches && element.matches(":hover"));
const whenUnused = (element, done) => {
  const timer = setInterval(() => {
    if (element.isConnected && isInUse(element)) return;
    clearInterval(timer);
    if (element.isConnected) done();
  }, DONE_MILLISECONDS);
};
const finishDone = () => document.querySelectorAll("[data-done]:not([data-finishing])").forEach((done) => {
  done.dataset.finishing = "";
  const row = done.closest("[data-user]");
  whenUnused(row?.parentElement ?? done, () => {
    if (!done.isConnected) return; // undone
    if (document.getElementById("home")) fetchLive("/", "", document.getElementById("home"), "outerMorph");
    else if (row && "leaves" in done.dataset) row.remove();
    else updateRelationship(done);
  });
});
document.addEventListener("htmx:after:swap", finishDone);

const leaveDetail = () => {
  history.replaceState({ htmx: true }, "", listPage.path);
  closeDetail();
};
// A person who may no longer be seen disappears from the page.
document.addEventListener("htmx:response:error", (event) => {
  const { live, target, response } = event.detail.ctx;
  if (!live || response.status !== 404) return;
  const row = target.closest("[data-user]");
  if (row?.contains(document.activeElement)) document.getElementById("main").focus();
  if (row) {
    row.inert = true;
    whenUnused(row.parentElement, () => row.remove());
  } else if (detail()?.contains(target)) leaveDetail();
  else if (target.closest("#profile")) location.reload();
  fetchOutOfBand("/counters");
});

// Without a stream the page polls, each time that it fails to open one.
const poll = () => {
  updateChats();
  document.dispatchEvent(new Event("poll")); // for chat.js
  const buttons = document.querySelectorAll("#profile [data-friend]");
  buttons.forEach(updateRelationship);
  const rows = document.querySelector("#results [data-list]");
  if (rows && rows.children.length <= 21) {
    fetchLive(pagePath().split("?")[0], "", document.getElementById("results"), "outerMorph");
  }
};
document.addEventListener("stale", () => {
  if (detail() && isProfile(location.pathname)) location.assign(listPage.path);
  else location.reload();
});
document.addEventListener("htmx:response:error", (event) => {
  if (event.detail.ctx.sourceElement?.id === "stream") poll();
});
document.addEventListener("htmx:sse:error", (event) => {
  if (event.detail.status === 401) location.reload(); // logged out, by any tab or device
  else setTimeout(poll, 1000); // not if the page is only being left
});

// Logging out in one tab ends the others of this browser, once the page after it has come.
const others = window.BroadcastChannel && new BroadcastChannel("logout");
document.addEventListener("submit", (event) => {
  if (event.target.matches("[action$='/auth/logout']")) storage?.setItem("logout", "1");
});
const announceLogout = () => {
  if (storage?.getItem("logout") && !meta("tab")) others?.postMessage("");
  storage?.removeItem("logout");
};
others?.addEventListener("message", () => { if (meta("tab")) location.reload(); });

// A button that is swapped or removed loses the focus: it moves to the new button, or to the next row.
let lostFocus = null;
let pressed = null; // the person whose button was pressed, and whether on a profile
document.addEventListener("htmx:before:swap", (event) => {
  const { sourceElement, live, target } = event.detail.ctx;
  const button = sourceElement?.closest?.("[data-friend]");
  if (button && !live) pressed = { publicId: button.dataset.friend, isProfile: Boolean(button.closest("#profile")) };
  if (!button || (live && !target.contains?.(document.activeElement))) return;
  const row = button.closest("[data-user]");
  const rows = row?.parentElement;
  lostFocus = { publicId: button.dataset.friend, row, rows, index: rows ? [...rows.children].indexOf(row) : 0 };
});
// The person may be in the list and in the detail beside it; and on a profile, more than the button changes.
const updateOthers = () => {
  if (!pressed) return;
  const { publicId, isProfile: isOnProfile } = pressed;
  pressed = null;
  const buttons = [...document.querySelectorAll(`[data-friend="${CSS.escape(publicId)}"]`)];
  const isCurrent = (button) => Boolean(button.closest("#profile")) === isOnProfile;
  const isToUpdate = (button) => (isCurrent(button) ? isOnProfile && !("done" in button.dataset) : true);
  buttons.filter(isToUpdate).forEach(updateRelationship);
};
document.addEventListener("htmx:after:swap", () => {
  updateOthers();
  const lost = lostFocus;
  lostFocus = null;
  if (!lost || document.activeElement !== document.body) return;
  const { publicId, row, rows, index } = lost;
  const newButton = document.querySelector(`[data-friend="${CSS.escape(publicId)}"] :is(button, [tabindex])`);
  const links = rows && !row.isConnected ? rows.querySelectorAll(".row__link") : [];
  const next = newButton ?? links[Math.min(index, links.length - 1)];
  (next ?? document.querySelector("#main h1[tabindex]") ?? document.getElementById("main")).focus();
});

// Going back to a long list scrolls to the row that was opened, loading as many pages as that takes.
document.addEventListener("click", (event) => {
  const row = event.target.closest?.(".row__link")?.closest("[data-user]");
  if (row) history.replaceState({ ...history.state, row: row.id }, "");
});
const MAX_PAGES = 25;
const requestFinished = (link) => new Promise((resolve) => {
  const listener = (event) => {
    if (event.detail.ctx.sourceElement !== link && link.isConnected) return;
    document.removeEventListener("htmx:finally:request", listener);
    resolve();
  };
  document.addEventListener("htmx:finally:request", listener);
});
const scrollToRow = async (id) => {
  history.replaceState({ ...history.state, row: undefined }, "");
  for (let pages = 0; pages < MAX_PAGES; pages++) {
    const row = document.getElementById(id);
    const next = document.querySelector("[data-next]");
    if (row) {
      row.scrollIntoView({ block: "center" });
      row.querySelector("a").focus({ preventScroll: true });
    }
    if (row || !next) return;
    const finished = requestFinished(next);
    htmx.trigger(next, "click");
    await finished;
    if (next.isConnected) return; // it failed, and offers to try again
  }
};

// htmx 4.0.1 swallows clicks that open a new tab or window.
document.addEventListener("click", (event) => {
  const opensTab = event.ctrlKey || event.metaKey || event.shiftKey;
  if (opensTab && event.target.closest?.("a[href]")) event.stopImmediatePropagation();
}, true);

// Success notices disappear by themselves, unless hovered or focused. Errors stay.
const dismissLater = (notice) => {
  if (notice.dataset.kind !== "ok" || notice.dataset.leaving) return;
  notice.dataset.leaving = "";
  const timer = setInterval(() => {
    if (notice.matches(":hover, :focus-within")) return;
    clearInterval(timer);
    notice.remove();
  }, 8000);
};
// Three notices at most, and one for each subject: a later one takes the place of an earlier one.
const MAX_NOTICES = 3;
const arrangeToasts = () => {
  const notices = [...toasts().querySelectorAll(".notice")];
  const isOutdated = ({ dataset: { subject } }, index) => index < notices.length - MAX_NOTICES
    || (subject && notices.slice(index + 1).some((later) => later.dataset.subject === subject));
  notices.filter(isOutdated).forEach((notice) => notice.remove());
  toasts().querySelectorAll(".notice").forEach(dismissLater);
};
const watchToasts = () => {
  if (!toasts()) return;
  arrangeToasts();
  new MutationObserver(arrangeToasts).observe(toasts(), { childList: true });
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-dismiss]");
  if (button && button.matches("button")) button.closest(".notice").remove();
});

// A new theme shows at once; the server stores it.
const applyTheme = (value) => {
  if (value === "auto") delete root.dataset.theme;
  else root.dataset.theme = value;
};
document.addEventListener("change", (event) => { if (event.target.name === "theme") applyTheme(event.target.value); });

// A form that saves each change shows what is stored, also after a failure.
const savingForm = (context) => context?.sourceElement?.closest?.("[data-saves]");
document.addEventListener("htmx:after:request", (event) => {
  const form = event.detail.ctx.response?.status < 400 && savingForm(event.detail.ctx);
  if (!form) return;
  const sent = event.detail.ctx.request.body;
  form.querySelectorAll("input[type=radio], input[type=checkbox]").forEach((input) => { input.defaultChecked = sent.get(input.name) === input.value; });
  form.querySelectorAll("option").forEach((option) => { option.defaultSelected = sent.get(option.parentElement.name) === option.value; });
});
const resetSavingForm = (event) => {
  const form = savingForm(event.detail.ctx);
  form?.reset();
  if (form?.theme) applyTheme(form.theme.value);
};
document.addEventListener("htmx:response:error", resetSavingForm);
document.addEventListener("htmx:error", resetSavingForm);

// What works with JavaScript only appears: buttons to show a new password, which is then typed once, and to copy a text.
const showScripted = () => {
  document.querySelectorAll("[data-show-password][hidden]").forEach((button) => { button.hidden = false; });
  document.querySelectorAll("[data-copy][hidden]").forEach((button) => { button.hidden = false; });
  document.querySelectorAll("[data-without-script]:not([hidden])").forEach((part) => {
    part.hidden = true;
    part.querySelector("input").disabled = true; // or it would be sent
  });
};
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-show-password]");
  if (!button) return;
  const input = document.getElementById(button.dataset.showPassword);
  const shows = button.ariaPressed !== "true";
  button.ariaPressed = String(shows);
  input.type = shows ? "text" : "password";
  input.focus();
});
document.addEventListener("htmx:after:swap", showScripted);

// Another language or theme loads a visitor's page again. What was typed there stays, except for passwords.
const typedInputs = () => document.querySelectorAll("main form:not(.look) input[type=text]");
document.addEventListener("submit", (event) => {
  if (!event.target.matches(".look")) return;
  const typed = Array.from(typedInputs(), ({ id, value }) => [id, value]);
  storage?.setItem("typed", JSON.stringify({ path: location.pathname, typed }));
});
const restoreTyped = () => {
  const { path, typed } = JSON.parse(storage?.getItem("typed") ?? "{}");
  storage?.removeItem("typed");
  if (path !== location.pathname) return;
  typed.forEach(([id, value]) => { document.getElementById(id).value ||= value; });
};

// A value that is free in place of one that is taken.
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-fill]");
  if (!button) return;
  const input = document.getElementById(button.dataset.fill);
  input.value = button.textContent;
  input.focus();
});

// Copying a text. The clipboard exists on pages with TLS and on this machine only; elsewhere there is an older way.
const copyText = (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = document.body.appendChild(document.createElement("textarea"));
  box.value = text;
  box.select();
  document.execCommand("copy");
  box.remove();
};
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  await copyText(button.dataset.copy);
  const caption = button.firstElementChild;
  caption.dataset.caption ??= caption.textContent;
  caption.textContent = button.dataset.copied;
  setTimeout(() => { caption.textContent = caption.dataset.caption; }, 3000);
});

// How many characters are left. Counted in code points, as on the server.
document.addEventListener("input", (event) => {
  const { left, max } = event.target.dataset;
  if (!left) return;
  const hint = document.getElementById(`${event.target.id}-hint`);
  hint.textContent = left.replace("{}", max - [...event.target.value.trim().normalize("NFC")].length);
});

// The title and the icon of the tab say how many requests and chats wait.
const waiting = (name) => Number(document.querySelector(`#${name} [data-counter]`)?.textContent ?? 0);
const countInTitle = () => {
  const count = waiting("nav-friends") + waiting("nav-chats");
  const favicon = document.getElementById("favicon");
  favicon.dataset.plain ??= favicon.href;
  favicon.href = count ? `/favicon/${Math.min(count, 10)}.svg` : favicon.dataset.plain;
  document.title = (count ? `(${count}) ` : "") + document.title.replace(/^\(\d+\) /, "");
  if (meta("tab")) soundIfMore(waiting("nav-chats"));
};
document.addEventListener("htmx:after:swap", countInTitle);

// A short sound for new messages, where the settings say so.
const SOUND_SECONDS = 0.4;
const QUIET_MILLISECONDS = 2000; // one message may be told in two ways
let audio = null;
let soundedAt = -QUIET_MILLISECONDS;
const playSound = () => {
  if (!("sound" in root.dataset)) return;
  if (performance.now() < soundedAt + QUIET_MILLISECONDS) return;
  soundedAt = performance.now();
  audio ??= new AudioContext();
  audio.resume(); // browsers suspend it until somebody touches the page
  const now = audio.currentTime;
  const [tone, volume] = [audio.createOscillator(), audio.createGain()];
  tone.frequency.setValueAtTime(660, now);
  tone.frequency.setValueAtTime(880, now + 0.1);
  volume.gain.setValueAtTime(0.1, now);
  volume.gain.exponentialRampToValueAtTime(0.001, now + SOUND_SECONDS);
  tone.connect(volume).connect(audio.destination);
  tone.start();
  tone.stop(now + SOUND_SECONDS);
};
// Of several tabs that learn of a message, one plays it: the first, or of those at the same moment that with the lowest
// ticket.
const tabs = window.BroadcastChannel && new BroadcastChannel("unread");
const ticket = Math.random();
let knownUnread = null;
let soundTimer = 0;
tabs?.addEventListener("message", ({ data }) => {
  knownUnread = data.unread;
  if (data.ticket < ticket) clearTimeout(soundTimer);
});
const soundIfMore = (unread) => {
  if (unread === knownUnread) return;
  if (unread > (knownUnread ?? unread)) soundTimer = setTimeout(playSound, 100);
  knownUnread = unread;
  tabs?.postMessage({ unread, ticket });
};
document.addEventListener("change", (event) => {
  if (event.target.name !== "sound") return;
  root.toggleAttribute("data-sound", event.target.value === "on");
  playSound();
});

// Ctrl or ⌘ with K searches: on a page with a search box there, elsewhere for people.
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || !meta("tab")) return;
  event.preventDefault();
  const box = document.getElementById("q");
  if (box) box.select();
  else location.assign("/search");
});

// Back from a profile to the page that led there.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("[data-back]");
  const cameFromHere = detail() || document.referrer.startsWith(`${location.origin}/`);
  if (!link || !cameFromHere || history.length < 2) return;
  event.preventDefault();
  history.back();
});

// Times are in UTC in the page, and shown in the reader's time zone here.
if (window.moment) {
  moment.locale(root.lang);
  const inSentence = { // moment's own begin with a capital letter
    en: { sameDay: "[today at] LT", lastDay: "[yesterday at] LT", lastWeek: "[on] dddd [at] LT", sameElse: "D MMM YYYY" },
    ru: { sameDay: "[сегодня в] LT", lastDay: "[вчера в] LT", lastWeek: "D MMMM [в] LT", sameElse: "D MMM YYYY" },
  };
  // English has both ways to tell the time: the device knows which one its owner reads.
  const is24Hours = new Intl.DateTimeFormat(navigator.language, { hour: "numeric" }).resolvedOptions().hourCycle === "h23";
  const longDateFormat = { ...moment.localeData()._longDateFormat, ...(is24Hours && { LT: "HH:mm" }) };
  moment.updateLocale(root.lang, { calendar: inSentence[root.lang], longDateFormat });
}
const shortTime = (date) => {
  const days = (new Date().setHours(0, 0, 0, 0) - new Date(date).setHours(0, 0, 0, 0)) / 86400000;
  if (days < 1) return window.moment ? moment(date).format("LT") : date.toLocaleTimeString();
  const format = days < 7 ? { weekday: "short" } : { day: "numeric", month: "short" };
  return date.toLocaleDateString(root.lang, days < 300 ? format : { ...format, year: "numeric" });
};
const renderShortTimes = () => document.querySelectorAll("time[data-short]").forEach((time) => {
  time.textContent = shortTime(new Date(time.dateTime));
});
const renderTimes = () => window.flask_moment_render_all && window.flask_moment_render_all();
document.addEventListener("htmx:after:swap", renderTimes);
document.addEventListener("htmx:after:swap", renderShortTimes);

document.addEventListener("DOMContentLoaded", () => {
  watchToasts();
  renderShortTimes();
  showScripted();
  restoreTyped();
  announceLogout();
  countInTitle();
  setTimeout(beginList);
});
