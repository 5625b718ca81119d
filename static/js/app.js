// What pages do beyond HTML and htmx. Everything works without this file; nothing here decides anything.
"use strict";

const page = document.documentElement;
const toasts = () => document.getElementById("toasts");

const meta = (name) => document.querySelector(`meta[name=${name}]`)?.content;

// A forged post has no token; htmx sends the form's own, and this one where there is no form. The tab is named so that
// the stream of events does not tell it what it did itself.
document.addEventListener("htmx:config:request", (event) => {
  const { headers } = event.detail.ctx.request;
  if (meta("csrf-token")) headers["X-CSRFToken"] = meta("csrf-token");
  if (meta("tab")) headers["X-Tab"] = meta("tab");
});

// Failures leave the page as it is and say so: in the server's words where it has any, else in ours.
const complain = (words) => {
  const box = document.createElement("div");
  box.className = "notice";
  box.dataset.kind = "error";
  const text = document.createElement("p");
  text.textContent = words;
  const dismiss = document.createElement("button");
  dismiss.className = "btn btn--quiet";
  dismiss.type = "button";
  dismiss.dataset.dismiss = "";
  dismiss.textContent = toasts().dataset.dismiss;
  box.append(text, dismiss);
  toasts().append(box);
};

// What a page does by itself, nobody waits for: when that fails there is nothing to complain about.
const isOwnDoing = (context) => Boolean(context?.sourceElement?.closest?.("#stream") || context?.live);

document.addEventListener("htmx:response:error", (event) => {
  const { response, text } = event.detail.ctx;
  if (isOwnDoing(event.detail.ctx)) return;
  const notSwapped = response.status >= 500 || [403, 404, 413].includes(response.status);
  if (!notSwapped) return;
  const ours = response.headers.get("HX-Retarget") === "#toasts";
  const notice = ours && new DOMParser().parseFromString(text, "text/html").querySelector(".notice");
  if (notice) toasts().append(notice);
  else complain(toasts().dataset.broken);
});
document.addEventListener("htmx:error", (event) => {
  const { ctx } = event.detail;
  if (ctx && !isOwnDoing(ctx)) complain(toasts().dataset.offline);
});

// htmx writes the address of a list that failed into the history, too.
document.addEventListener("htmx:before:history:update", (event) => {
  if (event.detail.response?.status >= 400) event.preventDefault();
});

// The next page of a list comes by itself, once; when it does not, the link that was there offers to try again.
const retry = (event) => {
  const link = event.detail.ctx?.sourceElement;
  if (link?.matches?.("[data-next]")) link.textContent = toasts().dataset.again;
};
document.addEventListener("htmx:response:error", retry);
document.addEventListener("htmx:error", retry);

// Live: the stream says with whom something changed, and what is shown of them is fetched anew by its ordinary route.
const fetchLive = (path, place, target, swap = "outerHTML") => {
  const query = new URLSearchParams({ place, next: location.pathname + location.search });
  const typed = document.getElementById("q")?.value.trim();
  if (typed) query.set("q", typed);
  return htmx.ajax("GET", `${path}?${query}`, { source: target, target, swap, live: true });
};
// A source of its own for each request: htmx lets only one wait behind another of the same element.
const fetchAround = (path, place = "") => {
  const source = document.createElement("span");
  document.getElementById("stream")?.append(source);
  fetchLive(path, place, source).finally(() => source.remove());
};
const placeOf = (button) => button.querySelector("[name=place]")?.value ?? "";
const renewing = new Set(); // people of whom several changes come at once are fetched once
const renewSoon = (about) => {
  if (renewing.has(about)) return;
  renewing.add(about);
  setTimeout(() => { renewing.delete(about); renew(about); }, 50);
};
const renew = (about) => {
  const buttons = document.querySelectorAll(`[data-friend="${CSS.escape(about)}"]`);
  buttons.forEach((button) => {
    if (button.querySelector(":disabled")) setTimeout(renewSoon, 300, about); // its own answer is on the way
    else fetchLive(`/u/${about}/button`, placeOf(button), button);
  });
  if (!buttons.length) fetchAround(`/u/${about}/row`, document.querySelector("[data-list]")?.dataset.list);
};
document.addEventListener("friendship", (event) => renewSoon(event.detail.data));

// A tab that nobody looks at has no stream: a browser opens six lines to a host, and they would all be taken.
const stream = () => document.getElementById("stream");
document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden && event.detail.ctx.sourceElement === stream()) event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && stream() && window.htmx) htmx.trigger(stream(), "seen");
});

// Whoever cannot be seen any more leaves the page.
document.addEventListener("htmx:response:error", (event) => {
  const { live, target, response } = event.detail.ctx;
  if (!live || response.status !== 404) return;
  const row = target.closest("[data-user]");
  if (row?.contains(document.activeElement)) document.getElementById("main").focus();
  if (row) row.remove();
  else if (target.closest("#profile")) location.reload();
  fetchAround("/counters");
});

// Without a stream the page asks, every time that it tries in vain to get one.
const ask = () => {
  fetchAround("/counters");
  const buttons = document.querySelectorAll("#profile [data-friend]");
  buttons.forEach((button) => fetchLive(`/u/${button.dataset.friend}/button`, placeOf(button), button));
  const list = document.querySelector("#results [data-list]");
  if (list && list.children.length <= 21) {
    fetchLive(location.pathname, "", document.getElementById("results"), "outerMorph");
  }
};
document.addEventListener("stale", () => location.reload());
document.addEventListener("htmx:response:error", (event) => {
  if (event.detail.ctx.sourceElement?.id === "stream") ask();
});
document.addEventListener("htmx:sse:error", (event) => {
  if (event.detail.status === 401) location.reload(); // signed out, by whichever tab or device
  else setTimeout(ask, 1000); // not when the page is only being left
});

// What leaves or is drawn anew takes the focus along: it goes to what is there instead, or on to the next row.
let left = null;
document.addEventListener("htmx:before:swap", (event) => {
  const { sourceElement, live, target } = event.detail.ctx;
  const button = sourceElement?.closest?.("[data-friend]");
  if (!button || (live && !target.contains(document.activeElement))) return;
  const row = button.closest("[data-user]");
  const list = row?.parentElement;
  left = { about: button.dataset.friend, row, list, place: list ? [...list.children].indexOf(row) : 0 };
});
document.addEventListener("htmx:after:swap", () => {
  const was = left;
  left = null;
  if (!was || document.activeElement !== document.body) return;
  const { about, row, list, place } = was;
  const instead = document.querySelector(`[data-friend="${CSS.escape(about)}"] button`);
  const rows = list && !row.isConnected ? list.querySelectorAll(".row__link") : [];
  const next = instead ?? rows[Math.min(place, rows.length - 1)];
  (next ?? document.querySelector("#main h1[tabindex]") ?? document.getElementById("main")).focus();
});

// Back to a long list: to the row from which one left, as many pages down as it takes.
document.addEventListener("click", (event) => {
  const row = event.target.closest?.(".row__link")?.closest("[data-user]");
  if (row) history.replaceState({ ...history.state, row: row.id }, "");
});
const MOST_PAGES = 25;
const arrived = (link) => new Promise((done) => {
  const look = (event) => {
    if (event.detail.ctx.sourceElement !== link && link.isConnected) return;
    document.removeEventListener("htmx:finally:request", look);
    done();
  };
  document.addEventListener("htmx:finally:request", look);
});
const seek = async (id) => {
  history.replaceState({ ...history.state, row: undefined }, "");
  for (let pages = 0; pages < MOST_PAGES; pages++) {
    const row = document.getElementById(id);
    const next = document.querySelector("[data-next]");
    if (row) {
      row.scrollIntoView({ block: "center" });
      row.querySelector("a").focus({ preventScroll: true });
    }
    if (row || !next) return;
    const coming = arrived(next);
    htmx.trigger(next, "click");
    await coming;
    if (next.isConnected) return; // it did not come, and says so
  }
};

// htmx 4.0.1 swallows clicks that want a new tab or window.
document.addEventListener("click", (event) => {
  const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey;
  if (elsewhere && event.target.closest?.("a[href]")) event.stopImmediatePropagation();
}, true);

// Notices of what went well leave by themselves, unless somebody is reading them. Errors stay.
const leaveSoon = (notice) => {
  if (notice.dataset.kind !== "ok" || notice.dataset.leaving) return;
  notice.dataset.leaving = "";
  const timer = setInterval(() => {
    if (notice.matches(":hover, :focus-within")) return;
    clearInterval(timer);
    notice.remove();
  }, 8000);
};
const watchToasts = () => {
  if (!toasts()) return;
  toasts().querySelectorAll(".notice").forEach(leaveSoon);
  new MutationObserver(() => toasts().querySelectorAll(".notice").forEach(leaveSoon))
    .observe(toasts(), { childList: true });
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-dismiss]");
  if (button && button.matches("button")) button.closest(".notice").remove();
});

// The theme shows at once; the server keeps it.
document.addEventListener("change", (event) => {
  if (event.target.name !== "theme") return;
  if (event.target.value === "auto") delete page.dataset.theme;
  else page.dataset.theme = event.target.value;
});

// How much of a text is left to write. The server counts whole characters, and so does this.
document.addEventListener("input", (event) => {
  const { left, most } = event.target.dataset;
  if (!left) return;
  const hint = document.getElementById(`${event.target.id}-hint`);
  hint.textContent = left.replace("{}", most - [...event.target.value.trim().normalize("NFC")].length);
});

// Times: UTC in the page, the reader's own zone here.
if (window.moment) moment.locale(page.lang);
const renderTimes = () => window.flask_moment_render_all && window.flask_moment_render_all();
document.addEventListener("htmx:after:swap", renderTimes);

document.addEventListener("DOMContentLoaded", () => {
  watchToasts();
  if (history.state?.row && window.htmx) setTimeout(seek, 0, history.state.row);
});
