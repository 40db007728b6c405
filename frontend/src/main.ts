/** The one script of the pages. The body's data-page says which part of it a page needs. */
import "./htmx";
import { watchAnswers } from "./answers";
import { watchServer } from "./away";
import { showComparison } from "./compare";
import { showDataset } from "./dataset";
import { openDropZones } from "./drop";
import { showList } from "./list";
import { showNewRun } from "./new-run";
import { showRun } from "./run";
import { openSearch } from "./search";
import { openSettings } from "./settings";
import { openShell } from "./shell";
import { keepTimes } from "./times";

const body = document.body;
watchServer();
watchAnswers();
openShell();
openSearch();
keepTimes();
openDropZones();
openSettings();
if (body.dataset.page === "list") showList();
if (body.dataset.page === "dataset") showDataset();
if (body.dataset.page === "run") showRun(body);
if (body.dataset.page === "compare") showComparison();
if (body.dataset.page === "new-run") showNewRun();
