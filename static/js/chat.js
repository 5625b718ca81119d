// The page of a conversation: live changes, sending, reading, drafts, typing. Everything works without this file.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const thread = document.getElementById("thread");
  const log = document.getElementById("log");
  const messages = document.getElementById("messages");
  const composer = document.getElementById("composer");
  const { body, reply_to: replyTo, csrf_token: token } = composer.elements;
  const toNewest = document.getElementById("to-newest");
  const id = thread.dataset.conversation;
  const path = `/chats/${id}`;
  const UPSERT = "upsert key:data-message sort";
  const all = () => [...messages.querySelectorAll(":scope > [data-message]")];
  const number = (message) => Number(message?.dataset.message ?? 0);
  const laterLink = () => messages.querySelector(":scope > .more:not(:first-child)"); // others follow that are not loaded
  const isAtEnd = () => log.scrollTop > -50 && !laterLink(); // the column is reversed: 0 is its end

  // Resolves to the status of the answer; 0 where there is none. Each request has a source of its own, since htmx lets
  // only one of an element wait. What is posted is something that the person does.
  const request = async (method, action, options = {}) => {
    const source = document.body.appendChild(document.createElement("span"));
    const outcome = { status: 0 };
    await htmx.ajax(method, `${path}/${action}`, { source, target: source, swap: "none", live: method === "GET", outcome, ...options });
    source.remove();
    return outcome.status;
  };
  document.addEventListener("htmx:after:request", (event) => {
    const { outcome, response } = event.detail.ctx;
    if (outcome) outcome.status = response?.status ?? 0;
  });

  // Days, in the reader's time zone, and which messages of one person belong together.
  const GROUP_MINUTES = 5;
  const language = document.documentElement.lang;
  const dayName = (date) => {
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
  const arrange = () => {
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
      last = { date, author: message.dataset.author, isSystem };
    });
    messages.toggleAttribute("data-arranged", true);
  };

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
    for (let wait = 1000; isBehind; wait = Math.min(2 * wait, 30000)) {
      isBehind = false;
      const query = `since=${messages.dataset.version}&from=${number(all()[0])}`;
      const status = await request("GET", `changes?${query}`, { target: messages, swap: UPSERT, isChanges: true });
      if (status === 404) location.assign("/chats"); // no longer a member
      if (status && status < 500 && status !== 408 && status !== 429) continue;
      isBehind = true;
      await pause(wait);
    }
    isFetching = false;
  };
  document.addEventListener("chat", (event) => {
    const [conversation, version] = event.detail.data.split(" ");
    if (conversation === id && Number(version) > Number(messages.dataset.version)) fetchChanges();
  });
  document.addEventListener("membership", (event) => { if (event.detail.data === id) fetchChanges(); });
  ["htmx:sse:after:connection", "poll"].forEach((name) => document.addEventListener(name, fetchChanges));
  // Whoever is blocked, or no longer, is shown differently everywhere.
  document.addEventListener("friendship", (event) => {
    const isShown = messages.querySelector(`[data-author="${CSS.escape(event.detail.data)}"]`);
    if ("group" in thread.dataset && isShown) location.reload();
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
  const focusedMessage = () => document.activeElement?.closest?.("[data-message]");
  const isOurs = (ctx) => Boolean(ctx.outcome) || (ctx.target instanceof Node && messages.contains(ctx.target));
  document.addEventListener("htmx:before:swap", (event) => {
    const { ctx, tasks } = event.detail;
    if (!isOurs(ctx)) return;
    const last = all().at(-1);
    const isLater = laterLink()?.contains(ctx.sourceElement);
    const anchor = isLater ? { last, top: last.getBoundingClientRect().top } : null;
    before = { isAtEnd: isAtEnd(), focused: focusedMessage()?.id, anchor };
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
    if (news.length) document.getElementById("typing").textContent = "";
    if (news.length && !before.isAtEnd) toNewest.hidden = false;
  });
  document.addEventListener("htmx:after:swap", (event) => {
    const { ctx } = event.detail;
    if (!isOurs(ctx)) return;
    messages.dataset.version = Math.max(messages.dataset.version, document.getElementById("version").dataset.version);
    all().forEach((message) => document.getElementById(`c-${message.dataset.clientId}`)?.remove());
    arrange();
    const { anchor, focused } = before;
    if (anchor?.last.isConnected) log.scrollTop += anchor.last.getBoundingClientRect().top - anchor.top;
    else if (before.isAtEnd && ctx.outcome) log.scrollTop = 0;
    if (focused && document.activeElement === document.body) document.getElementById(focused)?.querySelector("[popovertarget]")?.focus();
    if (versionBeforeGap !== null && !laterLink()) {
      messages.dataset.version = versionBeforeGap;
      versionBeforeGap = null;
      fetchChanges();
    }
    followState();
    markRead();
  });
  toNewest.addEventListener("click", () => {
    if (laterLink()) location.assign(`${path}?before=${Number.MAX_SAFE_INTEGER}`);
    log.scrollTop = 0;
    toNewest.hidden = true;
  });

  // Whether one can write may change, and the message that one answers may be deleted.
  const followState = () => {
    const isReadOnly = document.getElementById("chat-state").hasAttribute("data-read-only");
    body.readOnly = isReadOnly;
    composer.querySelector(".btn--primary").disabled = isReadOnly;
    if (replyTo.value && document.getElementById(`m-${replyTo.value}`)?.hasAttribute("data-deleted")) stopReplying();
  };

  // What was on the screen of somebody who is there has been read.
  const PRESENT_MILLISECONDS = 60000;
  let readUpTo = Number(messages.dataset.read);
  let seenUpTo = 0;
  let readTimer = 0;
  let activeAt = Date.now();
  const markRead = () => {
    const newest = number(all().at(-1));
    if (newest <= readUpTo && newest <= seenUpTo) return;
    const isPresent = Date.now() - activeAt < PRESENT_MILLISECONDS;
    if (document.hidden || !document.hasFocus() || !isPresent || readTimer) return;
    readTimer = setTimeout(async () => {
      readTimer = 0;
      const end = log.getBoundingClientRect().bottom;
      seenUpTo = number(all().findLast((message) => message.getBoundingClientRect().top < end));
      if (seenUpTo <= readUpTo) return;
      const upTo = seenUpTo;
      if (await request("POST", "read", { values: { message_id: upTo } }) < 300) readUpTo = Math.max(readUpTo, upTo);
    }, 300);
  };
  ["focus", "pointermove", "pointerdown", "keydown"].forEach((name) => window.addEventListener(name, () => {
    activeAt = Date.now();
    markRead();
  }, { passive: true }));
  log.addEventListener("scroll", () => {
    if (isAtEnd()) toNewest.hidden = true;
    markRead();
  }, { passive: true });
  document.addEventListener("seen", (event) => {
    const [conversation, message] = event.detail.data.split(" ");
    if (conversation !== id) return;
    all().filter((own) => "own" in own.dataset && number(own) <= Number(message))
      .forEach((own) => own.querySelector("[data-state]")?.setAttribute("data-state", "read"));
  });

  // Sending: the text moves from the box into a bubble, which is replaced by the stored message, whichever answer brings
  // it. One that fails stays, and can be tried again with the same id. One is sent after another.
  const pending = new Map(); // what is not stored yet, by its bubble
  let isSending = false;
  const newClientId = () => [...crypto.getRandomValues(new Uint8Array(12))] // randomUUID is missing without TLS
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const makeBubble = (clientId, text) => {
    const bubble = document.createElement("li");
    bubble.id = `c-${clientId}`;
    bubble.className = "msg msg--own";
    bubble.dataset.pending = "";
    const content = document.createElement("span");
    content.className = "msg__text";
    content.dir = "auto";
    content.textContent = text;
    bubble.append(content);
    messages.append(bubble);
    return bubble;
  };
  const fail = (bubble) => {
    bubble.dataset.pending = "failed";
    bubble.querySelector(".msg__failed")?.remove();
    const notice = document.createElement("p");
    notice.className = "msg__failed";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "link";
    button.textContent = thread.dataset.again;
    button.addEventListener("click", () => {
      notice.remove();
      bubble.dataset.pending = "";
      sendAll();
    });
    notice.append(`${thread.dataset.failed} `, button);
    bubble.append(notice);
  };
  // What was refused goes back into the box; beside something else that was typed meanwhile, it stays a bubble.
  const giveBack = (bubble, message) => {
    if (body.value) {
      fail(bubble);
      return;
    }
    body.value = message.body;
    replyTo.value = message.reply_to;
    quoted.hidden = !message.reply_to;
    pending.delete(bubble);
    bubble.remove();
    body.focus();
  };
  const sendAll = async () => {
    if (isSending) return;
    isSending = true;
    for (;;) {
      const [bubble, message] = [...pending].find(([each]) => each.dataset.pending === "") ?? [];
      if (!bubble) break;
      bubble.dataset.pending = "sending";
      const hasGap = laterLink();
      const swap = { target: messages, swap: hasGap ? "none" : UPSERT };
      const status = await request("POST", "messages", { values: { ...message, seen: seenUpTo || "", revision }, ...swap });
      if (status && status < 300) {
        pending.delete(bubble);
        bubble.remove();
        if (hasGap) location.assign(`${path}?before=${Number.MAX_SAFE_INTEGER}`);
      } else if ([409, 422, 429].includes(status)) {
        if (status === 409) message.client_id = newClientId();
        giveBack(bubble, message);
      } else if (bubble.isConnected) fail(bubble); // unless the changes have brought it
      else pending.delete(bubble);
    }
    isSending = false;
  };
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!body.value.trim() || body.readOnly) return;
    const message = { csrf_token: token.value, body: body.value, client_id: newClientId(), reply_to: replyTo.value };
    pending.set(makeBubble(message.client_id, message.body), message);
    body.value = "";
    document.getElementById("composer-errors").textContent = "";
    stopReplying();
    clearTimeout(draftTimer);
    revision = nextRevision();
    log.scrollTop = 0;
    sendAll();
  }, true);
  body.addEventListener("keydown", (event) => {
    const isEnter = event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
    if (!isEnter || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    composer.requestSubmit();
  });

  // Drafts, kept by the server for every device; and by this tab, in case that it is loaded again.
  const MAX_DRAFT = 4 * Number(body.dataset.max);
  let revision = Number(composer.dataset.revision);
  let draftTimer = 0;
  const nextRevision = () => Math.max(Date.now(), revision + 1);
  const saveDraft = async (wait = 1000) => {
    draftTimer = 0;
    if (body.value.length > MAX_DRAFT) return;
    revision = nextRevision();
    const status = await request("POST", "draft", { values: { body: body.value, revision } });
    if (!status && !draftTimer) draftTimer = setTimeout(saveDraft, wait, Math.min(2 * wait, 30000));
  };
  const stored = `chat ${id}`;
  window.addEventListener("pagehide", () => {
    if (draftTimer || pending.size) storage?.setItem(stored, JSON.stringify({ text: body.value, unsent: [...pending.values()] }));
    if (!draftTimer || body.value.length > MAX_DRAFT) return;
    const values = new URLSearchParams({ csrf_token: token.value, body: body.value, revision: nextRevision() });
    fetch(`${path}/draft`, { method: "POST", body: values, keepalive: true, headers: { "HX-Request": "true" } }).catch(() => {});
  });
  window.addEventListener("beforeunload", (event) => { if (pending.size) event.preventDefault(); }); // the browser asks
  const restore = () => {
    const { text, unsent } = JSON.parse(storage?.getItem(stored) ?? "{}");
    storage?.removeItem(stored);
    body.value ||= text ?? "";
    (unsent ?? []).filter((message) => !messages.querySelector(`[data-client-id="${message.client_id}"]`)).forEach((message) => {
      const bubble = makeBubble(message.client_id, message.body);
      pending.set(bubble, { ...message, csrf_token: token.value });
      fail(bubble);
    });
  };

  const TYPING_MILLISECONDS = 4000;
  let toldAt = 0;
  let typingTimer = 0;
  body.addEventListener("input", () => {
    clearTimeout(draftTimer);
    draftTimer = setTimeout(saveDraft, 1000);
    if (!body.value || Date.now() - toldAt < TYPING_MILLISECONDS) return;
    toldAt = Date.now();
    request("POST", "typing");
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
  const showMessage = (message) => {
    message.scrollIntoView({ block: "center" });
    message.tabIndex = -1;
    message.focus({ preventScroll: true });
    message.dataset.found = "";
    setTimeout(() => { delete message.dataset.found; }, 2000);
  };
  thread.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    const reply = event.target.closest("[data-reply]");
    const quote = event.target.closest("[data-quote]");
    const found = quote && document.getElementById(`m-${quote.dataset.quote}`);
    if (!reply && !found && !event.target.closest("[data-no-reply]")) return;
    event.preventDefault();
    if (found) {
      showMessage(found);
      return;
    }
    stopReplying();
    if (reply) {
      const message = reply.closest("[data-message]");
      replyTo.value = message.dataset.message;
      quoted.querySelector("[data-quoted]").textContent = message.querySelector("[data-body]").textContent;
      quoted.hidden = false;
      reply.closest("[popover]")?.hidePopover();
    }
    body.focus();
  });
  messages.addEventListener("keydown", (event) => {
    if (event.key === "Escape") event.target.closest("[data-editor]")?.querySelector("[data-cancel]").click();
  });

  restore();
  arrange();
  document.getElementById("new")?.scrollIntoView({ block: "start" });
  markRead();
});
