/** The one script of the pages. The body's data-page says which part of it a page needs. */
import "./htmx";
import { openDropZones } from "./drop";
import { showList } from "./list";
import { showRun } from "./run";
import { openSettings } from "./settings";
import { openShell } from "./shell";

const body = document.body;
openShell();
openDropZones();
openSettings();
if (body.dataset.page === "list") showList();
if (body.dataset.page === "run") showRun(body);
