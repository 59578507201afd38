// Runs in the head, before anything is painted: Tabler asks for the theme as an attribute, also where the browser decides.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const wanted = root.dataset.theme || "auto";
    root.dataset.bsTheme = wanted === "auto" ? (dark.matches ? "dark" : "light") : wanted;
    document.dispatchEvent(new CustomEvent("ark:themed"));
  };
  apply();
  dark.addEventListener("change", apply);
  document.addEventListener("ark:theme", apply);
})();
