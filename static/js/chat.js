// A conversation: its log, which follows what changes. Everything works without this file. composer.js has the form below
// the log, message_menu.js the menus in it.
"use strict";

// What can be seen of the conversation that is open, and how to ask the server about it; null without one.
let conversation = null;
const loaded = new Promise((resolve) => { document.addEventListener("DOMContentLoaded", resolve); }); // with htmx

const makeConversation = (thread) => {
  const controller = new AbortController();
  const { conversation: id } = thread.dataset;
  const path = `/chats/${id}`;
  const messages = document.getElementById("messages");
  const log = document.getElementById("log");
  const laterLink = () => messages.querySelector(":scope > .more:not(:first-child)"); // others follow that are not loaded
  return {
    id,
    path,
    thread,
    log,
    messages,
    laterLink,
    isGroup: "group" in thread.dataset,
    all: () => [...messages.querySelectorAll(":scope > [data-message]")],
    isAtEnd: () => log.scrollTop > -50 && !laterLink(), // the column is reversed: 0 is its end
    on: (target, name, listener, options) => target.addEventListener(name, listener, { signal: controller.signal, ...options }),
    close: () => controller.abort(),
    // Resolves to the status of the answer; 0 where there is none. Each request has a source of its own, since htmx lets
    // only one of an element wait. What is posted is something that the person does.
    request: async (method, suffix, options = {}) => {
      await loaded;
      if (!window.htmx) return 0;
      const source = document.body.appendChild(document.createElement("span"));
      const outcome = { status: 0, thread };
      await htmx.ajax(method, path + suffix, { source, target: source, swap: "none", live: method === "GET", outcome, ...options });
      source.remove();
      return outcome.status;
    },
  };
};
const UPSERT = "upsert key:data-message sort";
const number = (message) => Number(message?.dataset.message ?? 0);
document.addEventListener("htmx:after:request", (event) => {
  const { outcome, response } = event.detail.ctx;
  if (outcome) outcome.status = response?.status ?? 0;
});
// Responses for a conversation that is no longer open are dropped.
document.addEventListener("htmx:before:response", (event) => {
  const { outcome } = event.detail.ctx;
  if (outcome && outcome.thread !== conversation?.thread) event.preventDefault();
});

// Days, in the reader's time zone, which messages of one person belong together, and which are nothing but emoji.
const GROUP_MINUTES = 5;
const EMOJI = (() => {
  try { return new RegExp("^(\\p{RGI_Emoji}\\s*){1,3}$", "v"); } catch { return /(?!)/; } // browsers before 2023
})();
const dayName = (date) => {
  const language = document.documentElement.lang;
  const days = Math.round((new Date(date).setHours(0, 0, 0, 0) - new Date().setHours(0, 0, 0, 0)) / 86400000);
  if (days === 0 || days === -1) {
    const name = new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(days, "day");
    return name[0].toUpperCase() + name.slice(1);
  }
  const year = date.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return date.toLocaleDateString(language, { day: "numeric", month: "long", ...year });
};
const makeDivider = (date) => {
  const divider = document.createElement("li");
  divider.className = "divider";
  divider.dataset.divider = "day";
  divider.textContent = dayName(date);
  return divider;
};
const arrange = ({ messages, all }) => {
  messages.querySelectorAll("[data-divider=day]").forEach((divider) => divider.remove());
  let last = { date: new Date(0) };
  all().forEach((message) => {
    const date = new Date(message.dataset.time);
    const isSystem = "system" in message.dataset;
    const isNewDay = date.toDateString() !== last.date.toDateString();
    const isClose = !isNewDay && date - last.date < GROUP_MINUTES * 60000;
    const continues = isClose && last.author === message.dataset.author && !isSystem && !last.isSystem;
    const before = message.previousElementSibling?.matches("[data-divider=unread]") ? message.previousElementSibling : message;
    if (isNewDay) before.before(makeDivider(date));
    message.toggleAttribute("data-first", !continues || before !== message);
    message.toggleAttribute("data-emoji", EMOJI.test(message.querySelector("[data-body]")?.textContent ?? ""));
    last = { date, author: message.dataset.author, isSystem };
  });
  messages.toggleAttribute("data-arranged", true);
};

const openLog = (chat) => {
  const { id, path, thread, log, messages, all, on, request, laterLink, isAtEnd } = chat;
  const find = (messageId) => document.getElementById(`m-${messageId}`);

  // What has changed since the version that the page shows. Its answers alone advance the version; one that fails is
  // asked for again.
  let isFetching = false;
  let isBehind = false;
  let wake = () => {};
  const pause = (milliseconds) => new Promise((resolve) => { wake = resolve; setTimeout(resolve, milliseconds); });
  const fetchChanges = async () => {
    isBehind = true;
    wake();
    if (isFetching) return;
    isFetching = true;
    for (let wait = 1000; isBehind && conversation === chat; wait = Math.min(2 * wait, 30000)) {
      isBehind = false;
      const query = `since=${messages.dataset.version}&from=${number(all()[0])}`;
      const status = await request("GET", `/changes?${query}`, { target: messages, swap: UPSERT, isChanges: true });
      if (status === 404 && conversation === chat) location.assign("/chats"); // no longer a member
      if (status && status < 500 && status !== 408 && status !== 429) continue;
      isBehind = true;
      await pause(wait);
    }
    isFetching = false;
  };
  on(document, "chat", (event) => {
    const [changed, version] = event.detail.data.split(" ");
    if (changed === id && Number(version) > Number(messages.dataset.version)) fetchChanges();
  });
  on(document, "membership", (event) => { if (event.detail.data === id) fetchChanges(); });
  ["htmx:sse:after:connection", "poll"].forEach((name) => on(document, name, fetchChanges));
  // Whoever is blocked, or no longer, is shown differently everywhere.
  on(document, "friendship", (event) => {
    const isShown = messages.querySelector(`[data-author="${CSS.escape(event.detail.data)}"]`);
    if (chat.isGroup && isShown) location.reload();
  });

  // Screen readers are told of others' new messages.
  const announce = (news) => {
    const texts = news.map((message) => {
      if ("system" in message.dataset) return message.querySelector("bdi").textContent;
      const text = message.querySelector("[data-body]")?.textContent;
      return text && `${message.querySelector(".msg__author, .sr")?.textContent ?? ""} ${text}`;
    });
    document.getElementById("announce").textContent = texts.filter(Boolean).join(". ");
  };

  let before = {}; // what the log was like before a swap
  let versionBeforeGap = null; // of the last changes that could be shown, while others that are not loaded follow
  const divider = messages.querySelector("[data-divider=unread]"); // stays while the page is open
  const firstUnread = divider?.nextElementSibling.id;
  const isOurs = (ctx) => Boolean(ctx.outcome) || (ctx.target instanceof Node && messages.contains(ctx.target));
  on(document, "htmx:before:swap", (event) => {
    const { ctx, tasks } = event.detail;
    ctx.isOfLog = isOurs(ctx); // later its target may be gone
    if (!ctx.isOfLog) return;
    const last = all().at(-1);
    const isLater = laterLink()?.contains(ctx.sourceElement);
    const focused = document.activeElement?.closest?.("[data-message]")?.id;
    const unsent = [...messages.querySelectorAll(":scope > [data-pending]")];
    const openedMenu = messages.querySelector(".menu:popover-open");
    before = { isAtEnd: isAtEnd(), focused, openedMenu, unsent, anchor: isLater ? { last, top: last.getBoundingClientRect().top } : null };
    const incoming = (tasks ?? []).flatMap((task) => [...(task.fragment?.querySelectorAll?.("[data-message]") ?? [])]);
    if (isLater || ctx.sourceElement?.closest?.(".more")) incoming.forEach((message) => document.getElementById(message.id)?.remove());
    if (!ctx.isChanges) return;
    const news = incoming.filter((message) => number(message) > number(last) && !("own" in message.dataset));
    // Nothing is appended beyond messages that are not loaded, and no form is replaced.
    const isBeyond = (message) => laterLink() && number(message) > number(last);
    const isEdited = (message) => document.getElementById(message.id)?.querySelector("[data-editor]");
    if (incoming.some(isBeyond)) versionBeforeGap ??= messages.dataset.version;
    incoming.filter((message) => isBeyond(message) || isEdited(message)).forEach((message) => message.remove());
    announce(news);
    if (news.length) document.getElementById("typing").removeAttribute("data-shown");
    hasNews ||= news.length > 0 && !before.isAtEnd;
    if (news.length && !document.hasFocus()) playSound();
  });
  on(document, "htmx:after:swap", (event) => {
    const { ctx } = event.detail;
    if (!ctx.isOfLog) return;
    const { anchor, focused, openedMenu, unsent } = before;
    messages.dataset.version = Math.max(messages.dataset.version, document.getElementById("version").dataset.version);
    messages.append(...unsent.filter((bubble) => !bubble.isConnected));
    if (divider && !divider.isConnected) document.getElementById(firstUnread)?.before(divider);
    arrange(chat);
    if (anchor?.last.isConnected) log.scrollTop += anchor.last.getBoundingClientRect().top - anchor.top;
    else if (before.isAtEnd && ctx.outcome) log.scrollTop = 0;
    if (focused && document.activeElement === document.body) (document.getElementById(focused)?.querySelector("[popovertarget]") ?? log).focus();
    const menu = openedMenu && !openedMenu.isConnected && document.getElementById(openedMenu.id);
    if (menu) {
      menu.style.cssText = openedMenu.style.cssText;
      menu.showPopover();
    }
    if (versionBeforeGap !== null && !laterLink()) {
      messages.dataset.version = versionBeforeGap;
      versionBeforeGap = null;
      fetchChanges();
    }
    updateJump();
    markRead();
  });

  // Where one was, or others wrote while one read what is above: a button leads there.
  const jump = document.getElementById("jump");
  let hasNews = false;
  let origin = null; // the message from which one went to the one that it quotes
  const load = (query) => request("GET", `?${query}`, { target: messages, swap: "innerHTML" });
  const updateJump = () => {
    if (isAtEnd()) hasNews = false;
    jump.dataset.shows = (origin && "reply") || (hasNews && "news") || "newest";
    jump.hidden = !origin && !hasNews && !laterLink() && log.scrollTop > -log.clientHeight;
  };
  const showMessage = async (messageId) => {
    if (!find(messageId)) await load(`around=${messageId}`);
    const message = find(messageId);
    if (!message) {
      showError(toasts().dataset.notLoaded);
      return;
    }
    message.scrollIntoView({ block: "center" });
    message.tabIndex = -1;
    message.focus({ preventScroll: true });
    message.dataset.found = "";
    setTimeout(() => { delete message.dataset.found; }, 2000);
  };
  chat.showNewest = async () => {
    origin = null;
    if (laterLink()) await load(`before=${Number.MAX_SAFE_INTEGER}`);
    log.scrollTop = 0;
    updateJump();
  };
  on(jump, "click", () => {
    if (origin) showMessage(origin);
    else chat.showNewest();
    origin = null;
    updateJump();
  });
  on(messages, "click", (event) => {
    const quote = event.target.closest("[data-quote]");
    if (!quote || !window.htmx || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    origin = quote.closest("[data-message]").dataset.message;
    showMessage(quote.dataset.quote).then(updateJump);
  });

  // What was on the screen of somebody who is there has been read.
  const PRESENT_MILLISECONDS = 60000;
  let readUpTo = Number(messages.dataset.read);
  let readTimer = 0;
  let activeAt = Date.now();
  chat.seenUpTo = 0;
  const markRead = () => {
    const newest = number(all().at(-1));
    if (newest <= readUpTo && newest <= chat.seenUpTo) return;
    const isPresent = Date.now() - activeAt < PRESENT_MILLISECONDS;
    if (document.hidden || !document.hasFocus() || !isPresent || readTimer) return;
    readTimer = setTimeout(async () => {
      readTimer = 0;
      const end = log.getBoundingClientRect().bottom;
      const seen = all().findLast((message) => message.getBoundingClientRect().top < end);
      chat.seenUpTo = Math.max(chat.seenUpTo, number(seen));
      if (chat.seenUpTo <= readUpTo || conversation !== chat) return;
      const upTo = chat.seenUpTo;
      const status = await request("POST", "/read", { values: { message_id: upTo } });
      if (status && status < 300) readUpTo = Math.max(readUpTo, upTo);
    }, 300);
  };
  ["focus", "pointermove", "pointerdown", "keydown"].forEach((name) => on(window, name, () => {
    activeAt = Date.now();
    markRead();
  }, { passive: true }));
  on(log, "scroll", () => {
    updateJump();
    markRead();
  }, { passive: true });
  on(document, "seen", (event) => {
    const [changed, message] = event.detail.data.split(" ");
    if (changed !== id) return;
    all().filter((own) => "own" in own.dataset && number(own) <= Number(message))
      .forEach((own) => own.querySelector("[data-state]")?.setAttribute("data-state", "read"));
  });

  arrange(chat);
  const opensAt = document.querySelector(":target")?.closest("#messages > *") ?? document.getElementById("new");
  opensAt?.scrollIntoView({ block: "start" });
  updateJump();
  markRead();
};

const openConversation = () => {
  const thread = document.getElementById("thread");
  if (thread === (conversation?.thread ?? null)) return;
  conversation?.saveUnsent();
  conversation?.close();
  conversation = thread && makeConversation(thread);
  if (!conversation) return;
  openLog(conversation);
  openComposer(conversation);
  openMenus(conversation);
};
openConversation();
["htmx:after:swap", "detail-closed"].forEach((name) => document.addEventListener(name, openConversation)); // beside the list
