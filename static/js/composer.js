// The composer of a conversation: sending, replies, drafts, typing. Without this file it is a plain form.
"use strict";

const newClientId = () => [...crypto.getRandomValues(new Uint8Array(12))] // randomUUID is missing without TLS
  .map((byte) => byte.toString(16).padStart(2, "0")).join("");

const openComposer = (chat) => {
  const { id, path, thread, log, messages, on, request, laterLink } = chat;
  const composer = document.getElementById("composer");
  const { body, reply_to: replyTo, csrf_token: token } = composer.elements;
  const errors = document.getElementById("composer-errors");

  // Replies. Whether one can write may change, and the message that one answers may be deleted.
  const quoted = document.getElementById("quoted");
  const stopReplying = () => { replyTo.value = ""; quoted.hidden = true; };
  const startReplying = (message) => {
    replyTo.value = message.dataset.message;
    quoted.querySelector("[data-quoted]").textContent = message.querySelector("[data-body]").textContent;
    quoted.hidden = false;
  };
  on(thread, "click", (event) => {
    const reply = event.target.closest("[data-reply]");
    if (!reply && !event.target.closest("[data-no-reply]")) return;
    event.preventDefault();
    reply?.closest("[popover]").hidePopover();
    if (reply) startReplying(reply.closest("[data-message]"));
    else stopReplying();
    body.focus();
  });
  on(document, "htmx:after:swap", () => {
    if (!thread.isConnected) return;
    body.readOnly = document.getElementById("chat-state").hasAttribute("data-read-only");
    composer.querySelector(".btn--primary").disabled = body.readOnly;
    if (document.getElementById(`m-${replyTo.value}`)?.hasAttribute("data-deleted")) stopReplying();
    [...pending].filter(([, message]) => isStored(message)).forEach(([bubble]) => drop(bubble));
    clearDraftSentElsewhere();
  });
  // A draft that is on several devices, and was sent from another one.
  const newestOwn = () => [...messages.querySelectorAll(":scope > [data-own]")].at(-1);
  let seenOwn = newestOwn()?.id;
  const clearDraftSentElsewhere = () => {
    const own = newestOwn();
    if (!own || own.id === seenOwn) return;
    seenOwn = own.id;
    const isFromHere = sentIds.has(own.dataset.clientId);
    if (!isFromHere && !isUnsaved && own.querySelector("[data-body]")?.textContent === body.value.trim()) body.value = "";
  };

  // Sending: the text moves from the box into a bubble, which is replaced by the stored message, whichever answer brings
  // it. One that fails stays, and can be tried again with the same id. One is sent after another.
  const pending = new Map(); // what is not stored yet, by its bubble
  const sentIds = new Set();
  const toRetry = new Set(); // bubbles that failed since the network or the server was away
  let isSending = false;
  const addBubble = (message, state) => {
    const bubble = document.getElementById("bubble").content.firstElementChild.cloneNode(true);
    const last = messages.lastElementChild;
    const isRecent = Date.now() - new Date(last?.dataset.time ?? Date.now()) < GROUP_MINUTES * 60000;
    bubble.toggleAttribute("data-first", !(isRecent && last?.matches("[data-own], [data-pending]")));
    bubble.querySelector("[data-time-now]").textContent = shortTime(new Date());
    bubble.id = `c-${message.client_id}`;
    sentIds.add(message.client_id);
    bubble.dataset.pending = state;
    bubble.querySelector("[data-text]").textContent = message.body;
    messages.append(bubble);
    pending.set(bubble, message);
  };
  const isStored = (message) => messages.querySelector(`[data-client-id="${message.client_id}"]`);
  const drop = (bubble) => { pending.delete(bubble); bubble.remove(); };
  on(messages, "click", (event) => {
    const bubble = event.target.closest("[data-pending]");
    if (event.target.closest("[data-discard]")) {
      drop(bubble);
      body.focus();
    }
    if (!event.target.closest("[data-again]")) return;
    bubble.dataset.pending = "waiting";
    sendAll();
  });
  on(document, "htmx:sse:after:connection", () => {
    toRetry.forEach((bubble) => { if (bubble.isConnected) bubble.dataset.pending = "waiting"; });
    toRetry.clear();
    sendAll();
  });
  // A refused message returns to the box, unless something else was typed there: then it stays a failed bubble.
  const returnToBox = (bubble, message) => {
    if (body.value) {
      bubble.dataset.pending = "failed";
      return;
    }
    body.value = message.body;
    replyTo.value = message.reply_to;
    quoted.hidden = !message.reply_to;
    drop(bubble);
    saveSoon();
    body.focus();
  };
  const sendAll = async () => {
    if (isSending) return;
    isSending = true;
    for (;;) {
      const [bubble, message] = [...pending].find(([each]) => each.dataset.pending === "waiting") ?? [];
      if (!bubble) break;
      bubble.dataset.pending = "sending";
      const hasGap = laterLink();
      const swap = { target: messages, swap: hasGap || conversation !== chat ? "none" : UPSERT };
      const status = await request("POST", "/messages", { values: { ...message, seen: chat.seenUpTo || "" }, ...swap });
      if (status && status < 300) {
        drop(bubble);
        if (hasGap) chat.showNewest();
      } else if ([409, 422, 429].includes(status)) {
        if (status === 409) message.client_id = newClientId();
        returnToBox(bubble, message);
      } else if (bubble.isConnected) { // unless the changes have brought it
        bubble.dataset.pending = "failed";
        toRetry.add(bubble);
      } else pending.delete(bubble);
    }
    isSending = false;
  };
  on(composer, "submit", (event) => {
    clearTimeout(draftTimer);
    isUnsaved = false;
    if (!window.htmx) return; // it did not arrive, so the form is a plain one
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!body.value.trim() || body.readOnly) return;
    revision = nextRevision();
    const message = { body: body.value, client_id: newClientId(), reply_to: replyTo.value, revision };
    addBubble({ csrf_token: token.value, ...message }, "waiting");
    body.value = "";
    errors.textContent = "";
    stopReplying();
    log.scrollTop = 0;
    sendAll();
  }, { capture: true });
  on(thread, "keydown", (event) => {
    const isEnter = event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
    if (!isEnter || !event.target.matches("textarea") || matchMedia("(pointer: coarse)").matches) return;
    event.preventDefault();
    event.target.form.requestSubmit();
  });
  // Or the focus would leave the box, and a phone's keyboard close.
  on(composer.querySelector(".btn--primary"), "mousedown", (event) => event.preventDefault());

  // Drafts, kept by the server for every device; and by this tab, in case that it is loaded again.
  const MAX_DRAFT = 4 * Number(body.dataset.max);
  let revision = Number(composer.dataset.revision);
  let isUnsaved = false;
  let draftTimer = 0;
  const nextRevision = () => Math.max(Date.now(), revision + 1);
  const saveDraft = async (wait = 1000) => {
    if (conversation !== chat || body.value.length > MAX_DRAFT) return;
    const text = body.value;
    revision = nextRevision();
    const status = await request("POST", "/draft", { values: { body: text, revision } });
    if (conversation !== chat || body.value !== text) return; // left or typed meanwhile: it is saved again
    isUnsaved = !((status >= 200 && status < 300) || status === 422);
    if (isUnsaved) draftTimer = setTimeout(saveDraft, wait, Math.min(2 * wait, 30000));
  };
  const saveSoon = () => {
    isUnsaved = true;
    clearTimeout(draftTimer);
    draftTimer = setTimeout(saveDraft, 1000);
  };
  on(body, "input", () => {
    errors.textContent = "";
    saveSoon();
  });
  const stored = `chat ${id} of ${meta("user")}`;
  chat.saveUnsent = () => {
    clearTimeout(draftTimer);
    if (isUnsaved) revision = nextRevision();
    // A draft that the server has saved is kept, too: the next page may have been rendered before that.
    const isChanged = revision > Number(composer.dataset.revision);
    const draft = { replyTo: replyTo.value, ...(isChanged && { text: body.value, revision }) };
    if (isChanged || replyTo.value || pending.size) storage?.setItem(stored, JSON.stringify({ ...draft, unsent: [...pending.values()] }));
    if (!isUnsaved || body.value.length > MAX_DRAFT) return;
    const values = new URLSearchParams({ csrf_token: token.value, body: body.value, revision });
    fetch(`${path}/draft`, { method: "POST", body: values, keepalive: true, headers: { "HX-Request": "true" } }).catch(() => {});
  };
  on(window, "pagehide", chat.saveUnsent);
  on(window, "beforeunload", (event) => { if (pending.size || isEditing()) event.preventDefault(); }); // the browser asks
  const restore = () => {
    const { text, revision: storedRevision, replyTo: answered, unsent } = JSON.parse(storage?.getItem(stored) ?? "{}");
    storage?.removeItem(stored);
    if (storedRevision > revision) {
      body.value = text;
      saveSoon();
    }
    const message = document.getElementById(`m-${answered}`);
    if (message?.querySelector("[data-body]")) startReplying(message);
    (unsent ?? []).filter((message) => !isStored(message)).forEach((message) => addBubble({ ...message, csrf_token: token.value }, "failed"));
  };

  const TYPING_MILLISECONDS = 5000;
  const typing = document.getElementById("typing");
  let typingTimer = 0;
  on(document, "typing", (event) => {
    const [changed, publicId] = event.detail.data.split(" ");
    if (changed !== id) return;
    const author = messages.querySelector(`[data-author="${CSS.escape(publicId)}"] .msg__author`)?.textContent;
    const name = chat.isGroup ? author ?? publicId : document.getElementById("h-thread").textContent;
    const text = typing.querySelector("[data-text]");
    text.textContent = text.dataset.text.replace("{}", name);
    typing.toggleAttribute("data-shown", true);
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => typing.removeAttribute("data-shown"), TYPING_MILLISECONDS);
  });

  // iOS lays its keyboard over the page; elsewhere the page becomes smaller (interactive-widget in base.html).
  const KEYBOARD_HEIGHT = 100; // at least
  on(visualViewport, "resize", () => {
    const isCovered = visualViewport.scale === 1 && innerHeight - visualViewport.height > KEYBOARD_HEIGHT;
    thread.style.blockSize = isCovered ? `${visualViewport.height}px` : "";
    if (isCovered) scrollTo(0, 0);
  });

  restore();
  const canFocus = [document.body, document.getElementById("h-thread")].includes(document.activeElement);
  if (canFocus && matchMedia("(hover: hover)").matches) body.focus({ preventScroll: true });
};
