// The menus of messages. Without this file, their buttons open them.
"use strict";

const openMenus = ({ messages, on }) => {
  // The menu of a message opens by its button, with the right mouse button, the menu key, or a long press: when the
  // button or finger is up, which would close it again.
  const HOLD_MILLISECONDS = 500;
  const CLICK_MILLISECONDS = 100; // in which a touch becomes a click
  let isDown = false;
  let held = null; // the menu that is to open, and where
  let holdTimer = 0;
  const openMenu = ({ id: menuId, clientX, clientY }) => {
    held = null;
    const menu = document.getElementById(menuId); // the message may have been replaced
    if (!menu || menu.matches(":popover-open")) return;
    menu.showPopover();
    const { width, height } = menu.getBoundingClientRect();
    const [left, top] = [Math.min(clientX, innerWidth - width - 8), Math.min(clientY, innerHeight - height - 8)];
    Object.assign(menu.style, { positionArea: "none", margin: 0, inset: `${Math.max(top, 8)}px auto auto ${Math.max(left, 8)}px` });
    menu.querySelector("a, button").focus();
  };
  const hold = ({ target, clientX, clientY }) => {
    const menu = target.closest("a, textarea, .menu") ? null : target.closest("[data-message]")?.querySelector("[popover]");
    return menu && { id: menu.id, clientX, clientY };
  };
  on(messages, "contextmenu", (event) => {
    const here = getSelection().isCollapsed && hold(event);
    if (!here) return;
    event.preventDefault();
    held = here;
    if (!isDown) openMenu(held);
  });
  on(messages, "pointerdown", (event) => {
    isDown = true;
    held = null;
    clearTimeout(holdTimer);
    if (event.pointerType === "touch") holdTimer = setTimeout(() => { held = hold(event); }, HOLD_MILLISECONDS);
  });
  const openHeld = () => { if (held) openMenu(held); };
  on(document, "pointerup", ({ pointerType }) => {
    isDown = false;
    clearTimeout(holdTimer);
    setTimeout(openHeld, pointerType === "touch" ? CLICK_MILLISECONDS : 0);
  });
  on(messages, "click", (event) => {
    if (!held) return;
    event.preventDefault();
    openHeld();
  }, { capture: true });
  on(document, "pointercancel", () => { // the log is scrolled
    isDown = false;
    held = null;
    clearTimeout(holdTimer);
  });
  on(window, "resize", () => messages.querySelector(".menu:popover-open")?.hidePopover());
  on(messages, "toggle", (event) => { if (event.newState === "closed") event.target.removeAttribute("style"); }, { capture: true });
  on(messages, "click", (event) => {
    if (!event.target.closest("[data-copy-message]")) return;
    copyText(event.target.closest("[data-message]").querySelector("[data-body]").textContent);
    event.target.closest("[popover]").hidePopover();
  });
  on(messages, "keydown", (event) => {
    if (event.key === "Escape") event.target.closest("[data-editor]")?.querySelector("[data-cancel]").click();
  });
};
