// What pages do beyond HTML and htmx. Everything works without this file; nothing here decides anything.
"use strict";

const page = document.documentElement;
const toasts = () => document.getElementById("toasts");

// A forged post has no token; htmx sends the form's own, and this one where there is no form.
document.addEventListener("htmx:config:request", (event) => {
  const token = document.querySelector("meta[name=csrf-token]");
  if (token) event.detail.ctx.request.headers["X-CSRFToken"] = token.content;
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

document.addEventListener("htmx:response:error", (event) => {
  const { response, text } = event.detail.ctx;
  const notSwapped = response.status >= 500 || [403, 404, 413].includes(response.status);
  if (!notSwapped) return;
  const ours = response.headers.get("HX-Retarget") === "#toasts";
  const notice = ours && new DOMParser().parseFromString(text, "text/html").querySelector(".notice");
  if (notice) toasts().append(notice);
  else complain(toasts().dataset.broken);
});
document.addEventListener("htmx:error", (event) => {
  if (event.detail.ctx) complain(toasts().dataset.offline);
});

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

document.addEventListener("DOMContentLoaded", watchToasts);
