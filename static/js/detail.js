// Pages with a list and its detail, and going back to a list. Loaded for people who are logged in, after app.js.
"use strict";

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
  const again = () => openDetail(path, options);
  htmx.ajax("GET", path, { source: detail(), target: detail(), swap: "innerHTML", wanted, again, ...options });
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
  setTimeout(() => { // after the address has changed; it may have changed again
    if (isDetail(location.pathname) && currentPath() !== shownPath) openDetail(currentPath());
    else describeDetail();
  });
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
  if (!restoresDetail() || currentPath() === (wanted.path || listPage.path)) return; // only the part after # has changed
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

// Back from a profile to the page that led there.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("[data-back]");
  const cameFromHere = detail() || document.referrer.startsWith(`${location.origin}/`);
  if (!link || !cameFromHere || history.length < 2) return;
  event.preventDefault();
  history.back();
});

// A search beside an open chat leaves the address of the chat.
document.addEventListener("htmx:before:history:update", (event) => {
  const { type } = event.detail.history;
  if (chats() && isDetail(location.pathname) && type === "replace") event.preventDefault();
});

document.addEventListener("DOMContentLoaded", () => setTimeout(beginList));
