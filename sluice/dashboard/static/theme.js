"use strict";
// Loaded before anything is drawn, so that a page does not flash in the other colours.
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  const apply = (theme) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
    document.dispatchEvent(new Event("theme"));
  };
  const system = () => apply(stored() ?? (dark.matches ? "dark" : "light"));
  system();
  dark.addEventListener("change", system);
  document.addEventListener("DOMContentLoaded", () => {
    system();
    document.getElementById("theme").addEventListener("click", () => {
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("theme", theme);
      } catch {
        // A browser that keeps nothing still changes colours.
      }
      apply(theme);
    });
  });
})();
