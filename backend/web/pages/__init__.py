"""The pages, one file a place. Each route reads what its page shows, and hands it to the template in `contexts`."""

from __future__ import annotations

from backend.web.pages import (
    compare,
    dataset,
    datasets,
    door,
    home,
    models,
    new_run,
    people,
    recipes,
    run_list,
    runs,
    search,
    settings,
    several,
    upkeep,
)

PAGES = (
    door,
    home,
    datasets,
    dataset,
    models,
    new_run,
    run_list,
    several,
    runs,
    compare,
    recipes,
    search,
    settings,
    people,
    upkeep,
)
