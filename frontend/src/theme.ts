/** Sets the remembered theme before the first paint; without one the system decides. Loaded in <head>, before the body. */
const saved = localStorage.getItem("theme");
if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
