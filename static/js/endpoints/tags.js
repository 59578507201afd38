// Tag rows of the create and edit forms: adds and removes rows without a round trip. Without this file the "add"
// button submits the form, which comes back with one more row.
(() => {
  "use strict";

  document.addEventListener("click", (event) => {
    const add = event.target.closest("[data-tags-add]");
    const remove = event.target.closest("[data-tags-remove]");
    if (add) {
      event.preventDefault();
      const rows = add.closest("[data-tags]").querySelector("[data-tags-rows]");
      const row = rows.querySelector("[data-tags-row]").cloneNode(true);
      for (const input of row.querySelectorAll("input")) input.value = "";
      for (const input of row.querySelectorAll("input")) input.removeAttribute("aria-invalid");
      rows.append(row);
      row.querySelector("input").focus();
    }
    if (remove) {
      event.preventDefault();
      const row = remove.closest("[data-tags-row]");
      const tags = row.closest("[data-tags]");
      if (row.parentElement.children.length === 1) for (const input of row.querySelectorAll("input")) input.value = "";
      else row.remove();
      tags.querySelector("[data-tags-add]").focus();
    }
  });
})();
