/** Small helpers for pages drawn by the server. */
import { word } from "./words";

export const find = <T extends HTMLElement = HTMLElement>(selector: string, inside: ParentNode = document) =>
  inside.querySelector<T>(selector);

export function setText(selector: string, text: string, inside: ParentNode = document): void {
  const target = find(selector, inside);
  if (target && target.textContent !== text) target.textContent = text;
}

/** The key belongs to an input method, which makes a character of it or chooses one; Safari tells of the last only by its code. */
export const composes = (event: KeyboardEvent): boolean => event.isComposing || event.keyCode === 229;

/** Headers that a request needs to change something. */
export const guarded = (): Record<string, string> => ({ "X-CSRF-Token": document.body.dataset.csrf ?? "" });

/** Runs `work` once, a while after the last call, and at the latest `most` after the first. */
export function settle(work: () => void, wait: number, most: number): () => void {
  let timer = 0;
  let first = 0;
  return () => {
    const now = performance.now();
    if (!timer) first = now;
    clearTimeout(timer);
    timer = setTimeout(
      () => {
        timer = 0;
        work();
      },
      Math.min(wait, Math.max(0, first + most - now)),
    );
  };
}

/** A copy of what a `<template>` holds. */
export function fromTemplate(id: string): HTMLElement {
  const template = document.getElementById(id) as HTMLTemplateElement;
  return template.content.firstElementChild!.cloneNode(true) as HTMLElement;
}

export async function getJson<T>(address: string, signal?: AbortSignal): Promise<T> {
  const answer = await fetch(address, { signal: signal ?? null, headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return (await answer.json()) as T;
}

/** The time of day where the reader is, `short` without seconds. */
export function clock(at: string, length = ""): string {
  const form: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (length !== "short") form.second = "2-digit";
  return new Date(at).toLocaleTimeString(document.documentElement.lang, form);
}

/** Says so where it was asked. Over plain HTTP in a network the browser offers no clipboard, and nothing is said. */
export async function copyText(text: string, asked: HTMLElement): Promise<void> {
  if (!navigator.clipboard) return;
  await navigator.clipboard.writeText(text);
  asked.dataset.copied = word("copied");
  setTimeout(() => delete asked.dataset.copied, 1500);
}

/** Fill the ruler that stands inside up to this share of its length. */
export function moveRuler(inside: ParentNode, share: number): void {
  const x = `${(100 * Math.min(1, share)).toFixed(2)}%`;
  inside.querySelector("[data-stroke]")?.setAttribute("width", x);
  for (const end of ["x1", "x2"]) inside.querySelector("[data-needle]")?.setAttribute(end, x);
  inside.querySelector("[data-head]")?.setAttribute("x", x);
}
