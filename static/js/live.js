// Live updates, and what tells of news: numbers, title, icon and sound. Loaded for people who are logged in, after app.js.
"use strict";

const home = () => document.getElementById("home");
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
  announceNewcomer(publicId, Number(document.getElementById("newcomers")?.dataset.count ?? 0) + 1);
};
// Nobody is inserted above a row that somebody may be about to press: a link above the list announces them. On home,
// something always follows the list.
const announceNewcomer = (publicId, count) => {
  const list = document.querySelector("[data-list]");
  const rows = home() ? 1 : list?.children.length ?? 0;
  fetchOutOfBand(`/u/${publicId}/row`, list?.dataset.list, { rows, count });
};
document.addEventListener("friendship", (event) => updateSoon(event.detail.data));
document.addEventListener("accepted", (event) => {
  updateSoon(event.detail.data);
  fetchOutOfBand(`/u/${event.detail.data}/row`, "", { accepted: 1 });
});

// What happens in conversations changes the number of unread ones, and their rows. Of a list that nobody sees, only the
// number is asked for.
const updateNewest = () => {
  const newest = document.getElementById("home-chats");
  if (newest) fetchLive("/chats/newest", "", newest, "outerMorph", { rows: newest.querySelectorAll(".row").length });
};
const changedChats = new Set(); // "" stands for all
const MAX_ROWS = 5; // more are asked for as a list
let chatsTimer = 0;
const updateChats = (chat = "") => {
  changedChats.add(chat);
  chatsTimer ||= setTimeout(() => {
    const [changed, list] = [[...changedChats], document.querySelector("#chats[data-newest]")];
    chatsTimer = 0;
    changedChats.clear();
    updateNewest();
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
const fetchElements = async (path, selector) => {
  const received = document.createElement("ul");
  stream().append(received);
  await fetchLive(path, "", received, "innerHTML");
  const elements = [...received.querySelectorAll(selector)];
  received.remove();
  return elements;
};
const fetchRows = async (list, path) => {
  const rows = await fetchElements(path, "[data-chat]");
  rows.reverse().forEach((row) => placeRow(list, row));
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
// Whoever is online is shown alike in all lists of home, which asks for them each minute.
const showPresence = (online) => {
  const paths = [...online.querySelectorAll("a")].map((link) => link.pathname);
  home().querySelectorAll("[data-when-online]").forEach((label) => {
    const row = label.closest(".row");
    const isOnline = paths.includes(row.querySelector(".row__link").pathname);
    row.querySelector(".avatar").toggleAttribute("data-online", isOnline);
    label.hidden = !isOnline;
  });
  updateNewest();
};
document.addEventListener("htmx:after:swap", (event) => {
  const online = document.getElementById("online");
  if (online && !online.hidden && event.detail.ctx.target.id === "online") showPresence(online);
});
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

// What stands in place of a button after an action stays for some seconds, and until nobody points at anything in its
// list that could be pressed: then the row leaves the list, or the button comes back. On home, all of which that changes,
// until nobody points at anything there.
const DONE_MILLISECONDS = 10000;
const POINTED_AT = ":is(.row, .friend, a, button):hover";
const hasPointer = matchMedia("(hover: hover)");
const isPointedAt = (element) => hasPointer.matches && (element.matches(POINTED_AT) || element.querySelector(POINTED_AT));
// After a press with a mouse, the focus is only where the button was.
const hasFocus = (element) => element.matches(hasPointer.matches ? ":has(:focus-visible)" : ":focus-within");
const isInUse = (element) => hasFocus(element) || isPointedAt(element);
const whenUnused = (element, done) => {
  const timer = setInterval(() => {
    if (element.isConnected && isInUse(element)) return;
    clearInterval(timer);
    if (element.isConnected) done();
  }, DONE_MILLISECONDS);
};
const surroundings = (row) => home() ?? row.parentElement;
// The number of people found, and what an empty list says, are the server's words.
const refreshResults = () => fetchLive(pagePath().split("?")[0], "", document.getElementById("results"), "outerMorph");
const removeRow = (row) => {
  const list = row.parentElement;
  row.remove();
  if (document.getElementById("results-status")?.textContent.trim() && list.children.length <= 21) refreshResults();
};
const finishDone = () => document.querySelectorAll("[data-done]:not([data-finishing])").forEach((done) => {
  done.dataset.finishing = "";
  const row = done.closest("[data-user]");
  whenUnused(row ? surroundings(row) : done, () => {
    if (!done.isConnected) return; // undone
    if (home()) fetchLive("/", "", home(), "outerMorph");
    else if (row && "leaves" in done.dataset) removeRow(row);
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
    whenUnused(surroundings(row), () => removeRow(row));
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
  const list = document.querySelector("[data-list]");
  if (list && !home() && !list.children.length) refreshResults();
  else if (list && list.children.length <= 21 && !list.querySelector("[data-done]")) compareList(list);
};
// Who came into a list is announced above it, and who left it is marked, as if the stream had told.
const compareList = async (list) => {
  const [current] = await fetchElements(home() ? "/friends/incoming" : pagePath().split("?")[0], "[data-list]");
  if (!current) return; // it failed
  const idsIn = (each) => [...each.querySelectorAll("[data-user]")].map((row) => row.dataset.user);
  const [shownIds, listedIds] = [idsIn(list), idsIn(current)];
  const isNew = (id) => !shownIds.includes(id);
  const isOrdered = list.dataset.list === "friends"; // by name, the others by time
  const oldest = listedIds.findIndex((id) => !isNew(id));
  const newIds = isOrdered || oldest < 0 ? listedIds.filter(isNew) : listedIds.slice(0, oldest);
  const isAnnounced = Number(document.getElementById("newcomers")?.dataset.count) === newIds.length;
  if (newIds.length && !isAnnounced) announceNewcomer(newIds[0], newIds.length);
  shownIds.filter((id) => !listedIds.includes(id)).forEach(updateSoon);
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

// The second click of a double click would press what the first one has put there: Cancel, in place of Add.
document.addEventListener("click", (event) => {
  if (event.detail < 2 || !event.target.closest?.("[data-friend]")) return;
  event.preventDefault();
  event.stopPropagation();
}, true);

// A button that is swapped or removed loses the focus: it moves to the new button, or to the next row.
let lostFocus = null;
let pressed = null; // the person whose button was pressed, and whether on a profile
document.addEventListener("htmx:before:swap", (event) => {
  const { sourceElement, live, target } = event.detail.ctx;
  const button = sourceElement?.closest?.("[data-friend]");
  if (button && !live) pressed = { publicId: button.dataset.friend, isProfile: Boolean(button.closest("#profile")) };
  const row = button?.closest("[data-user]");
  if (row && button.dataset.friendship === "incoming") row.dataset.was = "incoming"; // and stays as high
  if (!button || (live && !target.contains?.(document.activeElement))) return;
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

// The title and the icon of the tab say how many requests and chats wait.
const waiting = (name) => Number(document.querySelector(`#${name} [data-counter]`)?.textContent ?? 0);
const countInTitle = () => {
  const count = waiting("nav-friends") + waiting("nav-chats");
  const favicon = document.getElementById("favicon");
  favicon.dataset.plain ??= favicon.href;
  favicon.href = count ? `/favicon/${Math.min(count, 10)}.svg` : favicon.dataset.plain;
  document.title = (count ? `(${count}) ` : "") + document.title.replace(/^\(\d+\) /, "");
  if (meta("tab")) playSoundIfMoreUnread(waiting("nav-chats"));
};
document.addEventListener("htmx:after:swap", countInTitle);

// A short sound for new messages, where the settings say so.
const SOUND_SECONDS = 0.4;
const MIN_SOUND_INTERVAL = 2000; // one message may be told in two ways
let audio = null;
let lastPlayedAt = -MIN_SOUND_INTERVAL;
const playSound = () => {
  if (!("sound" in root.dataset)) return;
  if (performance.now() < lastPlayedAt + MIN_SOUND_INTERVAL) return;
  lastPlayedAt = performance.now();
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
// Only one of several tabs plays it: the first to know, or of two at the same moment the one with the lower priority number.
const tabs = window.BroadcastChannel && new BroadcastChannel("unread");
const priority = Math.random();
let knownUnread = null;
let soundTimer = 0;
tabs?.addEventListener("message", ({ data }) => {
  knownUnread = data.unread;
  if (data.priority < priority) clearTimeout(soundTimer);
});
const playSoundIfMoreUnread = (unread) => {
  if (unread === knownUnread) return;
  if (unread > (knownUnread ?? unread)) soundTimer = setTimeout(playSound, 100);
  knownUnread = unread;
  tabs?.postMessage({ unread, priority });
};
document.addEventListener("change", (event) => {
  if (event.target.name !== "sound") return;
  root.toggleAttribute("data-sound", event.target.value === "on");
  playSound();
});
document.addEventListener("DOMContentLoaded", countInTitle);
