// The key form: what is chosen shows its fields, and ticked endpoints stay while the search goes on.
// Listens on the document, since the form arrives by htmx, on any page that offers to create a key.
const reveal = (form) => {
  for (const part of form.querySelectorAll("[data-when-reach], [data-when-expiry]")) {
    const { whenReach, whenExpiry } = part.dataset;
    part.hidden = whenReach
      ? form.querySelector("[name=reach]:checked")?.value !== whenReach
      : form.querySelector("[name=expiry]")?.value !== whenExpiry;
  }
};
const revealAll = () => document.querySelectorAll("form").forEach(reveal);

document.addEventListener("change", (event) => {
  const form = event.target.form;
  if (!form) return;
  if (event.target.matches("[name=reach], [name=expiry]")) reveal(form);
  if (event.target.matches("#scope-options [name=scope]:checked")) {
    const chosen = form.querySelector("#scope-chosen");
    const same = [...chosen.querySelectorAll("[name=scope]")].find((box) => box.value === event.target.value);
    if (same) {
      same.checked = true;
      event.target.closest("label").remove();
    } else {
      chosen.append(event.target.closest("label"));
    }
  }
});
document.body.addEventListener("htmx:afterSwap", revealAll);
// Enter in the search must not send the form.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.id === "scope-find") event.preventDefault();
});
// A key pasted into a search is cut to the beginning that its row shows before it is sent: addresses are kept everywhere.
document.addEventListener("input", (event) => {
  if (!event.target.matches("[name=q]")) return;
  const cut = event.target.value.replace(/(sk-ark-\w{4})\w+/, "$1");
  if (cut !== event.target.value) event.target.value = cut;
});
revealAll();
