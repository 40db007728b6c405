/** What a person sees of a run without looking at its page: the tab's title, and a word from the browser when it ends. */
import { find } from "./dom";
import { stateWord, word } from "./words";

const MARKS: Record<string, string> = { succeeded: "✓", failed: "✕", stopped: "■", paused: "❚❚" };
const plain = document.title;

/** `63 % · name`, or how it ended. */
export function showInTitle(state: string, step: number, total: number): void {
  const share = total > 0 ? `${Math.floor((100 * step) / total)} % · ` : "";
  const mark = MARKS[state];
  document.title = (mark ? `${mark} ` : share) + plain;
}

/** A run's wish to be told, kept for as long as the tab is open. */
export class Bell {
  private key: string;

  constructor(
    run: string,
    private name: string,
  ) {
    this.key = `tell ${run}`;
    if (!("Notification" in window)) return; // plain HTTP in a network
    document.addEventListener("click", ({ target }) => {
      if (target instanceof Element && target.closest("[data-notify]")) void this.press();
    });
    this.show();
  }

  ring(state: string): void {
    if (!this.isOn) return;
    sessionStorage.removeItem(this.key);
    const told = new Notification(`${this.name}: ${stateWord(state)}`, { tag: this.key });
    told.onclick = () => window.focus();
  }

  /** The button as it stands; the server draws it anew with the page's head. */
  show(): void {
    const button = find("[data-notify]");
    if (!button || !("Notification" in window)) return;
    button.hidden = false;
    button.setAttribute("aria-pressed", String(this.isOn));
    const isRefused = Notification.permission === "denied";
    const text = isRefused ? word("bell_refused") : this.isOn ? word("bell_on") : word("bell_off");
    find("span", button)!.textContent = text;
    (button as HTMLButtonElement).disabled = isRefused;
  }

  private get isOn(): boolean {
    return Notification.permission === "granted" && sessionStorage.getItem(this.key) === "yes";
  }

  private async press(): Promise<void> {
    if (this.isOn) sessionStorage.removeItem(this.key);
    else if ((await Notification.requestPermission()) === "granted") sessionStorage.setItem(this.key, "yes");
    this.show();
  }
}
