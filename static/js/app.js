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

// Errors leave the page as it is and show a notice: the server's if there is one, otherwise our own. What could not be
// loaded can be asked for again. isOffline: whether it is the network that does not answer.
const requestName = ({ method, action }) => `${method} ${action.split("?")[0]}`;
const showError = (message, ctx, isOffline) => {
  const notice = document.getElementById("error-notice").content.firstElementChild.cloneNode(true);
  notice.dataset.subject = message;
  if (isOffline) notice.dataset.offline = "";
  else notice.dataset.request = requestName(ctx.request);
  notice.querySelector("p").textContent = message;
  const again = notice.querySelector("[data-retry]");
  if (ctx.request.method !== "GET") again.remove();
  again.addEventListener("click", () => {
    notice.remove();
    repeat(ctx);
  });
  toasts().append(notice);
};
const repeat = ({ again, sourceElement }) => {
  if (again) again(); // see detail.js
  else if (sourceElement.isConnected && sourceElement !== document.body) htmx.trigger(sourceElement, sourceElement.matches("form") ? "submit" : "click");
  else location.reload();
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
  else if (!isNextPage(ctx)) showError(request.method === "GET" ? notLoaded : broken, ctx);
});
document.addEventListener("htmx:error", (event) => {
  const { ctx } = event.detail;
  if (!ctx || isBackground(ctx) || isNextPage(ctx) || ctx.outcome) return;
  showError(ctx.request.method === "GET" ? toasts().dataset.notReached : toasts().dataset.offline, ctx, true);
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

// Logging out in one tab ends the others of this browser, once the page after it has come. None of them keeps what was
// typed and not sent.
const others = window.BroadcastChannel && new BroadcastChannel("logout");
document.addEventListener("submit", (event) => {
  if (event.target.matches("[action$='/auth/logout']")) storage?.setItem("logout", "here");
});
const announceLogout = () => {
  const logout = storage?.getItem("logout");
  if (logout && !meta("tab")) {
    if (logout === "here") others?.postMessage("");
    storage.clear();
  }
  storage?.removeItem("logout");
};
others?.addEventListener("message", () => {
  if (!meta("tab")) return;
  storage?.setItem("logout", "elsewhere");
  location.reload();
});

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
// Three notices at most, one where there is little room, and one for each subject: a later one takes the place of an
// earlier one. Nothing that could be pressed is below them: components.css.
const MAX_NOTICES = 3;
const isNarrow = matchMedia("(width < 45rem)");
const subjectOf = (notice) => notice.dataset.subject || notice.querySelector("p").textContent.trim();
const arrangeToasts = () => {
  const notices = [...toasts().querySelectorAll(".notice")];
  const isRepeated = (notice, index) => notices.slice(index + 1).some((later) => subjectOf(later) === subjectOf(notice));
  notices.filter(isRepeated).forEach((notice) => notice.remove());
  const left = notices.filter((notice) => notice.isConnected);
  const most = meta("tab") && isNarrow.matches ? 1 : MAX_NOTICES;
  const isTooMany = () => left.length > most || left.some((notice) => notice.offsetTop < 0);
  while (left.length > 1 && isTooMany()) left.shift().remove();
  left.forEach(dismissLater);
  if (!meta("tab")) left.at(-1)?.scrollIntoView({ block: "nearest" }); // it is in its place at the top of the page
};
const watchToasts = () => {
  if (!toasts()) return;
  arrangeToasts();
  new MutationObserver(arrangeToasts).observe(toasts(), { childList: true });
  new ResizeObserver(arrangeToasts).observe(toasts());
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-dismiss]");
  if (button && button.matches("button")) button.closest(".notice").remove();
});

// A new theme shows at once, around the page too; the server stores it.
const applyTheme = (value) => {
  if (value === "auto") delete root.dataset.theme;
  else root.dataset.theme = value;
  document.querySelectorAll("meta[name=theme-color]").forEach((color) => {
    const { theme, scheme } = color.dataset;
    color.media = { auto: `(prefers-color-scheme: ${scheme})`, [theme]: "all" }[value] ?? "not all";
  });
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

// Another language or theme loads a visitor's page again. What was typed there stays, except for passwords, shown or not.
const typedInputs = () => document.querySelectorAll(
  "main form:not(.look) :is(input[type=text]:not([autocomplete$=-password]), input[type=checkbox])[id]",
);
document.addEventListener("submit", (event) => {
  if (!event.target.matches(".look")) return;
  const typed = Object.fromEntries(Array.from(typedInputs(), ({ id, value, checked }) => [id, { value, checked }]));
  storage?.setItem("typed", JSON.stringify({ path: location.pathname, typed }));
});
const restoreTyped = () => {
  const { path, typed } = JSON.parse(storage?.getItem("typed") ?? "{}");
  storage?.removeItem("typed");
  if (path !== location.pathname) return;
  for (const input of typedInputs()) {
    const { value, checked } = typed[input.id] ?? input;
    if (input.type === "checkbox") input.checked = checked;
    else input.value ||= value;
  }
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

// Ctrl or ⌘ with K searches: on a page that shows a search box there, elsewhere for people.
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || !meta("tab")) return;
  event.preventDefault();
  const box = document.getElementById("q");
  if (box?.checkVisibility()) box.select();
  else location.assign("/search");
});

// Times are in UTC in the page, and shown in the reader's time zone here.
if (window.moment) {
  moment.locale(root.lang);
  const inSentence = { // moment's own begin with a capital letter
    en: { sameDay: "[today at] LT", lastDay: "[yesterday at] LT", lastWeek: "[on] dddd [at] LT", sameElse: "D MMM YYYY" },
    ru: { sameDay: "[сегодня в] LT", lastDay: "[вчера в] LT", lastWeek: "D MMMM [в] LT", sameElse: "D MMM YYYY" },
  };
  // English has both ways to tell the time: the device knows which one its owner reads. Russian has one.
  const is24Hours = new Intl.DateTimeFormat(navigator.language, { hour: "numeric" }).resolvedOptions().hourCycle === "h23";
  const longDateFormat = { ...moment.localeData()._longDateFormat, ...(root.lang === "en" && is24Hours && { LT: "HH:mm" }) };
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
  root.toggleAttribute("data-htmx-missing", !window.htmx);
  watchToasts();
  renderShortTimes();
  showScripted();
  restoreTyped();
  announceLogout();
});
