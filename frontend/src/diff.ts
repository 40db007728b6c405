/** What changed between two texts, word by word; in scripts without spaces, character by character. */

export type Part = { text: string; kind: "same" | "added" | "gone" };

const MOST = 1500; // pieces of one text: the table below has the product of both lengths
const THREAD = 3; // letters that are too few to hold two changes apart
const LITTLE = 0.4;
const PIECES =
  /\s+|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]|[\p{L}\p{N}\p{M}'’_-]+|./gsu;

/** The parts of both texts in reading order, what is gone before what came in its place. Texts too long to be compared are one change. */
export function differences(before: string, after: string): Part[] {
  const [old, now] = [pieces(before), pieces(after)];
  if (old.length > MOST || now.length > MOST) return whole(before, after);
  const kept = longestCommon(old, now);
  const parts: Part[] = [];
  let [i, j] = [0, 0];
  for (const [oldAt, nowAt] of [...kept, [old.length, now.length] as const]) {
    add(parts, "gone", old.slice(i, oldAt));
    add(parts, "added", now.slice(j, nowAt));
    if (oldAt < old.length) add(parts, "same", [old[oldAt]!]);
    [i, j] = [oldAt + 1, nowAt + 1];
  }
  return joined(parts);
}

const pieces = (text: string): string[] => text.match(PIECES) ?? [];

function whole(before: string, after: string): Part[] {
  const parts: Part[] = [];
  if (before === after) add(parts, "same", [after]);
  else {
    add(parts, "gone", [before]);
    add(parts, "added", [after]);
  }
  return parts;
}

function add(parts: Part[], kind: Part["kind"], texts: readonly string[]): void {
  const text = texts.join("");
  if (!text) return;
  const last = parts.at(-1);
  if (last?.kind === kind) last.text += text;
  else parts.push({ text, kind });
}

/** The places of a longest common sequence of pieces, from the table of its lengths. Spaces alone are no anchor worth having. */
function longestCommon(old: readonly string[], now: readonly string[]): [number, number][] {
  const width = now.length + 1;
  const lengths = new Uint16Array((old.length + 1) * width);
  for (let i = old.length - 1; i >= 0; i--) {
    for (let j = now.length - 1; j >= 0; j--) {
      const at = i * width + j;
      lengths[at] = old[i] === now[j] ? lengths[at + width + 1]! + 1 : Math.max(lengths[at + width]!, lengths[at + 1]!);
    }
  }
  const found: [number, number][] = [];
  let [i, j] = [0, 0];
  while (i < old.length && j < now.length) {
    if (old[i] === now[j]) found.push([i++, j++]);
    else if (lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!) i++;
    else j++;
  }
  return found;
}

/** Two texts of which little is common are better shown as one new one than as shreds of both. */
export function isOther(parts: readonly Part[]): boolean {
  const length = (kind: Part["kind"]) =>
    parts.filter((part) => part.kind === kind).reduce((n, { text }) => n + text.length, 0);
  return length("same") < LITTLE * (length("same") + length("gone"));
}

/** A space or a short word kept alone between two changes would tear them into shreds: it goes with them. */
function joined(parts: readonly Part[]): Part[] {
  const out: Part[] = [];
  let [gone, added] = ["", ""];
  const flush = () => {
    if (gone) out.push({ text: gone, kind: "gone" });
    if (added) out.push({ text: added, kind: "added" });
    [gone, added] = ["", ""];
  };
  parts.forEach((part, at) => {
    const isThread = part.kind === "same" && part.text.trim().length <= THREAD && at > 0 && at < parts.length - 1;
    if (part.kind === "gone" || isThread) gone += part.text;
    if (part.kind === "added" || isThread) added += part.text;
    if (part.kind !== "same" || isThread) return;
    flush();
    out.push({ ...part });
  });
  flush();
  return out;
}
