// Who changes the time means it: "until" is chosen with it. The dialog may come later, so the page listens.
document.addEventListener("input", (event) => {
  if (event.target.name !== "ends_at") return;
  const until = event.target.form?.querySelector("[name=span][value=until]");
  if (until) until.checked = true;
});
