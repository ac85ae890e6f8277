// Before the page is drawn, so that nothing flashes: scripts run here, and the theme that was chosen last.
document.documentElement.classList.add("js");
try {
  const kept = localStorage.getItem("resproto-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch { /* a browser that keeps nothing for files */ }
