// The menus of messages. Without this file, their buttons open them.
"use strict";

const openMenus = ({ messages, on }) => {
  // The menu of a message opens by its button, with the right mouse button, the menu key, or a long press: when the
  // button or finger is up, which would close it again.
  const LONG_PRESS_MILLISECONDS = 500;
  const CLICK_MILLISECONDS = 100; // in which a touch becomes a click
  let isPointerDown = false;
  let pendingMenu = null; // opens when the pointer is up: its id and position
  let longPressTimer = 0;
  const openMenu = ({ id: menuId, clientX, clientY }) => {
    pendingMenu = null;
    const menu = document.getElementById(menuId); // the message may have been replaced
    if (!menu || menu.matches(":popover-open")) return;
    menu.showPopover();
    const { width, height } = menu.getBoundingClientRect();
    const [left, top] = [Math.min(clientX, innerWidth - width - 8), Math.min(clientY, innerHeight - height - 8)];
    Object.assign(menu.style, { positionArea: "none", margin: 0, inset: `${Math.max(top, 8)}px auto auto ${Math.max(left, 8)}px` });
    menu.querySelector("a, button").focus();
  };
  const findMenu = ({ target, clientX, clientY }) => {
    const menu = target.closest("a, textarea, .menu") ? null : target.closest("[data-message]")?.querySelector("[popover]");
    return menu && { id: menu.id, clientX, clientY };
  };
  on(messages, "contextmenu", (event) => {
    const here = getSelection().isCollapsed && findMenu(event);
    if (!here) return;
    event.preventDefault();
    pendingMenu = here;
    if (!isPointerDown) openMenu(pendingMenu);
  });
  on(messages, "pointerdown", (event) => {
    isPointerDown = true;
    pendingMenu = null;
    clearTimeout(longPressTimer);
    if (event.pointerType === "touch") longPressTimer = setTimeout(() => { pendingMenu = findMenu(event); }, LONG_PRESS_MILLISECONDS);
  });
  const openPendingMenu = () => { if (pendingMenu) openMenu(pendingMenu); };
  on(document, "pointerup", ({ pointerType }) => {
    isPointerDown = false;
    clearTimeout(longPressTimer);
    setTimeout(openPendingMenu, pointerType === "touch" ? CLICK_MILLISECONDS : 0);
  });
  on(messages, "click", (event) => {
    if (!pendingMenu) return;
    event.preventDefault();
    openPendingMenu();
  }, { capture: true });
  on(document, "pointercancel", () => { // the log is scrolled
    isPointerDown = false;
    pendingMenu = null;
    clearTimeout(longPressTimer);
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
