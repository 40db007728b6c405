/** Reading in the background: followed by asking now and then, since it goes on without anybody looking. */
import { guarded } from "./dom";
import { type Problem, pause, Refused, request } from "./upload";
import { size, word } from "./words";

const LOOK_MS = 700;
const OVER = [401, 404]; // nobody is signed in, or it is there no more: asking goes nowhere

export type Operation = {
  id: string;
  dataset: string;
  state: "running" | "succeeded" | "failed" | "cancelled";
  done: number;
  total: number | null;
  error?: { message: string; hint?: string; where?: string; code?: string; problems?: Problem[] };
};

/** Ends when the reading has succeeded. Raises `Refused` where it failed or was called off. */
export async function follow(
  address: string,
  signal: AbortSignal,
  moved: (share: number, said: string) => void,
): Promise<void> {
  for (;;) {
    const now = await look(address, signal);
    if (now?.state === "succeeded") return;
    if (now && now.state !== "running") throw refused(now);
    if (now) moved(now.total ? now.done / now.total : 0, said(now));
    await pause(LOOK_MS, signal);
  }
}

/** How far it is, or what it waits for; nothing where neither is known. */
function said({ done, total, error }: Operation): string {
  return error?.message ?? (total ? word("sent_of", { sent: size(done), total: size(total) }) : "");
}

async function look(address: string, signal: AbortSignal): Promise<Operation | undefined> {
  try {
    return (await (await request(address, "GET", {}, signal)).json()) as Operation;
  } catch (error) {
    if (signal.aborted || (error instanceof Refused && OVER.includes(error.status))) throw error;
    return undefined; // the line is lost: the reading goes on, and so does the asking
  }
}

function refused({ error, state }: Operation): Refused {
  const message = state === "cancelled" ? word("called_off") : (error?.message ?? word("try_again"));
  return new Refused(422, error?.hint ?? "", error?.problems ?? [], message, error?.code, error?.where);
}

export const callOff = (address: string) => fetch(`${address}/cancel`, { method: "POST", headers: guarded() });
