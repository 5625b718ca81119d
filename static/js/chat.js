// The page of a conversation: live changes, sending, reading, drafts, typing. Everything works without this file.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const thread = document.getElementById("thread");
  const log = document.getElementById("log");
  const messages = document.getElementById("messages");
  const composer = document.getElementById("composer");
  const { body, client_id: clientId, reply_to: replyTo, seen } = composer.elements;
  const id = thread.dataset.conversation;
  const path = `/chats/${id}`;
  const all = () => [...messages.querySelectorAll(":scope > [data-message]")];
  const number = (message) => Number(message?.dataset.message ?? 0);
  const laterLink = () => messages.querySelector(":scope > .more:last-child");
  const isAtEnd = () => log.scrollTop > -50 && !laterLink(); // the column is reversed: 0 is its end
  // Each has a source of its own: htmx lets only one request of an element wait, and sends the form around it.
  const post = (action, values) => {
    const source = document.body.appendChild(document.createElement("span"));
    return htmx.ajax("POST", `${path}/${action}`, { source, swap: "none", values, live: true }).finally(() => source.remove());
  };

  // Days, in the reader's time zone, and which messages of one person belong together.
  const GROUP_MINUTES = 5;
  const dayName = (date) => {
    const days = Math.round((new Date(date).setHours(0, 0, 0, 0) - new Date().setHours(0, 0, 0, 0)) / 86400000);
    if (days === 0 || days === -1) return new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" }).format(days, "day");
    const year = date.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
    return date.toLocaleDateString(document.documentElement.lang, { day: "numeric", month: "long", ...year });
  };
  const makeDivider = (date) => {
    const divider = document.createElement("li");
    divider.className = "divider";
    divider.dataset.divider = "day";
    divider.textContent = dayName(date);
    return divider;
  };
  const arrange = () => {
    messages.querySelectorAll("[data-divider=day]").forEach((divider) => divider.remove());
    let last = { date: new Date(0) };
    all().forEach((message) => {
      const date = new Date(message.dataset.time);
      const isNewDay = date.toDateString() !== last.date.toDateString();
      const isClose = !isNewDay && date - last.date < GROUP_MINUTES * 60000;
      const continues = isClose && last.author === message.dataset.author && !("system" in message.dataset) && !last.isLine;
      const before = message.previousElementSibling?.matches("[data-divider=unread]") ? message.previousElementSibling : message;
      if (isNewDay) before.before(makeDivider(date));
      message.toggleAttribute("data-first", !continues || before !== message);
      last = { date, author: message.dataset.author, isLine: "system" in message.dataset };
    });
    messages.toggleAttribute("data-arranged", true);
  };

  // What has changed since the version that the page shows. Its answers alone advance the version.
  let isFetching = false;
  let isBehind = false;
  const fetchChanges = async () => {
    isBehind = true;
    if (isFetching) return;
    isFetching = true;
    while (isBehind) {
      isBehind = false;
      const query = `since=${messages.dataset.version}&from=${number(all()[0])}`;
      await htmx.ajax("GET", `${path}/changes?${query}`, { source: log, target: messages, swap: "upsert key:data-message sort", live: true });
    }
    isFetching = false;
  };
  document.addEventListener("chat", (event) => {
    const [conversation, version] = event.detail.data.split(" ");
    if (conversation === id && Number(version) > Number(messages.dataset.version)) fetchChanges();
  });
  document.addEventListener("htmx:sse:after:connection", fetchChanges);
  document.addEventListener("membership", (event) => { if (event.detail.data === id) fetchChanges(); });
  document.addEventListener("htmx:response:error", (event) => {
    const { ctx } = event.detail;
    if (ctx.response.status === 404 && ctx.live && ctx.target === messages) location.assign("/chats"); // no longer a member
  });

  const announce = (message) => {
    const author = message.querySelector(".msg__author, .sr")?.textContent ?? "";
    document.getElementById("announce").textContent = `${author} ${message.querySelector("[data-body]")?.textContent ?? ""}`;
  };
  let wasAtEnd = true;
  let anchor = null;
  document.addEventListener("htmx:before:swap", (event) => {
    const { ctx, tasks } = event.detail;
    wasAtEnd = isAtEnd();
    const last = all().at(-1);
    const isLater = ctx.sourceElement?.closest?.(".more") === laterLink() && laterLink();
    anchor = isLater && last ? { element: last, top: last.getBoundingClientRect().top } : null;
    if (ctx.target !== messages || !ctx.live) return;
    // Nothing is appended beyond messages that are not loaded, and no form is replaced in which somebody types.
    const isSkipped = (message) => (laterLink() && number(message) > number(last))
      || document.getElementById(message.id)?.querySelector("[data-editor]")?.contains(document.activeElement);
    const incoming = (tasks ?? []).flatMap((task) => [...(task.fragment?.querySelectorAll?.("[data-message]") ?? [])]);
    const news = incoming.filter((message) => number(message) > number(last) && !("own" in message.dataset));
    incoming.filter(isSkipped).forEach((message) => message.remove());
    if (news.length) announce(news.at(-1));
    if (news.length) document.getElementById("typing").textContent = "";
    document.getElementById("to-newest").hidden = !news.length || wasAtEnd;
  });
  document.addEventListener("htmx:after:swap", () => {
    messages.dataset.version = Math.max(messages.dataset.version, document.getElementById("version").dataset.version);
    arrange();
    if (anchor) log.scrollTop += anchor.element.getBoundingClientRect().top - anchor.top;
    anchor = null;
    markRead();
  });
  document.getElementById("to-newest").addEventListener("click", (event) => {
    if (laterLink()) location.assign(path);
    log.scrollTop = 0;
    event.currentTarget.hidden = true;
  });

  // What was on the screen of somebody who is there has been read.
  let readUpTo = Number(messages.dataset.read);
  let readTimer = 0;
  const markRead = () => {
    const end = log.getBoundingClientRect().bottom;
    const visible = all().filter((message) => message.getBoundingClientRect().top < end);
    if (!visible.length || document.hidden || !document.hasFocus()) return;
    seen.value = number(visible.at(-1));
    clearTimeout(readTimer);
    readTimer = setTimeout(() => {
      if (number(visible.at(-1)) <= readUpTo) return;
      readUpTo = number(visible.at(-1));
      post("read", { message_id: readUpTo });
    }, 300);
  };
  ["focus", "pointermove", "keydown"].forEach((name) => window.addEventListener(name, markRead, { passive: true }));
  log.addEventListener("scroll", () => {
    if (isAtEnd()) document.getElementById("to-newest").hidden = true;
    markRead();
  }, { passive: true });
  document.addEventListener("seen", (event) => {
    const [conversation, message] = event.detail.data.split(" ");
    if (conversation !== id) return;
    all().filter((own) => "own" in own.dataset && number(own) <= Number(message))
      .forEach((own) => own.querySelector("[data-state]")?.setAttribute("data-state", "read"));
  });

  // Sending. A message has one id, however often it is tried; the box is emptied once it was sent, if it still holds it.
  // randomUUID is missing without TLS.
  const newClientId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  let sending = null; // what was sent last and not yet stored: text, client id, whether the request is running
  let revision = Number(composer.dataset.revision);
  let draftTimer = 0;
  composer.addEventListener("submit", (event) => {
    if (sending?.isRunning && sending.text === body.value) {
      event.preventDefault();
      event.stopImmediatePropagation();
      return;
    }
    if (sending?.text !== body.value) sending = { text: body.value, clientId: newClientId() };
    sending.isRunning = true;
    clientId.value = sending.clientId;
    clearTimeout(draftTimer);
  }, true);
  const isComposer = (event) => event.detail.ctx?.sourceElement === composer;
  document.addEventListener("htmx:after:request", (event) => {
    if (!isComposer(event) || !event.detail.ctx.response) return;
    const { status } = event.detail.ctx.response;
    const sent = event.detail.ctx.request.body?.get?.("body");
    if (status === 409) sending = null;
    if (status >= 400) return;
    revision += 1;
    if (body.value === sent) {
      body.value = "";
      stopReplying();
      log.scrollTop = 0;
    }
  });
  document.addEventListener("htmx:finally:request", (event) => {
    if (isComposer(event) && sending) sending.isRunning = false;
    if (isComposer(event) && !body.value) sending = null;
  });
  body.addEventListener("keydown", (event) => {
    const isEnter = event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
    if (!isEnter || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    if (body.value.trim()) composer.requestSubmit();
  });

  // Drafts, and that somebody is typing.
  const TYPING_MILLISECONDS = 4000;
  let toldAt = 0;
  let typingTimer = 0;
  body.addEventListener("input", () => {
    clearTimeout(draftTimer);
    draftTimer = setTimeout(() => {
      revision += 1;
      post("draft", { body: body.value, revision });
    }, 1000);
    if (!body.value || Date.now() - toldAt < TYPING_MILLISECONDS) return;
    toldAt = Date.now();
    post("typing", {});
  });
  document.addEventListener("typing", (event) => {
    const [conversation, publicId] = event.detail.data.split(" ");
    if (conversation !== id) return;
    const author = messages.querySelector(`[data-author="${CSS.escape(publicId)}"] .msg__author`)?.textContent;
    const name = "group" in thread.dataset ? author ?? publicId : document.getElementById("h-thread").textContent;
    const typing = document.getElementById("typing");
    typing.textContent = typing.dataset.text.replace("{}", name);
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => { typing.textContent = ""; }, TYPING_MILLISECONDS + 1000);
  });

  // Replies, quoted messages, editing.
  const quoted = document.getElementById("quoted");
  const stopReplying = () => { replyTo.value = ""; quoted.hidden = true; };
  thread.addEventListener("click", (event) => {
    const reply = event.target.closest("[data-reply]");
    const quote = event.target.closest("[data-quote]");
    const found = quote && document.getElementById(`m-${quote.dataset.quote}`);
    if (!reply && !found && !event.target.closest("[data-no-reply]")) return;
    event.preventDefault();
    if (found) {
      found.scrollIntoView({ block: "center" });
      found.dataset.found = "";
      setTimeout(() => { delete found.dataset.found; }, 2000);
      return;
    }
    stopReplying();
    if (reply) {
      const message = reply.closest("[data-message]");
      replyTo.value = message.dataset.message;
      quoted.querySelector("[data-quoted]").textContent = message.querySelector("[data-body]").textContent;
      quoted.hidden = false;
    }
    body.focus();
  });
  messages.addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.target.closest("[data-editor]")?.querySelector("[data-cancel]").click();
  });

  arrange();
  document.getElementById("new")?.scrollIntoView({ block: "start" });
  markRead();
});
