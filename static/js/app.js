// What every page can do: menus, dialogs, copy, toasts, keys, busy buttons, and a sentence when the server is away.
// Everything here improves pages that work without it. No page may rely on the order in which modules load.

const root = document.documentElement;
const words = document.getElementById("ark-words")?.dataset ?? {};
const cookie = (name, value) => {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${name}=${encodeURIComponent(value)}; path=/; max-age=31536000; samesite=lax${secure}`;
};

// --- the browser's time zone, for people who have not chosen one ------------------------------------------------------
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && root.dataset.zoneCookie) cookie(root.dataset.zoneCookie, zone);

// --- theme --------------------------------------------------------------------------------------------------------------
document.addEventListener("submit", (event) => {
  const form = event.target.closest("form[data-theme-form]");
  if (!form) return;
  event.preventDefault();
  const next = root.dataset.bsTheme === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  cookie(root.dataset.themeCookie, next);
  document.dispatchEvent(new CustomEvent("ark:theme"));
});
const nameTheme = () => {
  for (const button of document.querySelectorAll("form[data-theme-form] button")) {
    const label = root.dataset.bsTheme === "dark" ? button.dataset.whenDark : button.dataset.whenLight;
    button.setAttribute("aria-label", label);
    button.title = label;
  }
};
nameTheme();
document.addEventListener("ark:themed", nameTheme);

// --- toasts -------------------------------------------------------------------------------------------------------------
const toasts = document.getElementById("ark-toasts");
const toast = ({ message, level = "success" }) => {
  if (!toasts || !message) return;
  const item = document.createElement("div");
  item.className = `ark-toast ark-toast-${level}`;
  const text = document.createElement("span");
  text.textContent = message;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "ark-copy";
  close.setAttribute("aria-label", words.close ?? "Close");
  close.textContent = "×";
  close.addEventListener("click", () => item.remove());
  item.append(text, close);
  // Above an open modal dialog only the top layer is seen: the region is re-shown there.
  if (toasts.popover) {
    if (toasts.matches(":popover-open")) toasts.hidePopover();
    toasts.showPopover();
  }
  toasts.append(item);
  // Errors stay until they are read.
  if (level !== "error") setTimeout(() => item.remove(), 6000);
};
document.body.addEventListener("toast", (event) => toast(event.detail));
for (const waiting of document.querySelectorAll("[data-toast]")) {
  toast({ message: waiting.textContent.trim(), level: waiting.dataset.toast });
  waiting.remove();
}

// --- copy ---------------------------------------------------------------------------------------------------------------
const copyText = async (text) => {
  if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(text);
  // Plain http on another host than localhost has no clipboard API; a selection still has.
  const area = document.createElement("textarea");
  area.value = text;
  area.setAttribute("readonly", "");
  area.className = "ark-sr";
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("copy refused");
  return undefined;
};
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (!button) return;
  event.preventDefault();
  const source = button.dataset.copyFrom ? document.getElementById(button.dataset.copyFrom) : null;
  try {
    await copyText(source ? (source.value ?? source.textContent) : button.dataset.copy);
    button.classList.add("is-done");
    say(words.copied);
    setTimeout(() => button.classList.remove("is-done"), 1500);
  } catch {
    toast({ message: words.copyFailed, level: "error" });
  }
});
const voice = document.getElementById("ark-voice");
const say = (text) => {
  if (!voice) return;
  voice.textContent = "";
  requestAnimationFrame(() => (voice.textContent = text ?? ""));
};

// --- tabs: the current one is in sight, also where the row is wider than the screen --------------------------------------
for (const tab of document.querySelectorAll(".ark-tabs [aria-current]")) {
  const row = tab.parentElement;
  const [box, own] = [row.getBoundingClientRect(), tab.getBoundingClientRect()];
  row.scrollLeft += own.left + own.width / 2 - (box.left + box.width / 2);
}

// --- menus: <details class="ark-menu"> -----------------------------------------------------------------------------------
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.ark-menu[open]")) {
    if (!menu.contains(event.target) || event.target.closest(".ark-menu-list a, .ark-menu-list button")) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  const menu = document.activeElement?.closest?.("details.ark-menu[open]");
  if (!menu) return;
  const summary = menu.querySelector("summary");
  if (event.key === "Escape") {
    menu.open = false;
    summary.focus();
    event.stopPropagation();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const items = [...menu.querySelectorAll(".ark-menu-list :is(a, button, input)")].filter((item) => item.offsetParent);
    const at = items.indexOf(document.activeElement);
    const step = event.key === "ArrowDown" ? 1 : -1;
    items[(at + step + items.length) % items.length]?.focus();
    event.preventDefault();
  }
});
document.addEventListener("input", (event) => {
  const filter = event.target.closest("[data-filter-list]");
  if (!filter) return;
  const wanted = filter.value.trim().toLowerCase();
  for (const item of document.getElementById(filter.dataset.filterList)?.children ?? []) {
    item.hidden = !item.textContent.toLowerCase().includes(wanted);
  }
});

// --- filters: the address names only what was chosen ---------------------------------------------------------------------
document.body.addEventListener("htmx:configRequest", ({ detail }) => {
  if (detail.verb !== "get" || !detail.elt.matches("form.ark-filters")) return;
  for (const [name, value] of [...detail.formData]) if (value === "") detail.formData.delete(name);
});

// --- dialogs ------------------------------------------------------------------------------------------------------------
const dialog = document.getElementById("dialog");
let opener = null;
document.addEventListener("click", (event) => {
  const open = event.target.closest("[data-dialog]");
  const target = open && document.getElementById(open.dataset.dialog);
  if (target) {
    event.preventDefault();
    target.showModal();
  }
  const close = event.target.closest("[data-close]");
  if (close?.closest("dialog")) {
    event.preventDefault();
    close.closest("dialog").close();
  }
  // A press on the backdrop closes; one that began inside (a selection dragged out) does not.
  if (event.target.matches?.("dialog.ark-dialog[open]") && !event.target.querySelector("[data-keep]") && event.detail > 0) {
    const box = event.target.getBoundingClientRect();
    const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
    if (!inside && pressedOn === event.target) event.target.close();
  }
});
let pressedOn = null;
document.addEventListener("pointerdown", (event) => (pressedOn = event.target));
document.body.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.target === dialog && !dialog.open) opener = event.detail.elt;
});
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (!dialog || (event.detail.target !== dialog && !dialog.contains(event.detail.target))) return;
  if (!dialog.open && dialog.childElementCount) dialog.showModal();
});
// Only now: htmx itself focuses what has [autofocus] while it settles.
document.body.addEventListener("htmx:afterSettle", (event) => {
  if (dialog?.contains(event.detail.target)) dialog.querySelector("[aria-invalid=true]")?.focus();
});
// What is shown only once is not lost by a stray Esc; its own button closes it.
dialog?.addEventListener("cancel", (event) => {
  if (dialog.querySelector("[data-keep]")) event.preventDefault();
});
dialog?.addEventListener("close", () => {
  dialog.replaceChildren();
  // What opened it may have been drawn anew meanwhile.
  const back = opener?.isConnected ? opener : opener?.id && document.getElementById(opener.id);
  if (back) back.focus();
  opener = null;
});
document.body.addEventListener("closeDialog", () => dialog?.open && dialog.close());

// --- keys ---------------------------------------------------------------------------------------------------------------
let pending = "";
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    document.getElementById("ark-search")?.focus();
    return;
  }
  if (typing) {
    if (event.key === "Escape" && event.target.id === "ark-search") event.target.blur();
    return;
  }
  if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (pending === "g") {
    pending = "";
    document.querySelector(`[data-key="${CSS.escape(event.key)}"]`)?.click();
    return;
  }
  if (event.key === "/") {
    event.preventDefault();
    (document.querySelector(".ark-filters input[type=search]") ?? document.getElementById("ark-search"))?.focus();
  } else if (event.key === "?") {
    document.getElementById("ark-keys")?.showModal();
  } else if (event.key === "g") {
    pending = "g";
    setTimeout(() => (pending = ""), 1000);
  }
});

// --- busy ---------------------------------------------------------------------------------------------------------------
const busy = (button, is) => {
  if (is) button?.setAttribute("aria-busy", "true");
  else button?.removeAttribute("aria-busy");
};
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.matches("[data-theme-form], [hx-get], [hx-post], [target]")) return;
  busy(event.submitter, true);
});
addEventListener("pageshow", () => document.querySelectorAll("[aria-busy=true]").forEach((button) => busy(button, false)));
const pressed = (event) => {
  const from = event.detail.elt;
  if (from.matches("button, a.btn")) return from;
  return event.detail.requestConfig?.triggeringEvent?.submitter ?? null;
};
document.body.addEventListener("htmx:beforeRequest", (event) => busy(pressed(event), true));
document.body.addEventListener("htmx:afterRequest", (event) => busy(pressed(event), false));

// --- the server is away -------------------------------------------------------------------------------------------------
const offline = document.getElementById("ark-offline");
let failed = null;
const isPoll = (event) => event.detail.elt?.getAttribute?.("hx-trigger")?.includes("every");
document.body.addEventListener("htmx:sendError", (event) => {
  offline.hidden = false;
  if (!isPoll(event)) failed = event.detail.elt;
});
document.body.addEventListener("htmx:afterOnLoad", () => (offline.hidden = true));
document.body.addEventListener("htmx:timeout", () => (offline.hidden = false));
document.getElementById("ark-retry")?.addEventListener("click", () => {
  if (failed?.isConnected && failed.matches("a, button")) failed.click();
  else if (failed?.isConnected && failed.matches("form")) failed.requestSubmit();
  else location.reload();
});
document.body.addEventListener("htmx:responseError", (event) => {
  // The server's own sentence comes as a toast in HX-Trigger; only an answer without one needs ours.
  if (event.detail.xhr.getResponseHeader("HX-Trigger")?.includes("toast") || isPoll(event)) return;
  toast({ message: `${words.failed ?? "Failed"} (${event.detail.xhr.status})`, level: "error" });
});
