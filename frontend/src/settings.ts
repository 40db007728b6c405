/** What the settings do beside their forms: a button that shows once there is something to save, the theme, copying. */
import { copyText } from "./dom";

export function openSettings(): void {
  for (const form of document.querySelectorAll<HTMLFormElement>("form[data-changes]")) showWhenChanged(form);
  for (const shown of document.querySelectorAll<HTMLElement>("[data-link]"))
    shown.textContent = new URL(shown.dataset.link!, location.href).href; // a link to send says where it leads
  for (const button of document.querySelectorAll<HTMLButtonElement>("[data-copies]"))
    button.addEventListener("click", () => void copy(button));
  document.querySelector(".side > nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  const themes = document.querySelector<HTMLElement>("[data-themes]");
  if (themes) offerThemes(themes);
}

function showWhenChanged(form: HTMLFormElement): void {
  const select = form.querySelector("select")!;
  const button = form.querySelector("button")!;
  const show = () => {
    button.hidden = [...select.options].every((option) => option.selected === option.defaultSelected);
  };
  select.addEventListener("change", show);
  show();
}

async function copy(button: HTMLButtonElement): Promise<void> {
  const from = document.getElementById(button.dataset.copies!)!;
  await copyText(from.textContent.trim(), button);
  if (!navigator.clipboard) getSelection()?.selectAllChildren(from);
}

function offerThemes(group: HTMLElement): void {
  const root = document.documentElement;
  const buttons = [...group.querySelectorAll("button")];
  const show = () => {
    for (const button of buttons) button.ariaPressed = String(button.value === (root.dataset.theme ?? ""));
  };
  group.addEventListener("click", ({ target }) => {
    if (!(target instanceof HTMLButtonElement)) return;
    if (target.value) root.dataset.theme = target.value;
    else delete root.dataset.theme;
    if (target.value) localStorage.setItem("theme", target.value);
    else localStorage.removeItem("theme");
  });
  new MutationObserver(show).observe(root, { attributeFilter: ["data-theme"] });
  show();
}
